"""Messages of `agentrouter.secret.v1`: `secret_pb2`.

The packages above this one are namespace packages, so that other distributions may have a `tars` of their own.
"""
