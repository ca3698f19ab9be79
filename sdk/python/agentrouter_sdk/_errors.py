"""Exceptions of the SDK. None contains the API key or a value. `_wire.py` makes them from responses."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Code:
    """The kinds of errors, by the names of gRPC and Connect status codes: the values of `AgentRouterError.code`."""

    CANCELED: Final = "CANCELED"
    UNKNOWN: Final = "UNKNOWN"
    INVALID_ARGUMENT: Final = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"
    NOT_FOUND: Final = "NOT_FOUND"
    ALREADY_EXISTS: Final = "ALREADY_EXISTS"
    PERMISSION_DENIED: Final = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED: Final = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION: Final = "FAILED_PRECONDITION"
    ABORTED: Final = "ABORTED"
    OUT_OF_RANGE: Final = "OUT_OF_RANGE"
    UNIMPLEMENTED: Final = "UNIMPLEMENTED"
    INTERNAL: Final = "INTERNAL"
    UNAVAILABLE: Final = "UNAVAILABLE"
    DATA_LOSS: Final = "DATA_LOSS"
    UNAUTHENTICATED: Final = "UNAUTHENTICATED"


def is_code(text: str) -> bool:
    """Whether a text is one of `Code`."""
    return text.isupper() and hasattr(Code, text)


class Reason:
    """The stable causes of errors: the values of `AgentRouterError.reason`. A newer server may have more.

    `docs/errors.md` explains each.
    """

    INVALID_REQUEST: Final = "INVALID_REQUEST"
    MALFORMED_BODY: Final = "MALFORMED_BODY"
    BODY_TOO_LARGE: Final = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE: Final = "UNSUPPORTED_MEDIA_TYPE"
    METHOD_NOT_ALLOWED: Final = "METHOD_NOT_ALLOWED"
    UNKNOWN_ROUTE: Final = "UNKNOWN_ROUTE"
    UNAUTHENTICATED: Final = "UNAUTHENTICATED"
    SCOPE_MISSING: Final = "SCOPE_MISSING"
    REALM_NOT_ALLOWED: Final = "REALM_NOT_ALLOWED"
    USER_ID_NOT_ALLOWED: Final = "USER_ID_NOT_ALLOWED"
    SECRET_NOT_FOUND: Final = "SECRET_NOT_FOUND"
    VERSION_MISMATCH: Final = "VERSION_MISMATCH"
    VERSIONS_EXHAUSTED: Final = "VERSIONS_EXHAUSTED"
    PAGE_TOKEN_INVALID: Final = "PAGE_TOKEN_INVALID"
    RATE_LIMITED: Final = "RATE_LIMITED"
    OVERLOADED: Final = "OVERLOADED"
    AUDIT_UNAVAILABLE: Final = "AUDIT_UNAVAILABLE"
    STORE_UNAVAILABLE: Final = "STORE_UNAVAILABLE"
    OUTCOME_UNKNOWN: Final = "OUTCOME_UNKNOWN"
    KEK_UNAVAILABLE: Final = "KEK_UNAVAILABLE"
    SECRET_CORRUPT: Final = "SECRET_CORRUPT"
    SHUTTING_DOWN: Final = "SHUTTING_DOWN"
    DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"
    INTERNAL: Final = "INTERNAL"


class FieldViolation(NamedTuple):
    """A field of the request that breaks a rule."""

    field: str
    """The field's name, such as `page_size`."""
    description: str
    """Its rule, such as "must not be negative"."""


class AgentRouterError(Exception):
    """The base of all exceptions of this SDK. `str()` is one line for a log: code, reason, message and request id."""

    code: str
    """The kind of the error: one of `Code`."""
    reason: str
    """The stable cause: one of `Reason`. Programs should act on it. Empty if the response did not come from the secret
    service."""
    message: str
    """What happened and what to do, for people."""
    violations: tuple[FieldViolation, ...]
    """The fields of the request that break rules."""
    request_id: str | None
    """Identifies the call in the server's log."""
    retry_after: float | None
    """How long to wait before the next attempt, in seconds, if the response says so."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.violations = violations
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = self.code
        if self.reason and self.reason != self.code:
            text += f" ({self.reason})"
        if self.message:
            text += f": {self.message}"
        return text + (f" [request {self.request_id}]" if self.request_id else "")


class ConfigError(AgentRouterError, ValueError):
    """A setting is missing or malformed. No request was sent."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, code=Code.INVALID_ARGUMENT)

    def __str__(self) -> str:
        return self.message


class TransportError(AgentRouterError):
    """There is no response of the secret service. It is not known whether a write was made.

    The server cannot be reached, the connection broke, or another program responded.
    """


class RefusedError(AgentRouterError):
    """The server rejected the request. The subclasses are the codes."""


class InvalidArgumentError(RefusedError):
    """The request breaks rules. `violations` has one entry for each field. The same request will fail again."""


class UnauthenticatedError(RefusedError):
    """The API key is unknown, mistyped, revoked or expired."""


class PermissionDeniedError(RefusedError):
    """The API key lacks the scope, the realm or the user that the call needs."""


class NotFoundError(RefusedError):
    """No such secret or readable version exists among those that this key may access."""


class AbortedError(RefusedError):
    """`expected_version` is not the current version. Read the secret again, then decide."""


class FailedPreconditionError(RefusedError):
    """The state of the secret does not allow the call."""


class ResourceExhaustedError(RefusedError):
    """Too many requests (`RATE_LIMITED`, with `retry_after`), or a request that is too large (`BODY_TOO_LARGE`)."""


class UnimplementedError(RefusedError):
    """The server does not have this call. It may be older than this SDK."""


class InternalError(RefusedError):
    """The server has a fault, or the stored bytes cannot be opened (`SECRET_CORRUPT`)."""


class UnavailableError(AgentRouterError):
    """Every error with the code UNAVAILABLE: the server cannot be reached, or cannot serve the call now."""


class UnreachableError(UnavailableError, TransportError):
    """The server cannot be reached, the connection broke, or a proxy responded with UNAVAILABLE."""


class DeadlineExceededError(AgentRouterError, TimeoutError):
    """Every error with the code DEADLINE_EXCEEDED. It is not known whether a write was made. Also a `TimeoutError`."""


class CallTimeoutError(DeadlineExceededError, TransportError):
    """There was no response in time."""


# The largest number of characters of a text from a response.
_MESSAGE_CHARS = 500

_KEY = re.compile(r"[0-9A-Za-z]{16}_[0-9A-Za-z]{49}")


def tidy(text: object) -> str:
    """One line of at most 500 printable characters, because it may be printed on a terminal. Keys are removed."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * _MESSAGE_CHARS])
    return _KEY.sub("***", shown)[:_MESSAGE_CHARS].strip()


def innermost(error: BaseException) -> str:
    """The text of the last error in a chain: "Connection refused" rather than four sentences around it."""
    while (inner := error.__cause__ or error.__context__) is not None and str(inner):
        error = inner
    return tidy(error) or type(error).__name__
