"""Logs and traces of calls."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from conftest import KEY, FakeServer, ok, refusal
from opentelemetry import trace
from tars.secret.v1 import secret_pb2 as pb

from agentrouter_sdk import AsyncClient, Client


def test_each_attempt_is_a_record_of_the_logger_without_request_content(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.respond_with(refusal(503, "unavailable", "OVERLOADED"), ok(pb.CreateSecretResponse()))
    client = Client(base_url=server.url, api_key=KEY)
    with caplog.at_level(logging.DEBUG, logger="agentrouter_sdk"):
        client.secret.create_secret(name="name-canary", realm="realm-canary", value="Canary", expected_version=0)
    messages = [record.getMessage() for record in caplog.records if record.name == "agentrouter_sdk"]
    assert re.fullmatch(r"CreateSecret attempt 1: UNAVAILABLE \(OVERLOADED\) \[request r-1\] after [\d.]+ ms", messages[0])
    assert re.fullmatch(r"CreateSecret attempt 2: OK after [\d.]+ ms", messages[1]) and len(messages) == 2
    # httpx logs the URL, and httpcore what it does: neither has the request's content.
    assert "anary" not in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_requests_carry_the_context_of_the_current_span(server: FakeServer, kind: str) -> None:
    server.respond_with(ok(pb.GetSecretResponse()))

    async def run() -> None:
        async with AsyncClient(base_url=server.url, api_key=KEY) as client:
            await client.secret.get_secret(name="n")

    def call() -> None:
        if kind == "sync":
            Client(base_url=server.url, api_key=KEY).secret.get_secret(name="n")
        else:
            asyncio.run(run())

    call()
    span = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with trace.use_span(span):
        call()
    assert "traceparent" not in server.requests[0].headers
    assert server.requests[1].headers["traceparent"] == f"00-{7:032x}-{9:016x}-01"
