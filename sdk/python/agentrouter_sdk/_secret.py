"""The seven calls of the secret service, sync and async."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar, Union

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


class _Call:
    """One call with its attempts, on the monotonic clock."""

    def __init__(self, settings: Settings, name: str, safe: bool, timeout: float | None) -> None:
        self.name = name
        self.timeout = settings.timeout if timeout is None else seconds("the timeout", timeout)
        self._settings = settings
        self._began = time.monotonic()
        self._deadline = self._began + self.timeout
        self._retries_left = settings.retries if safe else 0
        self._retry = 0

    def headers(self) -> dict[str, str]:
        """The headers of the next attempt."""
        self._began = time.monotonic()
        headers = self._settings.headers.with_(HEADERS, {TIMEOUT_HEADER: str(max(1, int(self.left * 1000)))})
        _trace.inject(headers)
        return headers

    @property
    def left(self) -> float:
        """The time that is left, in seconds."""
        return max(0.001, self._deadline - time.monotonic())

    def settle(self, outcome: Outcome, response: type[_Response]) -> _Response | AgentRouterError:
        """The response of an attempt, or its error."""
        result = outcome if isinstance(outcome, AgentRouterError) else read(outcome, response.FromString)
        error = result if isinstance(result, AgentRouterError) else None
        if isinstance(error, CallTimeoutError) and not error.message:
            error.args = (f"no response from the server within {self.timeout:g} s",)
            error.message = error.args[0]
        _trace.attempt(self.name, self._retry + 1, time.monotonic() - self._began, error)
        return result

    def pause_after(self, error: AgentRouterError) -> float:
        """The pause before the next attempt. Raises `error` if there is none.

        A pause that reaches the timeout is not begun.
        """
        wait = pause(error, self._retry) if self._retries_left > 0 else None
        if wait is None or time.monotonic() + wait >= self._deadline:
            raise error
        self._retries_left -= 1
        self._retry += 1
        return wait


def _request(kind: type[_Request], request: _Request | None, fields: Mapping[str, Any]) -> _Request:
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


def _copy(request: secret_pb2.ListSecretsRequest) -> secret_pb2.ListSecretsRequest:
    copy = secret_pb2.ListSecretsRequest()
    copy.CopyFrom(request)
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
        fields = {
            "name": name,
            "realm": realm,
            "description": description,
            "value": value,
            "tags": tags,
            "user_id": user_id,
            "expected_version": expected_version,
            "update_mask": update_mask,
        }
        request = _request(secret_pb2.CreateSecretRequest, req, fields)
        return self._call("CreateSecret", request, secret_pb2.CreateSecretResponse, request.HasField("expected_version"), timeout)

    def get_secret(
        self,
        req: secret_pb2.GetSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretResponse:
        """Reads the metadata of a secret's active version. Needs the scope `secrets/read`."""
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.GetSecretRequest, req, fields)
        return self._call("GetSecret", request, secret_pb2.GetSecretResponse, True, timeout)

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
        fields = {
            "realm": realm,
            "status": status,
            "tags": tags,
            "page_size": page_size,
            "page_token": page_token,
            "name_prefix": name_prefix,
        }
        request = _request(secret_pb2.ListSecretsRequest, req, fields)
        return self._call("ListSecrets", request, secret_pb2.ListSecretsResponse, True, timeout)

    def delete_secret(
        self,
        req: secret_pb2.DeleteSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.DeleteSecretResponse:
        """Deletes a secret with all its versions. It is never retried. Needs the scope `secrets/write`."""
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.DeleteSecretRequest, req, fields)
        return self._call("DeleteSecret", request, secret_pb2.DeleteSecretResponse, False, timeout)

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
        fields = {
            "name": name,
            "realm": realm,
            "new_value": new_value,
            "expected_version": expected_version,
            "grace_period": grace_period,
        }
        request = _request(secret_pb2.RotateSecretRequest, req, fields)
        return self._call("RotateSecret", request, secret_pb2.RotateSecretResponse, request.HasField("expected_version"), timeout)

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
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.ValidateSecretRequest, req, fields)
        return self._call("ValidateSecret", request, secret_pb2.ValidateSecretResponse, True, timeout)

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
        fields = {"name": name, "realm": realm, "user_id": user_id, "version": version}
        request = _request(secret_pb2.GetSecretValueRequest, req, fields)
        return self._call("GetSecretValue", request, secret_pb2.GetSecretValueResponse, True, timeout)

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
        fields = {
            "realm": realm,
            "status": status,
            "tags": tags,
            "page_size": page_size,
            "page_token": page_token,
            "name_prefix": name_prefix,
        }
        request = _copy(_request(secret_pb2.ListSecretsRequest, req, fields))
        while True:
            page = self.list_secrets(request, timeout=timeout)
            yield from page.secrets
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _call(
        self, name: str, request: Message, response: type[_Response], safe: bool, timeout: float | None
    ) -> _Response:
        """Makes a call and its retries within the timeout."""
        call = _Call(self._settings, name, safe, timeout)
        body = request.SerializeToString()
        while True:
            outcome = self._http.post(SERVICE + name, body, call.headers(), call.left)
            result = call.settle(outcome, response)
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
        fields = {
            "name": name,
            "realm": realm,
            "description": description,
            "value": value,
            "tags": tags,
            "user_id": user_id,
            "expected_version": expected_version,
            "update_mask": update_mask,
        }
        request = _request(secret_pb2.CreateSecretRequest, req, fields)
        return await self._call("CreateSecret", request, secret_pb2.CreateSecretResponse, request.HasField("expected_version"), timeout)

    async def get_secret(
        self,
        req: secret_pb2.GetSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.GetSecretResponse:
        """As `SecretClient.get_secret`."""
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.GetSecretRequest, req, fields)
        return await self._call("GetSecret", request, secret_pb2.GetSecretResponse, True, timeout)

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
        fields = {
            "realm": realm,
            "status": status,
            "tags": tags,
            "page_size": page_size,
            "page_token": page_token,
            "name_prefix": name_prefix,
        }
        request = _request(secret_pb2.ListSecretsRequest, req, fields)
        return await self._call("ListSecrets", request, secret_pb2.ListSecretsResponse, True, timeout)

    async def delete_secret(
        self,
        req: secret_pb2.DeleteSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.DeleteSecretResponse:
        """As `SecretClient.delete_secret`."""
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.DeleteSecretRequest, req, fields)
        return await self._call("DeleteSecret", request, secret_pb2.DeleteSecretResponse, False, timeout)

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
        fields = {
            "name": name,
            "realm": realm,
            "new_value": new_value,
            "expected_version": expected_version,
            "grace_period": grace_period,
        }
        request = _request(secret_pb2.RotateSecretRequest, req, fields)
        return await self._call("RotateSecret", request, secret_pb2.RotateSecretResponse, request.HasField("expected_version"), timeout)

    async def validate_secret(
        self,
        req: secret_pb2.ValidateSecretRequest | None = None,
        *,
        name: str | None = None,
        realm: str | None = None,
        timeout: float | None = None,
    ) -> secret_pb2.ValidateSecretResponse:
        """As `SecretClient.validate_secret`."""
        fields = {"name": name, "realm": realm}
        request = _request(secret_pb2.ValidateSecretRequest, req, fields)
        return await self._call("ValidateSecret", request, secret_pb2.ValidateSecretResponse, True, timeout)

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
        fields = {"name": name, "realm": realm, "user_id": user_id, "version": version}
        request = _request(secret_pb2.GetSecretValueRequest, req, fields)
        return await self._call("GetSecretValue", request, secret_pb2.GetSecretValueResponse, True, timeout)

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
        fields = {
            "realm": realm,
            "status": status,
            "tags": tags,
            "page_size": page_size,
            "page_token": page_token,
            "name_prefix": name_prefix,
        }
        request = _copy(_request(secret_pb2.ListSecretsRequest, req, fields))
        while True:
            page = await self.list_secrets(request, timeout=timeout)
            for secret in page.secrets:
                yield secret
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _call(
        self, name: str, request: Message, response: type[_Response], safe: bool, timeout: float | None
    ) -> _Response:
        call = _Call(self._settings, name, safe, timeout)
        body = request.SerializeToString()
        while True:
            outcome = await self._http.post(SERVICE + name, body, call.headers(), call.left)
            result = call.settle(outcome, response)
            if not isinstance(result, AgentRouterError):
                return result
            await asyncio.sleep(call.pause_after(result))

    def __repr__(self) -> str:
        return f"AsyncSecretClient({self._settings!r})"
