"""The seven calls of the secret service, sync and async."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar, Union

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from tars.secret.v1 import secret_pb2

from . import _trace
from ._errors import AgentRouterError, CallTimeoutError
from ._http import AsyncHttp, Outcome, SyncHttp
from ._retry import pause
from ._settings import Settings, seconds
from ._wire import HEADERS, SERVICE, TIMEOUT_HEADER, read

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Mask = Union[FieldMask, Iterable[str]]
_Period = Union[Duration, timedelta]


class Status:
    """The values of `Secret.status` and `ListSecretsRequest.status`."""

    ACTIVE: Final = "active"
    """The version that reads return."""
    ROTATED_PENDING: Final = "rotated_pending"
    """Replaced by a rotation. Readable by its number until its grace period ends."""
    RETIRED: Final = "retired"
    """No longer readable."""
    ANY: Final = "any"
    """All of them. In requests only."""


@dataclass(frozen=True)
class _Method(Generic[_Request, _Response]):
    """A call of the service: its name and its messages."""

    name: str
    request: type[_Request]
    response: type[_Response]
    safe: bool | None = None
    """Whether it is retried. None: if the request has `expected_version`."""


_CREATE = _Method("CreateSecret", secret_pb2.CreateSecretRequest, secret_pb2.CreateSecretResponse)
_GET = _Method("GetSecret", secret_pb2.GetSecretRequest, secret_pb2.GetSecretResponse, safe=True)
_LIST = _Method("ListSecrets", secret_pb2.ListSecretsRequest, secret_pb2.ListSecretsResponse, safe=True)
_DELETE = _Method("DeleteSecret", secret_pb2.DeleteSecretRequest, secret_pb2.DeleteSecretResponse, safe=False)
_ROTATE = _Method("RotateSecret", secret_pb2.RotateSecretRequest, secret_pb2.RotateSecretResponse)
_VALIDATE = _Method("ValidateSecret", secret_pb2.ValidateSecretRequest, secret_pb2.ValidateSecretResponse, safe=True)
_VALUE = _Method("GetSecretValue", secret_pb2.GetSecretValueRequest, secret_pb2.GetSecretValueResponse, safe=True)


class _Call(Generic[_Request, _Response]):
    """One call with its attempts, on the monotonic clock."""

    def __init__(
        self,
        settings: Settings,
        method: _Method[_Request, _Response],
        request: _Request | None,
        fields: Mapping[str, Any],
        timeout: float | None,
    ) -> None:
        message = _message(method.request, request, fields)
        self.path = SERVICE + method.name
        self.body = message.SerializeToString()
        self.timeout = settings.timeout if timeout is None else seconds("the timeout", timeout)
        self._settings = settings
        self._method = method
        self._start = time.monotonic()
        self._deadline = self._start + self.timeout
        safe = message.HasField("expected_version") if method.safe is None else method.safe
        self._retries_left = settings.retries if safe else 0
        self._retry = 0

    def headers(self) -> dict[str, str]:
        """The headers of the next attempt."""
        self._start = time.monotonic()
        headers = self._settings.headers.with_(HEADERS, {TIMEOUT_HEADER: str(max(1, int(self.left * 1000)))})
        _trace.inject(headers)
        return headers

    @property
    def left(self) -> float:
        """The time that is left, in seconds."""
        return max(0.001, self._deadline - time.monotonic())

    def settle(self, outcome: Outcome) -> _Response | AgentRouterError:
        """The response of an attempt, or its error."""
        parse = self._method.response.FromString
        result = outcome if isinstance(outcome, AgentRouterError) else read(outcome, parse)
        error = result if isinstance(result, AgentRouterError) else None
        if isinstance(error, CallTimeoutError) and not error.message:
            error.args = (f"no response from the server within {self.timeout:g} s",)
            error.message = error.args[0]
        _trace.attempt(self._method.name, self._retry + 1, time.monotonic() - self._start, error)
        return result

    def pause_after(self, error: AgentRouterError) -> float:
        """The pause before the next attempt. Raises `error` if there is none.

        A pause that reaches the timeout is not started.
        """
        wait = pause(error, self._retry) if self._retries_left > 0 else None
        if wait is None or time.monotonic() + wait >= self._deadline:
            raise error
        self._retries_left -= 1
        self._retry += 1
        return wait


def _message(kind: type[_Request], request: _Request | None, fields: Mapping[str, Any]) -> _Request:
    """The request of a call: a message, or one made of keyword arguments."""
    given = {name: value for name, value in fields.items() if value is not None}
    if request is None:
        mask = given.get("update_mask")
        if mask is not None and not isinstance(mask, FieldMask):
            given["update_mask"] = FieldMask(paths=[mask] if isinstance(mask, str) else mask)
        period = given.get("grace_period")
        if isinstance(period, timedelta):
            given["grace_period"] = Duration()
            given["grace_period"].FromTimedelta(period)
        return kind(**given)
    if not isinstance(request, kind):
        raise TypeError(f"the request must be a {kind.__name__}, not a {type(request).__name__}")
    if given:
        raise TypeError(f"give a {kind.__name__} or keyword arguments, not both: {', '.join(given)}")
    return request


def _list_request(request: secret_pb2.ListSecretsRequest | None, **fields: Any) -> secret_pb2.ListSecretsRequest:
    """A request of a list that may be changed."""
    copy = secret_pb2.ListSecretsRequest()
    copy.CopyFrom(_message(secret_pb2.ListSecretsRequest, request, fields))
    return copy


class SecretClient:
    """The secret service. Threads may share it.

    A call takes its message, or the fields of the message as keyword arguments: `get_secret(name="n", realm="mcp")`.

    `timeout` is the time limit of a call, with its retries and pauses, in seconds. Default: the client's. Reads, and writes
    with `expected_version`, are retried when the server is unavailable or limits the rate. If the first attempt of such a
    write was made and its response was lost, the second is rejected with `VERSION_MISMATCH`.

    Raises:
        RefusedError: The server rejected the request. The subclasses are the codes.
        UnavailableError: The server cannot be reached, or cannot serve the call now.
        DeadlineExceededError: There was no response in time.
        TransportError: There is no response of the service.
        TypeError: The request is not the call's message, or there is a message and keyword arguments.
    """

    def __init__(self, settings: Settings, http: SyncHttp) -> None:
        """`Client` makes these."""
        self._settings = settings
        self._http = http

    def create_secret(
        self,
        req: secret_pb2.CreateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        description: str | None = None,
        value: str | None = None,
        tags: Mapping[str, str] | None = None,
        user_id: str | None = None,
        expected_version: int | None = None,
        update_mask: _Mask | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.CreateSecretResponse:
        """Creates a secret, or updates the one of that owner, realm and name. Needs the scope `secrets/write`."""
        return self._call(
            _CREATE,
            req,
            timeout,
            name=name,
            realm=realm,
            description=description,
            value=value,
            tags=tags,
            user_id=user_id,
            expected_version=expected_version,
            update_mask=update_mask,
        )

    def get_secret(
        self,
        req: secret_pb2.GetSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretResponse:
        """Reads the metadata of a secret's active version. Needs the scope `secrets/read`."""
        return self._call(_GET, req, timeout, name=name, realm=realm)

    def list_secrets(
        self,
        req: secret_pb2.ListSecretsRequest | None = None,
        *,
        realm: str | None = None,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
        name_prefix: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.ListSecretsResponse:
        """Lists one page of metadata. `list_all` iterates over all pages. Needs the scope `secrets/read`."""
        return self._call(
            _LIST,
            req,
            timeout,
            realm=realm,
            status=status,
            tags=tags,
            page_size=page_size,
            page_token=page_token,
            name_prefix=name_prefix,
        )

    def delete_secret(
        self,
        req: secret_pb2.DeleteSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.DeleteSecretResponse:
        """Deletes a secret with all its versions. It is never retried. Needs the scope `secrets/write`."""
        return self._call(_DELETE, req, timeout, name=name, realm=realm)

    def rotate_secret(
        self,
        req: secret_pb2.RotateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        new_value: str | None = None,
        expected_version: int | None = None,
        grace_period: _Period | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.RotateSecretResponse:
        """Gives a secret a new active version. The previous version stays readable for a grace period.

        Needs the scope `secrets/write`.
        """
        return self._call(
            _ROTATE,
            req,
            timeout,
            name=name,
            realm=realm,
            new_value=new_value,
            expected_version=expected_version,
            grace_period=grace_period,
        )

    def validate_secret(
        self,
        req: secret_pb2.ValidateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.ValidateSecretResponse:
        """Checks that the stored bytes of a secret can be opened. Needs the scope `secrets/read`.

        If not, the response has `valid` false. It is not an exception.
        """
        return self._call(_VALIDATE, req, timeout, name=name, realm=realm)

    def get_secret_value(
        self,
        req: secret_pb2.GetSecretValueRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        user_id: str | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretValueResponse:
        """Reads the value of a secret. For internal services. Needs the scope `secrets/read/internal`."""
        return self._call(_VALUE, req, timeout, name=name, realm=realm, user_id=user_id, version=version)

    def list_all(
        self,
        req: secret_pb2.ListSecretsRequest | None = None,
        *,
        realm: str | None = None,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
        name_prefix: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[secret_pb2.Secret]:
        """Iterates over all secrets of a list, starting at `page_token`, `page_size` in each request.

        It requests a page when the iteration reaches it. `timeout` applies to each request.
        """
        request = _list_request(
            req,
            realm=realm,
            status=status,
            tags=tags,
            page_size=page_size,
            page_token=page_token,
            name_prefix=name_prefix,
        )
        while True:
            page = self.list_secrets(request, timeout=timeout)
            yield from page.secrets
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _call(
        self, method: _Method[_Request, _Response], request: _Request | None, timeout: float | None, /, **fields: Any
    ) -> _Response:
        """Makes a call and its retries within the timeout."""
        call = _Call(self._settings, method, request, fields, timeout)
        while True:
            outcome = self._http.post(call.path, call.body, call.headers(), call.left)
            result = call.settle(outcome)
            if not isinstance(result, AgentRouterError):
                return result
            time.sleep(call.pause_after(result))

    def __repr__(self) -> str:
        return f"SecretClient({self._settings!r})"


class AsyncSecretClient:
    """`SecretClient` for asyncio: the same calls, to await, with the same exceptions."""

    def __init__(self, settings: Settings, http: AsyncHttp) -> None:
        """`AsyncClient` makes these."""
        self._settings = settings
        self._http = http

    async def create_secret(
        self,
        req: secret_pb2.CreateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        description: str | None = None,
        value: str | None = None,
        tags: Mapping[str, str] | None = None,
        user_id: str | None = None,
        expected_version: int | None = None,
        update_mask: _Mask | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.CreateSecretResponse:
        """As `SecretClient.create_secret`."""
        return await self._call(
            _CREATE,
            req,
            timeout,
            name=name,
            realm=realm,
            description=description,
            value=value,
            tags=tags,
            user_id=user_id,
            expected_version=expected_version,
            update_mask=update_mask,
        )

    async def get_secret(
        self,
        req: secret_pb2.GetSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretResponse:
        """As `SecretClient.get_secret`."""
        return await self._call(_GET, req, timeout, name=name, realm=realm)

    async def list_secrets(
        self,
        req: secret_pb2.ListSecretsRequest | None = None,
        *,
        realm: str | None = None,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
        name_prefix: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.ListSecretsResponse:
        """As `SecretClient.list_secrets`."""
        return await self._call(
            _LIST,
            req,
            timeout,
            realm=realm,
            status=status,
            tags=tags,
            page_size=page_size,
            page_token=page_token,
            name_prefix=name_prefix,
        )

    async def delete_secret(
        self,
        req: secret_pb2.DeleteSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.DeleteSecretResponse:
        """As `SecretClient.delete_secret`."""
        return await self._call(_DELETE, req, timeout, name=name, realm=realm)

    async def rotate_secret(
        self,
        req: secret_pb2.RotateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        new_value: str | None = None,
        expected_version: int | None = None,
        grace_period: _Period | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.RotateSecretResponse:
        """As `SecretClient.rotate_secret`."""
        return await self._call(
            _ROTATE,
            req,
            timeout,
            name=name,
            realm=realm,
            new_value=new_value,
            expected_version=expected_version,
            grace_period=grace_period,
        )

    async def validate_secret(
        self,
        req: secret_pb2.ValidateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.ValidateSecretResponse:
        """As `SecretClient.validate_secret`."""
        return await self._call(_VALIDATE, req, timeout, name=name, realm=realm)

    async def get_secret_value(
        self,
        req: secret_pb2.GetSecretValueRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        user_id: str | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretValueResponse:
        """As `SecretClient.get_secret_value`."""
        return await self._call(_VALUE, req, timeout, name=name, realm=realm, user_id=user_id, version=version)

    async def list_all(
        self,
        req: secret_pb2.ListSecretsRequest | None = None,
        *,
        realm: str | None = None,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
        name_prefix: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[secret_pb2.Secret]:
        """As `SecretClient.list_all`, for `async for`."""
        request = _list_request(
            req,
            realm=realm,
            status=status,
            tags=tags,
            page_size=page_size,
            page_token=page_token,
            name_prefix=name_prefix,
        )
        while True:
            page = await self.list_secrets(request, timeout=timeout)
            for secret in page.secrets:
                yield secret
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _call(
        self, method: _Method[_Request, _Response], request: _Request | None, timeout: float | None, /, **fields: Any
    ) -> _Response:
        call = _Call(self._settings, method, request, fields, timeout)
        while True:
            outcome = await self._http.post(call.path, call.body, call.headers(), call.left)
            result = call.settle(outcome)
            if not isinstance(result, AgentRouterError):
                return result
            await asyncio.sleep(call.pause_after(result))

    def __repr__(self) -> str:
        return f"AsyncSecretClient({self._settings!r})"
