"""The SDK as a Python library: forks, signals, broken paths, proxies, sockets, event loops. Sync and async."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, Reply, Certificate, FakeServer, Request, ok
from relays import Relay
from tars.secret.v1 import secret_pb2 as pb

import agentrouter_sdk as sdk
from agentrouter_sdk import AsyncClient, Client, Secrets
from agentrouter_sdk._route import proxy_for

FOUND = ok(pb.GetSecretResponse(secret=pb.Secret(name="n")))


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Caller:
    """One client that makes many calls. The async one runs each on the same event loop."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.client: Any = (Client if kind == "sync" else AsyncClient)(api_key=KEY, **settings)

    def get(self, timeout: float | None = None) -> str:
        call = self.client.secret.get_secret(name="n", timeout=timeout)
        return str((self.loop.run_until_complete(call) if self.loop else call).secret.name)

    def get_at_once(self, count: int) -> list[str]:
        async def gather() -> list[Any]:
            return await asyncio.gather(*[self.client.secret.get_secret(name="n") for _ in range(count)])

        if self.loop:
            return [response.secret.name for response in self.loop.run_until_complete(gather())]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.get(), range(count)))

    def close(self) -> None:
        if self.loop:
            self.loop.run_until_complete(self.client.aclose())
            self.loop.close()
        else:
            self.client.close()


