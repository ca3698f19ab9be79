"""The cases that all SDKs share, against a real server: see `sdk/cases/README.md`.

Run when `AGENTROUTER_CASES` names their folder, `sdk/cases/with-server pytest` for instance.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import re
import select
import ssl
import string
import threading
import time
import traceback
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from tars.secret.v1 import secret_pb2 as pb

from agentrouter_sdk import AgentRouterError, AsyncClient, Client, ConfigError

if "AGENTROUTER_CASES" not in os.environ:
    pytest.skip("AGENTROUTER_CASES is not set", allow_module_level=True)

FOLDER = Path(os.environ["AGENTROUTER_CASES"])
# `test_tables.py` runs these; they need no server.
TABLES = {"cache.json", "errors.json", "fakes.json", "proxy.json", "retry.json"}
FILES = sorted(file for file in FOLDER.glob("*.json") if file.name not in TABLES)
ROLES = ("admin", "reader", "writer", "internal", "limited", "other", "revoked")
CALLS = {
    name: (re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), getattr(pb, name + "Request"))
    for name in pb.DESCRIPTOR.services_by_name["SecretService"].methods_by_name
}
STEP = {
    *("title", "call", "as", "request", "repeat", "all_pages", "expect", "error", "capture", "client"),
    *("faults", "attempts", "least_ms"),
}


def keys() -> dict[str, str | None]:
    found: dict[str, str | None] = {role: os.environ[f"AGENTROUTER_KEY_{role.upper()}"] for role in ROLES}
    assert found["admin"]
    return {**found, "unknown": "0" * 16 + "_" + "0" * 49, "malformed": found["admin"][:-1], "none": None}


def only(what: dict[str, Any], known: set[str]) -> None:
    assert set(what) <= known, f"unknown: {sorted(set(what) - known)}"


# Texts and patterns.


def text(value: Any, names: dict[str, str]) -> Any:
    """A value of a case with its placeholders replaced and its texts generated."""
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda found: names[found[1]], value)
    if isinstance(value, list):
        return [text(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    if "$repeat" in value:
        only(value, {"$repeat", "$length"})
        piece, times = value["$repeat"]
        return text(piece, names) * times
    if "$concat" in value:
        only(value, {"$concat"})
        return "".join(text(each, names) for each in value["$concat"])
    return {text(key, names): text(each, names) for key, each in value.items()}


def match(pattern: Any, found: Any, names: dict[str, str], path: str = "response") -> None:
    if isinstance(pattern, dict):
        rules = {key: pattern[key] for key in pattern if key.startswith("$")}
        for rule, wanted in rules.items():
            match_rule(rule, wanted, found, names, path)
        if not rules:
            assert isinstance(found, dict), path
        for key in pattern.keys() - rules.keys():
            key = text(key, names)
            match(pattern[key], found.get(key), names, f"{path}.{key}")
    elif isinstance(pattern, list):
        assert isinstance(found, list) and len(found) == len(pattern), f"{path}: {found!r:.300}"
        for index, each in enumerate(pattern):
            match(each, found[index], names, f"{path}[{index}]")
    else:
        assert found == text(pattern, names), path


def match_rule(rule: str, wanted: Any, found: Any, names: dict[str, str], path: str) -> None:
    if rule == "$absent":
        assert found is None, path
    elif rule == "$exact":
        assert found == text(wanted, names), path
    elif rule == "$matches":
        assert isinstance(found, str) and re.fullmatch(text(wanted, names), found, re.ASCII), f"{path}: {found!r}"
    elif rule == "$length":
        assert len(found.encode() if isinstance(found, str) else found) == wanted, path
    elif rule == "$each":
        for index, each in enumerate(found):
            match(wanted, each, names, f"{path}[{index}]")
    elif rule in ("$repeat", "$concat"):
        assert found == text({rule: wanted}, names), path
    else:
        raise AssertionError(f"{path}: unknown rule {rule}")


# The proxy.

RATE_LIMITED = (
    b'{"code":"resource_exhausted","message":"slow down","details":[{"type":"google.rpc.ErrorInfo",'
    b'"value":"CgxSQVRFX0xJTUlURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}'
)
CORRUPT = (
    b'{"code":"internal","message":"does not open","details":[{"type":"google.rpc.ErrorInfo",'
    b'"value":"Cg5TRUNSRVRfQ09SUlVQVBIVYWdlbnRyb3V0ZXIuc2VjcmV0LnYx"}]}'
)
EXHAUSTED = (
    b'{"code":"failed_precondition","message":"used up","details":[{"type":"google.rpc.ErrorInfo",'
    b'"value":"ChJWRVJTSU9OU19FWEhBVVNURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}'
)
CANNED = {
    "corrupt": (500, "application/json", CORRUPT),
    "exhausted": (400, "application/json", EXHAUSTED),
    "unavailable": (503, "application/json", b'{"code":"unavailable","message":"try again"}'),
    "bad_gateway": (502, "text/html", b"<html>bad gateway</html>"),
    "rate_limited": (429, "application/json", RATE_LIMITED),
    "not_found_page": (404, "text/html", b"<html>not found</html>"),
}


class Proxy:
    """A fault-injecting proxy in front of the server: one fault for each request."""

    def __init__(self, faults: list[str], upstream: str) -> None:
        assert set(faults) <= {"pass", "slow", "drop", "lose", "stall", *CANNED}, faults
        self.arrived = 0
        proxy, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with lock:
                    fault = faults[proxy.arrived] if proxy.arrived < len(faults) else "pass"
                    proxy.arrived += 1
                if fault in CANNED:
                    return self.respond(*CANNED[fault], {"retry-after": "1"} if fault == "rate_limited" else {})
                if fault == "stall":
                    select.select([self.connection], [], [], 30)
                if fault == "slow":
                    time.sleep(1.5)
                reply = forward(upstream, self, body) if fault in ("pass", "slow", "lose") else None
                if fault in ("pass", "slow") and reply:
                    return self.respond(*reply)
                self.close_connection = True

            def respond(self, status: int, content_type: str, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"content-type": content_type, **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def forward(
    upstream: str, request: BaseHTTPRequestHandler, body: bytes
) -> tuple[int, str, bytes, dict[str, str]]:
    url = urlsplit(upstream)
    assert url.hostname
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ.get("AGENTROUTER_CA_FILE"))
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(url.hostname, url.port, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
    connection.request("POST", url.path.rstrip("/") + request.path, body, headers)
    response = connection.getresponse()
    kept = {name: response.headers[name] for name in ("retry-after", "x-request-id") if name in response.headers}
    content = response.read()
    connection.close()
    return response.status, response.headers["content-type"], content, kept


# Calls.

class SyncCaller:
    """Makes calls with `Client`."""

    def __init__(self, **settings: Any) -> None:
        self._client = Client(**settings)

    def __call__(self, call: str, requests: list[Any], all_pages: bool) -> list[Any]:
        secret = self._client.secret
        if all_pages:
            return [pb.ListSecretsResponse(secrets=secret.list_all(each)) for each in requests]
        if len(requests) == 1:
            return [getattr(secret, call)(requests[0])]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(getattr(secret, call), requests))

    def close(self) -> None:
        self._client.close()


class AsyncCaller:
    """Makes calls with `AsyncClient`, on its own event loop."""

    def __init__(self, **settings: Any) -> None:
        self._client = AsyncClient(**settings)
        self._loop = asyncio.new_event_loop()

    def __call__(self, call: str, requests: list[Any], all_pages: bool) -> list[Any]:
        return self._loop.run_until_complete(self._all(call, requests, all_pages))

    async def _all(self, call: str, requests: list[Any], all_pages: bool) -> list[Any]:
        slots = asyncio.Semaphore(8)

        async def one(request: Any) -> Any:
            async with slots:
                if all_pages:
                    return pb.ListSecretsResponse(secrets=[s async for s in self._client.secret.list_all(request)])
                response: Awaitable[Any] = getattr(self._client.secret, call)(request)
                return await response

        return await asyncio.gather(*[one(request) for request in requests])

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


class Scenario:
    """One file, run once."""

    def __init__(self, kind: str) -> None:
        self.kind: Any = {"sync": SyncCaller, "async": AsyncCaller}[kind]
        self.base_url = os.environ["AGENTROUTER_BASE_URL"]
        self.keys = keys()
        self.names = {"run": "".join(random.choices(string.ascii_lowercase + string.digits, k=8))}
        self.callers: dict[str, Any] = {}

    def step(self, step: dict[str, Any]) -> None:
        only(step, STEP)
        only(step.get("client", {}), {"timeout_ms", "retries"})
        call, kind = CALLS[step["call"]]
        assert not step.get("all_pages") or call == "list_secrets"
        requests = []
        for index in range(step.get("repeat", 1)):
            self.names["i"] = f"{index:04}"
            requests.append(text(step.get("request", {}), self.names))
        messages = [ParseDict(request, kind()) for request in requests]

        role = step.get("as", "admin")
        proxy = Proxy(step["faults"], self.base_url) if "faults" in step else None
        start = time.monotonic()
        try:
            responses = self.caller(role, step, proxy)(call, messages, step.get("all_pages", False))
        except AgentRouterError as error:
            assert "error" in step, f"{error.code} {error.reason}: {error}"
            self.refused(step["error"], error, self.keys[role], requests)
        else:
            assert "error" not in step, "it succeeded"
            for index, response in enumerate(responses):
                self.names["i"] = f"{index:04}"
                self.check_response(step, response)
        finally:
            if own := self.callers.pop("own", None):
                own.close()
            if proxy:
                proxy.stop()
        assert time.monotonic() - start >= step.get("least_ms", 0) / 1000
        if proxy:
            assert proxy.arrived == step.get("attempts", proxy.arrived)

    def caller(self, role: str, step: dict[str, Any], proxy: Proxy | None) -> Any:
        settings = step.get("client", {})
        name = role if not settings and not proxy else "own"
        if name not in self.callers:
            options: dict[str, Any] = {"base_url": proxy.url if proxy else self.base_url, "api_key": self.keys[role]}
            if "timeout_ms" in settings:
                options["timeout"] = settings["timeout_ms"] / 1000
            if "retries" in settings:
                options["retries"] = settings["retries"]
            self.callers[name] = self.kind(**options)
        return self.callers[name]

    def check_response(self, step: dict[str, Any], response: Any) -> None:
        found = MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        match(step.get("expect", {}), found, self.names)
        for name, path in step.get("capture", {}).items():
            value: Any = found
            for part in path.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
            self.names[name] = str(value)

    def refused(
        self, wanted: dict[str, Any], error: AgentRouterError, key: str | None, requests: list[dict[str, Any]]
    ) -> None:
        only(wanted, {"code", "reason", "fields", "before_request", "config"})
        assert isinstance(error, ConfigError) == wanted.get("before_request", False), repr(error)
        if not isinstance(error, ConfigError):
            fields = sorted(violation.field for violation in error.violations)
            reported = (error.code, error.reason, fields)
            assert reported == (wanted["code"], wanted["reason"], sorted(wanted.get("fields", []))), str(error)
        shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        shown += repr(error) + str(error) + repr(error.__dict__)
        for secret in [key.partition("_")[2]] if key else []:
            assert secret not in shown
        for request in requests:
            for secret in (request.get("value", ""), request.get("new_value", "")):
                assert len(secret) < 8 or secret not in shown

    def close(self) -> None:
        for caller in self.callers.values():
            caller.close()


@pytest.fixture(params=["sync", "async"])
def scenario(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    made = Scenario(request.param)
    yield made
    made.close()


def test_there_are_cases_and_no_key_from_elsewhere() -> None:
    assert FILES and "AGENTROUTER_API_KEY" not in os.environ


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_case(scenario: Scenario, file: Path) -> None:
    case = json.loads(file.read_text(encoding="utf-8"))
    only(case, {"title", "steps", "sdk_only"})
    for number, step in enumerate(case["steps"], 1):
        try:
            scenario.step(step)
        except Exception as error:
            raise AssertionError(f"step {number}, {step.get('title', step['call'])}: {error}") from error
