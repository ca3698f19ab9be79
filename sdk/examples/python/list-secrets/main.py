"""Lists the metadata of the secrets of a realm that have a tag.

AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
"""

import os

from tars.secret.v1 import secret_pb2

from agentrouter_sdk import Client

client = Client(base_url=os.environ["AGENTROUTER_BASE_URL"], api_key=os.environ["AGENTROUTER_API_KEY"])

req = secret_pb2.ListSecretsRequest(
    realm="llm-providers",
    tags={"env": "prod"},
    page_size=100,
)
try:
    print(client.secret.list_secrets(req))
except Exception as error:
    print("Error:", error)
