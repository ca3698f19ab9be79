"""HTTP of the calls: connections, proxies, Unix sockets, forks and the time limit. Sync and async.

`_secret.py` posts bodies with `SyncHttp` and `AsyncHttp`. httpx has no threads of its own, so that signals, forks and
interrupts work as in any Python program. Each process, and for asyncio each event loop, has its own connections. After a
request timed out, the existing connections get no more requests. So a broken network path fails only the requests in
progress.

Deliberately absent: HTTP/2, whose one connection would need pings from a thread of its own, and redirects.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar, Union
from weakref import WeakKeyDictionary, WeakSet

import httpcore
import httpx

from ._errors import AgentRouterError, CallTimeoutError, Code, TransportError, UnreachableError, innermost, tidy
from ._route import Route

# The largest response that is read, in bytes. It exceeds the largest page of a list.
_RESPONSE_BYTES = 64 * 1024 * 1024
# The largest number of connections.
_CONNECTIONS = 100
# How long an idle connection is kept, in seconds. The server closes one after 10: a shorter time keeps writes off it.
_IDLE = 8.0

_Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)


class Reply(NamedTuple):
    """A response, of the service or of another program."""

    status: int
    headers: httpx.Headers
    body: bytes


Outcome = Union[Reply, AgentRouterError]


# Forks.

_fork_aware: WeakSet[Any] = WeakSet()


def on_fork(owner: Any) -> None:
    """Calls `owner._after_fork()` in every forked process, before its code runs."""
    _fork_aware.add(owner)


def _after_fork() -> None:
    for owner in list(_fork_aware):
        owner._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# Connections.


class _Generation(Generic[_Client]):
    """Connections that were made since the last timeout, with the number of their requests in progress."""

    def __init__(self, http: _Client) -> None:
        self.http: _Client = http
        self.requests = 0
        self.retired = False


class _SyncScope:
    """The owner of the connections of a sync client. For asyncio, it is the event loop."""


class _Connections(Generic[_Client]):
    """The current connections of this process, for each event loop."""

    def __init__(self, make: Callable[[], _Client]) -> None:
        self._make: Callable[[], _Client] = make
        self._closed = False
        # The connections of the parent process. They are neither used nor closed: TLS would end the parent's too.
        self._parents: list[object] = []
        self._after_fork()
        on_fork(self)

    def _after_fork(self) -> None:
        # Another thread of the parent may have held the lock.
        self._lock = threading.Lock()
        if getattr(self, "_current", None):
            self._parents.append(self._current)
        self._current: MutableMapping[object, _Generation[_Client]] = WeakKeyDictionary()

    def take(self, scope: object) -> _Generation[_Client] | None:
        """The connections for a request. None if they are closed."""
        with self._lock:
            if self._closed:
                return None
            generation = self._current.get(scope)
            if generation is None:
                generation = self._current[scope] = _Generation(self._make())
            generation.requests += 1
            return generation

    def give_back(self, scope: object, generation: _Generation[_Client], retire: bool) -> _Client | None:
        """Ends a request. Returns what the caller must close: the last request of retired connections ended."""
        with self._lock:
            generation.requests -= 1
            if retire:
                generation.retired = True
                if self._current.get(scope) is generation:
                    del self._current[scope]
            return generation.http if generation.retired and not generation.requests else None

    def close(self, scope: object) -> _Client | None:
        """Ends all use. Returns what the caller must close."""
        with self._lock:
            self._closed = True
            generation = self._current.pop(scope, None)
            self._current.clear()
            return generation.http if generation else None


class SyncHttp:
    """Posts requests for `SecretClient`."""

    def __init__(self, route: Route, own: httpx.Client | None) -> None:
        self._route = route
        self._own = own
        self._scope = _SyncScope()
        self._connections = _Connections(lambda: httpx.Client(transport=_Transport(route), trust_env=False))

    def post(self, path: str, body: bytes, headers: dict[str, str], timeout: float) -> Outcome:
        """The response, or the error if there is none within the timeout, in seconds."""
        generation = None if self._own else self._connections.take(self._scope)
        http = self._own or (generation.http if generation else None)
        if http is None:
            return _closed()
        deadline = time.monotonic() + timeout
        token = _deadline.set(deadline)
        retire = False
        try:
            request = http.build_request("POST", self._route.base_url + path, content=body, headers=headers, timeout=timeout)
            response = http.send(request, stream=True, auth=None, follow_redirects=False)
            try:
                parts = bytearray()
                for part in response.iter_bytes():
                    parts += part
                    if len(parts) > _RESPONSE_BYTES:
                        return _too_large()
                    if time.monotonic() > deadline:
                        retire = True
                        return _timed_out()
                return Reply(response.status_code, response.headers, bytes(parts))
            finally:
                response.close()
        except httpx.TimeoutException as error:
            retire = not isinstance(error, httpx.PoolTimeout)
            return _timed_out()
        except (httpx.HTTPError, httpx.StreamError) as error:
            return _unreachable(error)
        finally:
            _deadline.reset(token)
            done = self._connections.give_back(self._scope, generation, retire) if generation else None
            if done is not None:
                done.close()

    def close(self) -> None:
        done = self._connections.close(self._scope)
        if done is not None:
            done.close()


class AsyncHttp:
    """Posts requests for `AsyncSecretClient`."""

    def __init__(self, route: Route, own: httpx.AsyncClient | None) -> None:
        self._route = route
        self._own = own
        self._connections = _Connections(lambda: httpx.AsyncClient(transport=_AsyncTransport(route), trust_env=False))

    async def post(self, path: str, body: bytes, headers: dict[str, str], timeout: float) -> Outcome:
        """As `SyncHttp.post`."""
        scope = asyncio.get_running_loop()
        generation = None if self._own else self._connections.take(scope)
        http = self._own or (generation.http if generation else None)
        if http is None:
            return _closed()
        retire = False
        try:
            return await asyncio.wait_for(self._exchange(http, path, body, headers), timeout)
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            retire = not isinstance(error, httpx.PoolTimeout)
            return _timed_out()
        except (httpx.HTTPError, httpx.StreamError) as error:
            return _unreachable(error)
        finally:
            done = self._connections.give_back(scope, generation, retire) if generation else None
            if done is not None:
                await done.aclose()

    async def _exchange(self, http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]) -> Outcome:
        # The caller has the time limit.
        request = http.build_request("POST", self._route.base_url + path, content=body, headers=headers, timeout=None)
        response = await http.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            parts = bytearray()
            async for part in response.aiter_bytes():
                parts += part
                if len(parts) > _RESPONSE_BYTES:
                    return _too_large()
            return Reply(response.status_code, response.headers, bytes(parts))
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        done = self._connections.close(asyncio.get_running_loop())
        if done is not None:
            await done.aclose()


class _Transport(httpx.HTTPTransport):
    """httpx's transport over a pool that keeps to the deadline of the call."""

    def __init__(self, route: Route) -> None:
        # Not the base class's, which makes a pool of its own.
        self._pool = httpcore.ConnectionPool(
            ssl_context=route.tls,
            proxy=route.proxy,
            uds=route.socket,
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE,
            network_backend=_Backend(),
        )


