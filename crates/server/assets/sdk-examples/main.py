"""Stores a provider key and says which version it is."""

from agentrouter_sdk import Client
from tars.secret.v1 import secret_pb2

client = Client()
created = client.secret.create_secret(
    secret_pb2.CreateSecretRequest(name="openai-api-key", realm="mcp", value="sk-example")
)
print(created.secret.name, "version", created.secret.version)
