"""The tables of `sdk/cases` that need no server: errors, proxies, the service in memory, and retries and the
cache on a fake clock. Sync and async."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import KEY, Reply, FakeServer, refusal
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc.error_details_pb2 import RetryInfo
from tars.secret.v1 import secret_pb2 as pb

import agentrouter_sdk as sdk
from agentrouter_sdk import _cache, _retry, _secret, _settings
from agentrouter_sdk._route import proxy_for
from agentrouter_sdk.testing import FakeService

FOLDER = Path(__file__).parents[2] / "cases"


def table(name: str, *keys: str) -> Any:
    content = json.loads((FOLDER / name).read_text())
    only(content, "title", *keys)
    return content


def only(what: dict[str, Any], *known: str) -> None:
    assert set(what) <= set(known), f"unknown: {sorted(set(what) - set(known))}"


def outcome(error: sdk.AgentRouterError) -> dict[str, str]:
    return {"code": error.code, "reason": error.reason}


def public(kind: type) -> list[str]:
    constants = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    assert all(name == value for name, value in constants.items())
    return list(constants)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_constants_are_the_codes_and_reasons_of_the_table() -> None:
    errors = table("errors.json", "codes", "reasons")
    assert public(sdk.Code) == errors["codes"]
    assert public(sdk.Reason) == list(errors["reasons"])


RETRY = table("retry.json", "defaults", "cases")


def test_the_defaults_of_a_client_are_those_of_the_table() -> None:
    assert RETRY["defaults"] == {
        "timeout_ms": _settings.TIMEOUT * 1000,
        "retries": _settings.RETRIES,
        "base_ms": _retry.BASE * 1000,
        "factor": _retry.FACTOR,
        "cap_ms": _retry.CAP * 1000,
    }
    for client in (sdk.Client, sdk.AsyncClient):
        parameters = inspect.signature(client).parameters
        assert (parameters["timeout"].default, parameters["retries"].default) == (10.0, 2)


def response(attempt: dict[str, Any]) -> Reply:
    only(attempt, "drop", "status", "code", "reason", "retry_after", "retry_info_ms", "takes_ms")
    if attempt.get("drop"):
        return Reply(drop=True)
    if "status" not in attempt:
        return Reply()
    headers = {"retry_after": attempt["retry_after"]} if "retry_after" in attempt else {}
    delay = attempt.get("retry_info_ms", 0)
    info = [RetryInfo(retry_delay=Duration(nanos=delay % 1000 * 1_000_000, seconds=delay // 1000))] if delay else []
    return refusal(attempt["status"], attempt["code"], attempt.get("reason", ""), details=info, **headers)


@pytest.mark.parametrize("case", RETRY["cases"], ids=lambda case: case["title"])
def test_retries(case: dict[str, Any], kind: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("title", "call", "expected_version", "timeout_ms", "retries", "attempts", "random", "pauses_ms", "error")
    only(case, *keys)
    now = 1000.0
    pauses: list[float] = []
    script = list(case["attempts"])

    def handler(_: Any) -> Reply:
        nonlocal now
        attempt = script.pop(0)
        now += attempt.get("takes_ms", 0) / 1000
        return response(attempt)

    def sleep(pause: float) -> None:
        nonlocal now
        pauses.append(pause * 1000)
        now += pause

    async def async_sleep(pause: float) -> None:
        sleep(pause)

    server.handler = handler
    monkeypatch.setattr(_secret, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    fake = SimpleNamespace(sleep=async_sleep, CancelledError=asyncio.CancelledError)
    monkeypatch.setattr(_secret, "asyncio", fake)
    monkeypatch.setattr(_retry, "random", SimpleNamespace(random=lambda: case["random"][len(pauses)]))

    settings: dict[str, Any] = {"base_url": server.url, "api_key": KEY}
    if "timeout_ms" in case:
        settings["timeout"] = case["timeout_ms"] / 1000
    if "retries" in case:
        settings["retries"] = case["retries"]
    message = getattr(pb, case["call"] + "Request")()
    if "expected_version" in case:
        message.expected_version = case["expected_version"]
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", case["call"]).lower()

    async def run() -> None:
        async with sdk.AsyncClient(**settings) as client:
            await getattr(client.secret, method)(message)

    found = None
    try:
        if kind == "sync":
            with sdk.Client(**settings) as client:
                getattr(client.secret, method)(message)
        else:
            asyncio.run(run())
    except sdk.AgentRouterError as error:
        found = outcome(error)
    assert found == case.get("error")
    assert script == [] and len(server.requests) == len(case["attempts"])
    assert pauses == pytest.approx(case["pauses_ms"], abs=0.001)


CACHE = table("cache.json", "defaults", "cases")


def test_the_defaults_of_the_cache_are_those_of_the_table() -> None:
    assert CACHE["defaults"] == {
        "max_age_ms": _cache.MAX_AGE * 1000,
        "max_stale_ms": _cache.MAX_STALE * 1000,
        "max_entries": _cache.MAX_ENTRIES,
        "delay_ms": _cache.REFRESH_DELAY * 1000,
    }


class Server:
    """Responds as the last step says. A silent one holds requests until it is no longer silent."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.response: Any = None
        self.requests = 0
        self.held = 0
        self.changed = threading.Condition()

    def set(self, response: Any) -> None:
        with self.changed:
            self.response = response
            self.changed.notify_all()

    def outcome(self) -> pb.GetSecretValueResponse:
        said = self.response
        only(said, "value", "code", "reason", "retry_after_ms", "takes_ms")
        self.now += said.get("takes_ms", 0) / 1000
        if "value" in said:
            return pb.GetSecretValueResponse(value=said["value"])
        wait = said["retry_after_ms"] / 1000 if "retry_after_ms" in said else None
        raise sdk.AgentRouterError("No.", code=said["code"], reason=said["reason"], retry_after=wait)

    def get_secret_value(self, _: Any) -> pb.GetSecretValueResponse:
        with self.changed:
            self.requests += 1
            self.held += 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.response != "silent", timeout=30)
            self.held -= 1
            return self.outcome()


