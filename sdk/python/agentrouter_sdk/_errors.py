"""Why a call did not succeed: the settings, the server's refusal, or no answer.

Neither the API key nor a value is ever part of an exception: what the RPC library raised, whose frames hold both, is
read and then dropped rather than kept as the cause.
"""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo


class FieldViolation(NamedTuple):
    """One field of a request that breaks its rule."""

    field: str
    """The field's name, such as `page_size`."""
    description: str
    """Its rule, such as "must not be negative"."""


class AgentRouterError(Exception):
    """The base of all exceptions of this SDK. `str()` of one is a sentence for people, fit for a log."""

    code: str
    """The canonical status code, such as `NOT_FOUND`."""
    reason: str
    """The server's cause in one stable word, such as `SECRET_NOT_FOUND`: what a program should act on. Empty if the
    server did not refuse."""
    message: str
    """What was wrong and what to do, for people."""
    violations: tuple[FieldViolation, ...]
    """The fields at fault, when the request broke rules."""
    request_id: str | None
    """What finds this call in the server's log."""
    retry_after: float | None
    """How long to wait before the next try, in seconds, if the server said so."""

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
        return self.message


class ConfigError(AgentRouterError, ValueError):
    """A setting is missing or malformed. Nothing was sent."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, code="INVALID_ARGUMENT")


class TransportError(AgentRouterError):
    """The server cannot be reached, the connection broke, or what answered is not the secret service.

    Whether a write was done is not known.
    """


class CallTimeoutError(TransportError, TimeoutError):
    """There was no answer in time. Whether a write was done is not known. Also a built-in `TimeoutError`."""


class RefusedError(AgentRouterError):
    """The server answered, and the answer is no. The subclasses are the codes that programs tell apart."""


class InvalidArgumentError(RefusedError):
    """The request breaks rules; `violations` has one entry per wrong field. The same request will fail again."""


class UnauthenticatedError(RefusedError):
    """The API key is unknown, mistyped, revoked or expired."""


class PermissionDeniedError(RefusedError):
    """The API key lacks the scope, the realm or the user that the call needs."""


class NotFoundError(RefusedError):
    """There is no such secret, or no such readable version, among those that this key may see."""


class AbortedError(RefusedError):
    """`expected_version` is not the current version: read the secret again and decide anew."""


class FailedPreconditionError(RefusedError):
    """The state of the secret does not allow the call."""


class ResourceExhaustedError(RefusedError):
    """Too many requests (`RATE_LIMITED`, with `retry_after`), or one that is too large (`BODY_TOO_LARGE`)."""


class UnavailableError(RefusedError):
    """The server, or something that it needs, is unavailable. Nothing was done."""


class DeadlineExceededError(RefusedError, TimeoutError):
    """The server could not finish in time. A write may have been done. Also a built-in `TimeoutError`."""


class UnimplementedError(RefusedError):
    """The server does not know the call; it may be older than this SDK."""


class InternalError(RefusedError):
    """A fault of the server, or stored bytes that do not open (`SECRET_CORRUPT`)."""


_CLASSES: dict[Code, type[RefusedError]] = {
    Code.INVALID_ARGUMENT: InvalidArgumentError,
    Code.UNAUTHENTICATED: UnauthenticatedError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.NOT_FOUND: NotFoundError,
    Code.ABORTED: AbortedError,
    Code.FAILED_PRECONDITION: FailedPreconditionError,
    Code.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.UNIMPLEMENTED: UnimplementedError,
    Code.INTERNAL: InternalError,
}

# Longest text of a server, or of what stands in its place, that is passed on, in characters.
_MESSAGE_CHARS = 500


def from_rpc(error: ConnectError, answer: ResponseMetadata, timeout: float) -> AgentRouterError:
    """Sorts what the RPC library raised into refusals and failures to get an answer.

    The service puts an `ErrorInfo` into every refusal, so an error without one comes from the transport, or from
    something that is not the service (a proxy, a load balancer, another program on that port).
    """
    if isinstance(error.__cause__, (TimeoutError, asyncio.TimeoutError)):
        return CallTimeoutError(f"no answer from the server within {timeout:g} s", code="DEADLINE_EXCEEDED")

    reason = ""
    violations: list[FieldViolation] = []
    headers = answer.headers()
    request_id = tidy(headers.get("x-request-id", "")) or None
    seconds = headers.get("retry-after", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else None
    for detail in error.details:
        name = detail.type_url.rpartition("/")[2]
        try:
            if name == "google.rpc.ErrorInfo":
                reason = tidy(ErrorInfo.FromString(detail.value).reason)
            elif name == "google.rpc.BadRequest":
                bad = BadRequest.FromString(detail.value)
                violations += [FieldViolation(tidy(v.field), tidy(v.description)) for v in bad.field_violations]
            elif name == "google.rpc.RetryInfo":
                delay = RetryInfo.FromString(detail.value).retry_delay
                retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
            elif name == "google.rpc.RequestInfo":
                request_id = tidy(RequestInfo.FromString(detail.value).request_id) or request_id
        except DecodeError:
            continue  # One that cannot be read is passed over, like kinds that are not known here.

    code = "CANCELLED" if error.code is Code.CANCELED else error.code.name
    kind: type[AgentRouterError] = _CLASSES.get(error.code, RefusedError)
    message = tidy(error.message)
    if not reason:
        kind, message = TransportError, f"cannot reach the server: {_innermost(error)}"
    return kind(
        message,
        code=code,
        reason=reason,
        violations=tuple(violations),
        request_id=request_id,
        retry_after=retry_after,
    )


_KEY = re.compile(r"[0-9A-Za-z]{16}_[0-9A-Za-z]{49}")


def tidy(text: object) -> str:
    """One line of at most 500 printable characters, since it may end on a terminal, without anything like a key."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * _MESSAGE_CHARS])
    return _KEY.sub("***", shown)[:_MESSAGE_CHARS].strip()


def _innermost(error: BaseException) -> str:
    """The text of the last error in a chain: "Connection refused" rather than four sentences around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return tidy(error) or type(error).__name__
