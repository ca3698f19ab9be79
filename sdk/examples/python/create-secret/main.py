"""Stores a provider's key, or changes the one that is there.

AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
"""

import os

from tars.secret.v1 import secret_pb2

from agentrouter_sdk import Client

client = Client(base_url=os.environ["AGENTROUTER_BASE_URL"], api_key=os.environ["AGENTROUTER_API_KEY"])

req = secret_pb2.CreateSecretRequest(
    name="openai-api-key",
    realm="llm-providers",
    description="OpenAI, production gateway",
    value="sk-example-first",
    tags={"env": "prod"},
)
try:
    print(client.secret.create_secret(req))
except Exception as error:
    print("Error:", error)
