"""The Python SDK of AgentRouter: a typed client, sync and async, of its secret service.

A thin layer over the official Connect client and the generated messages (`tars.secret.v1.secret_pb2`): settings
(`Client`, `AsyncClient`), the seven calls (`SecretClient`, `AsyncSecretClient`), retries, exceptions, and a cache of
values for hot paths (`Secrets`, `AsyncSecrets`).

Deliberately absent: checks of what a request asks for (the server's rules are the only ones), anything that prints or
logs, and anything that writes to a disk.
"""

from ._cache import AsyncSecrets, Secrets
from ._client import AsyncClient, Client
from ._errors import (
    AbortedError,
    AgentRouterError,
    CallTimeoutError,
    ConfigError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    ResourceExhaustedError,
    TransportError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from ._secret import AsyncSecretClient, SecretClient, Status
from ._settings import VERSION as __version__

__all__ = [
    "AbortedError",
    "AgentRouterError",
    "AsyncClient",
    "AsyncSecretClient",
    "AsyncSecrets",
    "CallTimeoutError",
    "Client",
    "ConfigError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "RefusedError",
    "ResourceExhaustedError",
    "SecretClient",
    "Secrets",
    "Status",
    "TransportError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
]