class _AsyncTransport(httpx.AsyncHTTPTransport):
    def __init__(self, route: Route) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=route.tls,
            proxy=route.proxy,
            uds=route.socket,
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE,
        )


# The deadline of a sync call. Each operation of a socket gets the time that is left, so that a response that arrives byte
# by byte cannot take longer. For asyncio, `asyncio.wait_for` does the same.

_deadline: ContextVar[float] = ContextVar("agentrouter_sdk_deadline")


def _left() -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time limit of the call is reached")
    return left


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> _Stream:
        addresses = _resolve(host, port)
        for number, address in enumerate(addresses, 1):
            # An address that does not respond leaves time for the others.
            share = _left() / (len(addresses) - number + 1)
            try:
                return _Stream(super().connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError("the host has no address")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> _Stream:
        return _Stream(super().connect_unix_socket(path, _left(), socket_options))


def _resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver. It has no time limit of its own, so a thread waits for it."""
    found: Future[list[str]] = Future()

    def run() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))
        except BaseException as error:
            found.set_exception(error)

    if ":" in host or host.replace(".", "").isdigit():
        run()
    else:
        try:
            threading.Thread(target=run, name="agentrouter-resolver", daemon=True).start()
        except RuntimeError:  # The interpreter ends.
            run()
    try:
        return found.result(_left())
    except FutureTimeoutError:
        raise httpcore.ConnectTimeout("the name of the server was not resolved in time") from None
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from None


# Errors. None of them keeps the error of httpx, whose request has the key and the value.


def _timed_out() -> AgentRouterError:
    # `_secret.py` adds the limit of the whole call.
    return CallTimeoutError(code=Code.DEADLINE_EXCEEDED)


def _unreachable(error: BaseException) -> AgentRouterError:
    if isinstance(error, httpx.ProxyError):
        return UnreachableError(f"the proxy of the environment refused: {tidy(error)}", code=Code.UNAVAILABLE)
    return UnreachableError(f"cannot reach the server: {innermost(error)}", code=Code.UNAVAILABLE)


def _too_large() -> AgentRouterError:
    return TransportError(f"the response is larger than {_RESPONSE_BYTES} bytes", code=Code.RESOURCE_EXHAUSTED)


def _closed() -> AgentRouterError:
    return TransportError("the client is closed", code=Code.FAILED_PRECONDITION)
