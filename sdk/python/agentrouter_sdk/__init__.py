"""The Python SDK of AgentRouter: a typed client, sync and async, of its secret service.

A thin layer over httpx and the generated messages (`tars.secret.v1.secret_pb2`): settings (`Client`, `AsyncClient`), the
seven calls (`SecretClient`, `AsyncSecretClient`), retries, exceptions, and a cache of values (`Secrets`, `AsyncSecrets`).
`agentrouter_sdk.testing` has a service in memory for tests.

Deliberately absent: checks of requests, because the server has the rules, and anything that prints or writes to a disk.
"""

from ._cache import AsyncSecrets, Secrets
from ._client import AsyncClient, Client
from ._errors import (
    AbortedError,
    AgentRouterError,
    CallTimeoutError,
    Code,
    ConfigError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    Reason,
    RefusedError,
    ResourceExhaustedError,
    TransportError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnreachableError,
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
    "Code",
    "ConfigError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "Reason",
    "RefusedError",
    "ResourceExhaustedError",
    "SecretClient",
    "Secrets",
    "Status",
    "TransportError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnreachableError",
    "__version__",
]
