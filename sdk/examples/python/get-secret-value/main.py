"""Reads the plaintext of a secret, as the gateway does before it calls a model.

AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
"""

import os

from tars.secret.v1 import secret_pb2

from agentrouter_sdk import Client

client = Client(base_url=os.environ["AGENTROUTER_BASE_URL"], api_key=os.environ["AGENTROUTER_API_KEY"])

req = secret_pb2.GetSecretValueRequest(
    name="openai-api-key",
    realm="llm-providers",
    user_id="system",
)
try:
    response = client.secret.get_secret_value(req)
    # The text of a message omits the value.
    print(response)
    print("value:", response.value)
except Exception as error:
    print("Error:", error)