@pytest.fixture
def caller(kind: str) -> Iterator[Callable[..., Caller]]:
    made: list[Caller] = []

    def make(**settings: Any) -> Caller:
        made.append(Caller(kind, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


# Forks.


def in_child(work: Callable[[], Any]) -> Any:
    """The result of `work` in a forked process, or its exception's text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = work()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready = select.select([reading], [], [], 20)[0]
        return json.loads(os.read(reading, 65536)) if ready else "it hangs"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def one_call(kind: str, client: Any) -> str:
    if kind == "sync":
        return str(client.secret.get_secret(name="n", timeout=5).secret.name)
    return str(asyncio.run(client.secret.get_secret(name="n", timeout=5)).secret.name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tls", [False, True])
def test_a_forked_process_makes_calls_of_its_own(
    server: FakeServer, tls_server: FakeServer, certificate: Certificate, kind: str, tls: bool
) -> None:
    used, fake = (tls_server, certificate.path) if tls else (server, None)
    used.respond_with(FOUND)
    make = Client if kind == "sync" else AsyncClient
    settings: dict[str, Any] = {"base_url": used.url, "api_key": KEY, "ca_file": fake}
    client = make(**settings)
    assert in_child(lambda: one_call(kind, client)) == "n", "made in the parent, used in the child"
    assert one_call(kind, client) == "n"
    for _ in range(3):
        assert in_child(lambda: one_call(kind, client)) == "n", "used in the parent before"
        assert one_call(kind, client) == "n", "the parent's connection still works"
    assert in_child(lambda: one_call(kind, make(**settings))) == "n", "another client in the child"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_during_calls_of_other_threads_does_not_hang_the_child(server: FakeServer) -> None:
    server.respond_with(ok(pb.GetSecretValueResponse(value="v")))
    entered, leave = threading.Event(), threading.Event()
    client = Client(base_url=server.url, api_key=KEY)
    secrets = Secrets(client)

    def handler(_: Request) -> Reply:
        entered.set()
        if not leave.is_set():
            leave.wait(30)
        return server.script[0]

    server.handler = handler
    thread = threading.Thread(target=secrets.get, args=("n",))
    thread.start()
    assert entered.wait(30)
    # As if another thread held them at the moment of the fork.
    with client._http._connections._lock, secrets._lock:
        leave.set()
        assert in_child(lambda: secrets.get("n")) == "v"
    thread.join()
    assert in_child(lambda: len(secrets._store.entries)) == 1, "the child keeps the values"


def _pool_call(job: tuple[str, str]) -> str:
    kind, url = job
    return one_call(kind, _POOL_CLIENTS[kind, url])


_POOL_CLIENTS: dict[tuple[str, str], Any] = {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_workers_of_a_pool_share_the_client_of_their_parent(server: FakeServer, kind: str) -> None:
    server.respond_with(FOUND)
    client = (Client if kind == "sync" else AsyncClient)(base_url=server.url, api_key=KEY)
    assert one_call(kind, client) == "n"
    _POOL_CLIENTS[kind, server.url] = client
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(_pool_call, [(kind, server.url)] * 12).get(30) == ["n"] * 12


# Signals, event loops, connections.


def test_an_interrupt_ends_a_call_at_once(server: FakeServer) -> None:
    def handler(_: Request) -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return Reply(delay=60)

    server.handler = handler
    start = time.monotonic()
    # Python handles a signal before it waits, or when a signal interrupts the wait. The interrupt may come
    # in between, and is handled at the next tick of the timer then.
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt), Client(base_url=server.url, api_key=KEY) as client:
            client.secret.get_secret(name="n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 25


def test_another_signal_does_not_end_a_call(server: FakeServer) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))

    def handler(_: Request) -> Reply:
        os.kill(os.getpid(), signal.SIGUSR1)
        return FOUND

    server.handler = handler
    try:
        with Client(base_url=server.url, api_key=KEY) as client:
            assert client.secret.get_secret(name="n").secret.name == "n"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_calls_in_sequence_share_a_connection(server: FakeServer, caller: Callable[..., Caller]) -> None:
    server.respond_with(FOUND)
    one = caller(base_url=server.url)
    for _ in range(10):
        assert one.get() == "n"
    assert server.connections == 1


def test_one_async_client_works_on_several_event_loops(server: FakeServer) -> None:
    server.respond_with(FOUND)
    client = AsyncClient(base_url=server.url, api_key=KEY)

    async def run() -> list[str]:
        calls = [client.secret.get_secret(name="n") for _ in range(3)]
        return [response.secret.name for response in await asyncio.gather(*calls)]

    for _ in range(3):
        assert asyncio.run(run()) == ["n"] * 3


# The time limit.


def test_a_broken_path_fails_only_the_calls_in_progress(
    tls_server: FakeServer, certificate: Certificate, caller: Callable[..., Caller]
) -> None:
    together = threading.Barrier(4)

    def handler(_: Request) -> Reply:
        if len(tls_server.requests) <= 4:
            together.wait(30)
        return FOUND

    tls_server.handler = handler
    relay = Relay(tls_server.port)
    try:
        one = caller(base_url=f"https://127.0.0.1:{relay.port}", ca_file=certificate.path, timeout=60)
        assert one.get_at_once(4) == ["n"] * 4 and relay.connections == 4
        relay.silence()
        with pytest.raises(sdk.CallTimeoutError):
            one.get(timeout=2.5)
        assert [one.get() for _ in range(7)] == ["n"] * 7
    finally:
        relay.stop()


def test_a_broken_path_does_not_break_calls_on_other_connections(server: FakeServer) -> None:
    """The connections of calls in progress are retired, not closed."""
    entered, leave = threading.Event(), threading.Event()

    def handler(request: Request) -> Reply:
        if pb.GetSecretRequest.FromString(request.body).name == "slow":
            entered.set()
            leave.wait(30)
        elif not leave.is_set():
            return Reply(delay=1.0)
        return FOUND

    server.handler = handler
    found: list[str] = []
    with Client(base_url=server.url, api_key=KEY) as client:
        slow = threading.Thread(target=lambda: found.append(client.secret.get_secret(name="slow").secret.name))
        slow.start()
        assert entered.wait(30)
        with pytest.raises(sdk.CallTimeoutError):
            client.secret.get_secret(name="n", timeout=0.2)
        leave.set()
        slow.join()
        assert found == ["n"] and client.secret.get_secret(name="n").secret.name == "n"


def test_a_response_byte_by_byte_does_not_extend_the_time_limit(caller: Callable[..., Caller]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while not ended.wait(0.05):
                    connection.sendall(b"y")
            except OSError:
                pass
            connection.close()

        thread = threading.Thread(target=drip)
        thread.start()
        start = time.monotonic()
        with pytest.raises(sdk.CallTimeoutError, match=r"within 0\.5 s"):
            caller(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5, retries=0).get()
        assert time.monotonic() - start < 25
        ended.set()
        thread.join()


def test_a_resolver_that_hangs_does_not_extend_the_time_limit(
    caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        leave.wait(30)
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    one = caller(base_url="https://secrets.corp.example", timeout=0.5)
    start = time.monotonic()
    with pytest.raises(sdk.CallTimeoutError):
        one.get()
    assert time.monotonic() - start < 25
    leave.set()


def test_the_system_resolves_names_also_those_with_an_underscore(
    server: FakeServer, caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host in ("my_host", b"my_host") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    server.respond_with(FOUND)
    assert caller(base_url=f"http://my_host:{server.port}", allow_http=True).get() == "n"
    assert server.requests[0].headers["host"] == f"my_host:{server.port}"


# Proxies and sockets.


def test_calls_go_through_the_proxy_of_the_environment(
    tls_server: FakeServer, certificate: Certificate, caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_server.respond_with(FOUND)
    relay = Relay(tls_server.port, connect=True)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass%21@127.0.0.1:{relay.port}")
    settings = {"base_url": "https://secrets.corp.example", "ca_file": certificate.path, "retries": 0}
    try:
        one = caller(**settings)
        assert [one.get(), one.get()] == ["n", "n"]
        (head,) = relay.heads
        assert head.startswith("CONNECT secrets.corp.example:443 HTTP/1.1\r\n")
        assert "proxy-authorization: basic dxnlcjpwyxnzIQ==".lower() in head.lower()
        assert KEY not in head and tls_server.requests[0].headers["authorization"] == f"Bearer ak-{KEY}"
        assert caller(base_url=tls_server.url, ca_file=certificate.path).get() == "n", "loopback has no proxy"
        assert len(relay.heads) == 1

        monkeypatch.setenv("NO_PROXY", "other.example, .corp.example")
        with pytest.raises(sdk.UnreachableError):
            caller(**settings, timeout=2).get()
        assert len(relay.heads) == 1
    finally:
        relay.stop()


def test_the_error_for_a_refusal_of_a_proxy_names_the_proxy(
    caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(0, connect=True, refusal=b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{relay.port}")
    try:
        with pytest.raises(sdk.UnreachableError, match="the proxy of the environment refused: 407"):
            caller(base_url="https://secrets.corp.example", retries=0).get()
    finally:
        relay.stop()


def test_the_error_for_a_response_of_a_proxy_names_the_proxy(server: FakeServer, caller: Callable[..., Caller]) -> None:
    server.respond_with(Reply(503, b"<html>no upstream</html>", "text/html"))
    with pytest.raises(sdk.UnavailableError, match=r"from a proxy or another program \(HTTP 503 Service Unavailable\)"):
        caller(base_url=server.url, retries=0).get()


@pytest.mark.parametrize(
    ("variables", "scheme", "host", "used"),
    [
        ({"HTTP_PROXY": "p", "REQUEST_METHOD": "GET"}, "http", "h.example", None),
        ({"https_proxy": "https://p"}, "https", "h.example", b"p:443"),
        ({"HTTPS_PROXY": "upper", "https_proxy": "lower"}, "https", "h.example", b"lower:80"),
    ],
)
def test_the_environment_chooses_the_proxy_also_where_the_languages_differ(
    variables: dict[str, str], scheme: str, host: str, used: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(scheme, host, 443 if scheme == "https" else 80)
    assert (b"%s:%d" % (proxy.url.host, proxy.url.port or 0) if proxy else None) == used


def test_a_proxy_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("socks5://p:1", "http://", "http://p:port"):
        monkeypatch.setenv("HTTPS_PROXY", wrong)
        with pytest.raises(sdk.ConfigError, match="HTTPS_PROXY"):
            Client(base_url="https://h.example", api_key=KEY)


def test_calls_go_to_a_unix_socket(tmp_path: Path, caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server = FakeServer(socket_path=str(tmp_path / "s.sock"))
    server.respond_with(FOUND)
    try:
        one = caller(base_url=server.url)
        assert [one.get(), one.get()] == ["n", "n"]
        assert server.requests[0].headers["host"] == "localhost" and server.connections == 1
        assert server.requests[0].path == "/agentrouter.secret.v1.SecretService/GetSecret"
    finally:
        server.stop()
    with pytest.raises(sdk.UnreachableError, match="No such file"):
        caller(base_url=f"unix:{tmp_path}/absent.sock", retries=0).get()