class AsyncServer(Server):
    def set(self, response: Any) -> None:
        self.response = response

    async def get_secret_value(self, _: Any) -> pb.GetSecretValueResponse:  # type: ignore[override]
        self.requests += 1
        self.held += 1
        while self.response == "silent":
            await asyncio.sleep(0)
        self.held -= 1
        return self.outcome()


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    cache = case.get("cache", {})
    only(cache, "max_age_ms", "max_stale_ms", "max_entries")
    settings = {name[:-3]: cache[name] / 1000 for name in cache if name.endswith("_ms")}
    return {**settings, **({"max_entries": cache["max_entries"]} if "max_entries" in cache else {})}


def begin(server: Server, step: dict[str, Any], cache: Any) -> None:
    only(step, "pass_ms", "server", "get", "value", "error", "forget", "requests")
    server.now += step.get("pass_ms", 0) / 1000
    if "server" in step:
        server.set(step["server"])
    if "forget" in step:
        cache.forget(step["forget"])


@pytest.mark.parametrize("case", CACHE["cases"], ids=lambda case: case["title"])
def test_the_cache(case: dict[str, Any], kind: str) -> None:
    only(case, "title", "cache", "steps")
    if kind == "async":
        asyncio.run(run_async(case))
        return
    server = Server()
    cache = sdk.Secrets(SimpleNamespace(secret=server), **settings_of(case))  # type: ignore[arg-type]
    cache._store.clock = lambda: server.now
    for number, step in enumerate(case["steps"], 1):
        begin(server, step, cache)
        if "get" in step:
            try:
                assert cache.get(step["get"]) == step.get("value"), number
            except sdk.AgentRouterError as error:
                assert outcome(error) == step.get("error"), number
        for flight in list(cache._flights.values()):
            if server.response == "silent":
                with server.changed:
                    assert server.changed.wait_for(lambda: server.held > 0, timeout=30)
            else:
                flight.exception(timeout=30)
        assert server.requests == step.get("requests", server.requests), number


async def run_async(case: dict[str, Any]) -> None:
    server = AsyncServer()
    cache = sdk.AsyncSecrets(SimpleNamespace(secret=server), **settings_of(case))  # type: ignore[arg-type]
    cache._store.clock = lambda: server.now
    for number, step in enumerate(case["steps"], 1):
        begin(server, step, cache)
        if "get" in step:
            try:
                assert await cache.get(step["get"]) == step.get("value"), number
            except sdk.AgentRouterError as error:
                assert outcome(error) == step.get("error"), number
        while cache._tasks and not (server.response == "silent" and server.held > 0):
            await asyncio.sleep(0)
        assert server.requests == step.get("requests", server.requests), number


@pytest.mark.parametrize("case", table("proxy.json", "cases")["cases"], ids=lambda case: str(case["title"]))
def test_the_environment_chooses_the_proxy(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    only(case, "title", "variables", "url", "proxy")
    for name, value in case["variables"].items():
        monkeypatch.setenv(name, value)
    url = urlsplit(case["url"])
    proxy = proxy_for(url.scheme, url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    assert (f"{proxy.url.host.decode()}:{proxy.url.port}" if proxy else None) == case.get("proxy")


@pytest.mark.parametrize("case", table("fakes.json", "cases")["cases"], ids=lambda case: str(case["title"]))
def test_the_service_in_memory_does_the_same_in_every_sdk(case: dict[str, Any], kind: str) -> None:
    service = FakeService()
    client: Any = service.client() if kind == "sync" else service.async_client()

    async def calls() -> None:
        for step in case["steps"]:
            only(step, "put", "fail", "call", "request", "expect", "error", "requests")
            if put := step.get("put"):
                service.put(put["name"], put["realm"], value=put["value"])
            if fail := step.get("fail"):
                service.fail(fail["code"], fail["reason"], retry_after=fail.get("retry_after_ms", 0) / 1000)
            if call := step.get("call"):
                method = getattr(client.secret, re.sub(r"(?<!^)(?=[A-Z])", "_", call).lower())
                request = ParseDict(step.get("request", {}), getattr(pb, call + "Request")())
                try:
                    response = method(request) if kind == "sync" else await method(request)
                except sdk.AgentRouterError as error:
                    found = {"code": error.code, "reason": error.reason, "fields": [v.field for v in error.violations]}
                    wanted = {"fields": [], **step["error"]}
                    retry_after = wanted.pop("retry_after_ms", 0) / 1000
                    assert (found, error.retry_after or 0, error.request_id) == (wanted, retry_after, "fake"), step
                else:
                    assert "error" not in step, step
                    shown = MessageToDict(
                        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                    )
                    like(step.get("expect", {}), shown)
            if "requests" in step:
                assert len(service.calls) == step["requests"], step
        if kind == "async":
            await client.aclose()

    asyncio.run(calls())


def like(pattern: Any, found: Any, path: str = "response") -> None:
    """Compares with a pattern: objects by the keys of the pattern, null with a default value."""
    if pattern is None:
        assert not found, path
    elif isinstance(pattern, dict):
        for key, each in pattern.items():
            like(each, found.get(key), f"{path}.{key}")
    elif isinstance(pattern, list):
        assert len(found) == len(pattern), path
        for index, each in enumerate(pattern):
            like(each, found[index], f"{path}[{index}]")
    else:
        assert found if pattern == "$set" else found == pattern, path
