"""The Connect protocol for unary calls: paths, headers, responses and errors.

https://connectrpc.com/docs/protocol has the rules. The messages are protobuf.
"""

from __future__ import annotations

import base64
import binascii
import http
import json
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo

from ._errors import (
    AbortedError,
    AgentRouterError,
    CallTimeoutError,
    Code,
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
    UnreachableError,
    is_code,
    tidy,
)
from ._http import Reply

_Response = TypeVar("_Response")

# The path before a call's name.
SERVICE = "/agentrouter.secret.v1.SecretService/"
CONTENT_TYPE = "application/proto"
HEADERS = {"content-type": CONTENT_TYPE, "connect-protocol-version": "1", "accept-encoding": "identity"}
TIMEOUT_HEADER = "connect-timeout-ms"

_CLASSES: dict[str, type[AgentRouterError]] = {
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
# Errors without a response of the service; `TransportError` for all other codes.
_TRANSPORT: dict[str, type[AgentRouterError]] = {
    Code.UNAVAILABLE: UnreachableError,
    Code.DEADLINE_EXCEEDED: CallTimeoutError,
}
# The codes of responses that are not errors of the protocol, by HTTP status.
_STATUS = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def read(reply: Reply, parse: Callable[[bytes], _Response]) -> _Response | AgentRouterError:
    """The message of a response, or its error."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if reply.status == 200 and kind == CONTENT_TYPE:
        try:
            return parse(reply.body)
        except DecodeError:
            pass
    body: Any = None
    if reply.status != 200 and kind == "application/json":
        try:
            body = json.loads(reply.body)
        except (ValueError, RecursionError):
            pass
    return _error(reply, body if isinstance(body, dict) else {})


def _error(reply: Reply, body: dict[str, Any]) -> AgentRouterError:
    """The service puts an `ErrorInfo` into every error. An error without one comes from another program, such as a proxy."""
    spelled = str(body.get("code", "")).upper()
    code = spelled if is_code(spelled) else _STATUS.get(reply.status, Code.UNKNOWN)
    message = tidy(body.get("message") or "")
    reason = ""
    violations: list[FieldViolation] = []
    request_id = tidy(reply.headers.get("x-request-id", "")) or None
    seconds = reply.headers.get("retry-after", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else None
    for name, value in _details(body):
        try:
            if name == "google.rpc.ErrorInfo":
                reason = tidy(ErrorInfo.FromString(value).reason)
            elif name == "google.rpc.BadRequest":
                bad = BadRequest.FromString(value)
                violations += [FieldViolation(tidy(v.field), tidy(v.description)) for v in bad.field_violations]
            elif name == "google.rpc.RetryInfo":
                delay = RetryInfo.FromString(value).retry_delay
                retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
            elif name == "google.rpc.RequestInfo":
                request_id = tidy(RequestInfo.FromString(value).request_id) or request_id
        except DecodeError:
            continue  # Unreadable details are ignored, like unknown kinds.

    error = _CLASSES.get(code, RefusedError)
    if not reason:
        error = _TRANSPORT.get(code, TransportError)
        message = tidy(_other_program(reply.status) + (f": {message}" if message else ""))
    return error(
        message,
        code=code,
        reason=reason,
        violations=tuple(violations),
        request_id=request_id,
        retry_after=retry_after,
    )


def _details(body: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The details of an error: the name of the message and its bytes."""
    found = []
    details = body.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("type"), str) and isinstance(detail.get("value"), str):
            value = detail["value"].rstrip("=")
            try:
                found.append((detail["type"].rpartition("/")[2], base64.b64decode(value + "=" * (-len(value) % 4))))
            except (binascii.Error, ValueError):
                continue
    return found


def _other_program(status: int) -> str:
    try:
        phrase = f"HTTP {status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = f"HTTP {status}"
    return f"the response is not from the secret service but from a proxy or another program ({phrase})"
