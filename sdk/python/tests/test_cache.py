"""The cache of values beyond the table of test_tables.py: requests, threads, tasks, memory. Sync and async."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import KEY, Reply, FakeServer, ok, refusal
from tars.secret.v1 import secret_pb2 as pb

import agentrouter_sdk as sdk
from agentrouter_sdk import AsyncClient, AsyncSecrets, Client, ConfigError, Secrets

NOT_FOUND = refusal(404, "not_found", "SECRET_NOT_FOUND")


def value(text: str) -> Reply:
    return ok(pb.GetSecretValueResponse(value=text))


class Cache:
    """A cache on a fake clock, sync or async."""

    def __init__(self, kind: str, url: str, **settings: Any) -> None:
        self.now = 1000.0
        self.secrets: Any
        if kind == "sync":
            self.loop = None
            self.secrets = Secrets(Client(base_url=url, api_key=KEY, retries=0), **settings)
        else:
            self.loop = asyncio.new_event_loop()
            self.secrets = AsyncSecrets(AsyncClient(base_url=url, api_key=KEY, retries=0), **settings)
        self.secrets._store.clock = lambda: self.now

    def get(self, *key: str) -> str:
        key = key or ("n", "mcp", "u")
        got = self.secrets.get(*key) if self.loop is None else self.loop.run_until_complete(self.secrets.get(*key))
        return str(got)


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, server: FakeServer) -> Callable[..., Cache]:
    return lambda **settings: Cache(request.param, server.url, **settings)


def test_a_value_is_read_once_and_served_from_memory(server: FakeServer, make: Callable[..., Cache]) -> None:
    cache = make()
    server.respond_with(value("a"), value("b"))
    for age in (0, 5, 14.9):
        cache.now = 1000 + age
        assert cache.get() == "a"
    (sent,) = server.requests
    assert pb.GetSecretValueRequest.FromString(sent.body) == pb.GetSecretValueRequest(
        name="n", realm="mcp", user_id="u"
    )
    assert cache.get("other") == "b" and len(server.requests) == 2


def test_what_is_forgotten_is_fetched_again(server: FakeServer, make: Callable[..., Cache]) -> None:
    cache = make()
    server.respond_with(value("a"), value("b"), value("c"))
    assert cache.get() == "a"
    cache.secrets.forget("n", "mcp", "u")
    assert cache.get() == "b"
    cache.secrets.clear()
    assert cache.get() == "c"


def test_no_more_than_max_entries_and_nothing_too_old_is_kept(server: FakeServer, make: Callable[..., Cache]) -> None:
    cache = make(max_entries=2)
    server.respond_with(value("a"))
    for name in ("x", "y", "z"):
        cache.get(name)
    assert [key[0] for key in cache.secrets._store.entries] == ["y", "z"]
    cache.now += 301
    cache.get("w")
    assert [key[0] for key in cache.secrets._store.entries] == ["w"]


def test_no_repr_shows_a_value(server: FakeServer, make: Callable[..., Cache]) -> None:
    cache = make()
    server.respond_with(value("Canary-value"))
    cache.get()
    shown = repr(cache.secrets) + repr(cache.secrets._store) + repr(cache.secrets._store.entries)
    assert "Canary" not in shown and "entries=1" in shown


def test_its_settings_are_checked() -> None:
    client = Client(base_url="https://h", api_key=KEY)
    for wrong in ({"max_age": 0}, {"max_stale": -1}, {"max_entries": 0}):
        with pytest.raises(ConfigError):
            Secrets(client, **wrong)


def test_many_threads_share_one_fetch_and_each_gets_its_own_error(server: FakeServer) -> None:
    cache = Cache("sync", server.url)
    errors: list[BaseException] = []
    gate = threading.Barrier(8)

    def get() -> str:
        gate.wait()
        try:
            return cache.get()
        except sdk.NotFoundError as error:
            errors.append(error)
            return "none"

    with ThreadPoolExecutor(8) as pool:
        server.respond_with(Reply(delay=1.0, body=value("a").body))
        assert {f.result() for f in [pool.submit(get) for _ in range(8)]} == {"a"}
        assert len(server.requests) == 1
        cache.secrets.clear()
        server.respond_with(Reply(NOT_FOUND.status, NOT_FOUND.body, NOT_FOUND.content_type, NOT_FOUND.headers, delay=1.0))
        assert {f.result() for f in [pool.submit(get) for _ in range(8)]} == {"none"}
        assert len(server.requests) == 1 and len({id(error) for error in errors}) == 8


def test_many_tasks_share_one_fetch_which_outlives_a_cancelled_one(server: FakeServer) -> None:
    server.respond_with(Reply(delay=1.0, body=value("a").body))

    async def run() -> None:
        async with AsyncClient(base_url=server.url, api_key=KEY) as client:
            secrets = AsyncSecrets(client)
            tasks = [asyncio.create_task(secrets.get("n")) for _ in range(8)]
            end = time.monotonic() + 30
            while not server.requests and time.monotonic() < end:
                await asyncio.sleep(0.01)
            tasks[0].cancel()
            assert await asyncio.gather(*tasks[1:]) == ["a"] * 7
            assert tasks[0].cancelled() and len(server.requests) == 1

    asyncio.run(run())


def test_what_is_forgotten_during_a_fetch_is_not_put_back(server: FakeServer) -> None:
    cache = Cache("sync", server.url)
    server.respond_with(Reply(delay=1.0, body=value("before").body), value("after"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get)
        end = time.monotonic() + 30
        while not server.requests and time.monotonic() < end:
            time.sleep(0.01)
        cache.secrets.forget("n", "mcp", "u")
        assert first.result() == "before"
    assert cache.get() == "after"
