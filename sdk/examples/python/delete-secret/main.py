"""Deletes a secret with all its versions.

AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
"""

import os

from tars.secret.v1 import secret_pb2

from agentrouter_sdk import Client

client = Client(base_url=os.environ["AGENTROUTER_BASE_URL"], api_key=os.environ["AGENTROUTER_API_KEY"])

req = secret_pb2.DeleteSecretRequest(
    name="openai-api-key",
    realm="llm-providers",
)
try:
    print(client.secret.delete_secret(req))
except Exception as error:
    print("Error:", error)
