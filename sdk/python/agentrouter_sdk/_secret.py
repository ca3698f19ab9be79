"""The seven calls of the secret service, sync and async, over the generated clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

import pyqwest
from connectrpc.client import ResponseMetadata
from connectrpc.errors import ConnectError
from tars.secret.v1 import secret_pb2
from tars.secret.v1.secret_connect import SecretServiceClient, SecretServiceClientSync

from ._errors import AgentRouterError, from_rpc
from ._retry import pause
from ._settings import Settings, seconds

_Response = TypeVar("_Response")

# The largest response that is read, in bytes. It exceeds the largest page of a list.
_RESPONSE_BYTES = 64 * 1024 * 1024


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

    def __init__(self, settings: Settings, safe: bool, timeout: float | None) -> None:
        self.timeout = settings.timeout if timeout is None else seconds("the timeout", timeout)
        self._deadline = time.monotonic() + self.timeout
        self._retries_left = settings.retries if safe else 0
        self._retry = 0

    @property
    def left_ms(self) -> int:
        return max(1, int((self._deadline - time.monotonic()) * 1000))

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


def _check(request: object, kind: type) -> None:
    """The RPC library would report another type as a server that cannot be reached."""
    if not isinstance(request, kind):
        raise TypeError(f"the request must be a {kind.__name__}, not a {type(request).__name__}")


def _request_copy(request: secret_pb2.ListSecretsRequest) -> secret_pb2.ListSecretsRequest:
    _check(request, secret_pb2.ListSecretsRequest)
    copy = secret_pb2.ListSecretsRequest()
    copy.CopyFrom(request)
    return copy


class SecretClient:
    """The secret service. Threads may share it.

    `timeout` is the time limit of a call, with its retries and pauses, in seconds. Default: the client's. Reads, and writes
    with `expected_version`, are retried when the server is unavailable or limits the rate. If the first attempt of such a
    write was made and its response was lost, the second is rejected with `VERSION_MISMATCH`.

    Raises:
        RefusedError: The server rejected the request. The subclasses are the codes.
        UnavailableError: The server cannot be reached, or cannot serve the call now.
        DeadlineExceededError: There was no response in time.
        TransportError: There is no response of the service.
        TypeError: The request is not the call's message.
    """

    def __init__(self, settings: Settings, http_client: pyqwest.SyncClient) -> None:
        """`Client` makes these."""
        self._settings = settings
        self._rpc = SecretServiceClientSync(
            settings.base_url,
            accept_compression=(),
            send_compression=None,
            read_max_bytes=_RESPONSE_BYTES,
            http_client=http_client,
        )

    def create_secret(
        self, req: secret_pb2.CreateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.CreateSecretResponse:
        """Creates a secret, or updates the one of that owner, realm and name. Needs the scope `secrets/write`."""
        _check(req, secret_pb2.CreateSecretRequest)
        return self._call(self._rpc.create_secret, req, req.HasField("expected_version"), timeout)

    def get_secret(
        self, req: secret_pb2.GetSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.GetSecretResponse:
        """Reads the metadata of a secret's active version. Needs the scope `secrets/read`."""
        _check(req, secret_pb2.GetSecretRequest)
        return self._call(self._rpc.get_secret, req, True, timeout)

    def list_secrets(
        self, req: secret_pb2.ListSecretsRequest, *, timeout: float | None = None
    ) -> secret_pb2.ListSecretsResponse:
        """Lists one page of metadata. `list_all` iterates over all pages. Needs the scope `secrets/read`."""
        _check(req, secret_pb2.ListSecretsRequest)
        return self._call(self._rpc.list_secrets, req, True, timeout)

    def delete_secret(
        self, req: secret_pb2.DeleteSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.DeleteSecretResponse:
        """Deletes a secret with all its versions. It is never retried. Needs the scope `secrets/write`."""
        _check(req, secret_pb2.DeleteSecretRequest)
        return self._call(self._rpc.delete_secret, req, False, timeout)

    def rotate_secret(
        self, req: secret_pb2.RotateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.RotateSecretResponse:
        """Gives a secret a new active version. The previous version stays readable for a grace period.

        Needs the scope `secrets/write`.
        """
        _check(req, secret_pb2.RotateSecretRequest)
        return self._call(self._rpc.rotate_secret, req, req.HasField("expected_version"), timeout)

    def validate_secret(
        self, req: secret_pb2.ValidateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.ValidateSecretResponse:
        """Checks that the stored bytes of a secret can be opened. Needs the scope `secrets/read`.

        If not, the response has `valid` false. It is not an exception.
        """
        _check(req, secret_pb2.ValidateSecretRequest)
        return self._call(self._rpc.validate_secret, req, True, timeout)

    def get_secret_value(
        self, req: secret_pb2.GetSecretValueRequest, *, timeout: float | None = None
    ) -> secret_pb2.GetSecretValueResponse:
        """Reads the value of a secret. For internal services. Needs the scope `secrets/read/internal`.

        `repr` and `str` of the response show the value: print `response.secret` instead.
        """
        _check(req, secret_pb2.GetSecretValueRequest)
        return self._call(self._rpc.get_secret_value, req, True, timeout)

    def list_all(
        self, req: secret_pb2.ListSecretsRequest, *, timeout: float | None = None
    ) -> Iterator[secret_pb2.Secret]:
        """Iterates over all secrets of a list, starting at `req.page_token`, `req.page_size` in each request.

        It requests a page when the iteration reaches it. `timeout` applies to each request.
        """
        request = _request_copy(req)
        while True:
            page = self.list_secrets(request, timeout=timeout)
            yield from page.secrets
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _call(self, method: Callable[..., _Response], request: Any, safe: bool, timeout: float | None) -> _Response:
        """Makes a call and its retries within the timeout."""
        call = _Call(self._settings, safe, timeout)
        while True:
            with ResponseMetadata() as answer:
                try:
                    return method(request, headers=self._settings.headers, timeout_ms=call.left_ms)
                except ConnectError as error:
                    failure = from_rpc(error, answer, call.timeout)
            time.sleep(call.pause_after(failure))

    def __repr__(self) -> str:
        return f"SecretClient({self._settings!r})"


class AsyncSecretClient:
    """`SecretClient` for asyncio: the same calls, to await, with the same exceptions."""

    def __init__(self, settings: Settings, http_client: pyqwest.Client) -> None:
        """`AsyncClient` makes these."""
        self._settings = settings
        self._rpc = SecretServiceClient(
            settings.base_url,
            accept_compression=(),
            send_compression=None,
            read_max_bytes=_RESPONSE_BYTES,
            http_client=http_client,
        )

    async def create_secret(
        self, req: secret_pb2.CreateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.CreateSecretResponse:
        """As `SecretClient.create_secret`."""
        _check(req, secret_pb2.CreateSecretRequest)
        return await self._call(self._rpc.create_secret, req, req.HasField("expected_version"), timeout)

    async def get_secret(
        self, req: secret_pb2.GetSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.GetSecretResponse:
        """As `SecretClient.get_secret`."""
        _check(req, secret_pb2.GetSecretRequest)
        return await self._call(self._rpc.get_secret, req, True, timeout)

    async def list_secrets(
        self, req: secret_pb2.ListSecretsRequest, *, timeout: float | None = None
    ) -> secret_pb2.ListSecretsResponse:
        """As `SecretClient.list_secrets`."""
        _check(req, secret_pb2.ListSecretsRequest)
        return await self._call(self._rpc.list_secrets, req, True, timeout)

    async def delete_secret(
        self, req: secret_pb2.DeleteSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.DeleteSecretResponse:
        """As `SecretClient.delete_secret`."""
        _check(req, secret_pb2.DeleteSecretRequest)
        return await self._call(self._rpc.delete_secret, req, False, timeout)

    async def rotate_secret(
        self, req: secret_pb2.RotateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.RotateSecretResponse:
        """As `SecretClient.rotate_secret`."""
        _check(req, secret_pb2.RotateSecretRequest)
        return await self._call(self._rpc.rotate_secret, req, req.HasField("expected_version"), timeout)

    async def validate_secret(
        self, req: secret_pb2.ValidateSecretRequest, *, timeout: float | None = None
    ) -> secret_pb2.ValidateSecretResponse:
        """As `SecretClient.validate_secret`."""
        _check(req, secret_pb2.ValidateSecretRequest)
        return await self._call(self._rpc.validate_secret, req, True, timeout)

    async def get_secret_value(
        self, req: secret_pb2.GetSecretValueRequest, *, timeout: float | None = None
    ) -> secret_pb2.GetSecretValueResponse:
        """As `SecretClient.get_secret_value`. `repr` of the response shows the value."""
        _check(req, secret_pb2.GetSecretValueRequest)
        return await self._call(self._rpc.get_secret_value, req, True, timeout)

    async def list_all(
        self, req: secret_pb2.ListSecretsRequest, *, timeout: float | None = None
    ) -> AsyncIterator[secret_pb2.Secret]:
        """As `SecretClient.list_all`, for `async for`."""
        request = _request_copy(req)
        while True:
            page = await self.list_secrets(request, timeout=timeout)
            for secret in page.secrets:
                yield secret
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _call(
        self, method: Callable[..., Awaitable[_Response]], request: Any, safe: bool, timeout: float | None
    ) -> _Response:
        call = _Call(self._settings, safe, timeout)
        while True:
            failure: AgentRouterError | None = None
            with ResponseMetadata() as answer:
                try:
                    return await method(request, headers=self._settings.headers, timeout_ms=call.left_ms)
                except ConnectError as error:
                    if not isinstance(error.__cause__, asyncio.CancelledError):
                        failure = from_rpc(error, answer, call.timeout)
            if failure is None:
                # The RPC library turned the cancellation of the task into an error.
                raise asyncio.CancelledError
            await asyncio.sleep(call.pause_after(failure))

    def __repr__(self) -> str:
        return f"AsyncSecretClient({self._settings!r})"
