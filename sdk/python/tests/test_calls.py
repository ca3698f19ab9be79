"""Calls, exceptions and retries, sync and async, against a scripted server."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import time
import traceback
from typing import Any

import pytest
from conftest import KEY, Reply, FakeServer, ok, refusal
from tars.secret.v1 import secret_pb2 as pb

import agentrouter_sdk as sdk
from agentrouter_sdk import AsyncClient, Client, Status

BUSY = refusal(503, "unavailable", "OVERLOADED")
FOUND = ok(pb.GetSecretResponse(secret=pb.Secret(name="n", status="active")))


class Caller:
    """A sync or async client, so that each test covers both."""

    def __init__(self, kind: str, url: str, **settings: Any) -> None:
        self.kind, self.settings = kind, {"base_url": url, "api_key": KEY, **settings}

    def __call__(self, call: str, request: Any, **options: Any) -> Any:
        if self.kind == "sync":
            with Client(**self.settings) as client:
                return getattr(client.secret, call)(request, **options)

        async def run() -> Any:
            async with AsyncClient(**self.settings) as client:
                return await getattr(client.secret, call)(request, **options)

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_call_goes_to_its_procedure_with_its_message(server: FakeServer, kind: str) -> None:
    caller = Caller(kind, server.url)
    for call, request, response in [
        ("create_secret", pb.CreateSecretRequest(name="n", value="v"), pb.CreateSecretResponse()),
        ("get_secret", pb.GetSecretRequest(name="n"), pb.GetSecretResponse(secret=pb.Secret(version=3))),
        ("list_secrets", pb.ListSecretsRequest(status=Status.ANY), pb.ListSecretsResponse(next_page_token="t")),
        ("delete_secret", pb.DeleteSecretRequest(name="n"), pb.DeleteSecretResponse(success=True)),
        ("rotate_secret", pb.RotateSecretRequest(name="n"), pb.RotateSecretResponse()),
        ("validate_secret", pb.ValidateSecretRequest(name="n"), pb.ValidateSecretResponse(error="corrupt")),
        ("get_secret_value", pb.GetSecretValueRequest(name="n"), pb.GetSecretValueResponse(value="ünïcode")),
    ]:
        server.respond_with(ok(response))
        assert caller(call, request) == response
        (sent,) = server.requests
        assert sent.path.endswith("SecretService/" + call.title().replace("_", ""))
        assert type(request).FromString(sent.body) == request


def test_another_message_is_a_type_error_and_not_sent(server: FakeServer, kind: str) -> None:
    for wrong in ({"name": "n"}, "n", pb.GetSecretRequest()):
        with pytest.raises(TypeError, match="must be a CreateSecretRequest"):
            Caller(kind, server.url)("create_secret", wrong)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid_argument", sdk.InvalidArgumentError),
        (401, "unauthenticated", sdk.UnauthenticatedError),
        (403, "permission_denied", sdk.PermissionDeniedError),
        (404, "not_found", sdk.NotFoundError),
        (409, "aborted", sdk.AbortedError),
        (400, "failed_precondition", sdk.FailedPreconditionError),
        (413, "resource_exhausted", sdk.ResourceExhaustedError),
        (503, "unavailable", sdk.UnavailableError),
        (504, "deadline_exceeded", sdk.DeadlineExceededError),
        (501, "unimplemented", sdk.UnimplementedError),
        (500, "internal", sdk.InternalError),
        (409, "already_exists", sdk.RefusedError),
        (499, "canceled", sdk.RefusedError),
    ],
)
def test_a_refusal_is_an_exception_of_its_code_with_all_details_of_the_response(
    server: FakeServer, kind: str, status: int, code: str, error: type[sdk.AgentRouterError]
) -> None:
    server.respond_with(refusal(status, code, "SOME_REASON", "Do it otherwise.", ("name", "realm"), retry_after="7"))
    with pytest.raises(sdk.AgentRouterError) as caught:
        Caller(kind, server.url, retries=0)("get_secret", pb.GetSecretRequest())
    refused = caught.value
    assert type(refused) is error
    assert (refused.code, refused.reason, refused.message) == (code.upper(), "SOME_REASON", "Do it otherwise.")
    assert str(refused) == f"{code.upper()} (SOME_REASON): Do it otherwise. [request r-1]"
    assert refused.violations == (("name", "must be set"), ("realm", "must be set"))
    assert refused.violations[0].field == "name"
    assert (refused.request_id, refused.retry_after) == ("r-1", 7.0)
    assert len(server.requests) == 1
    for again in (copy.copy(refused), pickle.loads(pickle.dumps(refused))):
        assert type(again) is error and again.__dict__ == refused.__dict__ and str(again) == str(refused)


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        refusal(429, "resource_exhausted", "RATE_LIMITED"),
        Reply(429, b'{"code":"resource_exhausted"}', "application/json"),
        Reply(drop=True),
        Reply(502),
    ],
)
def test_safe_calls_are_made_again_when_it_may_help(server: FakeServer, kind: str, failure: Reply) -> None:
    caller = Caller(kind, server.url)
    for call, request in [
        ("get_secret", pb.GetSecretRequest()),
        ("list_secrets", pb.ListSecretsRequest()),
        ("validate_secret", pb.ValidateSecretRequest()),
        ("get_secret_value", pb.GetSecretValueRequest()),
        ("create_secret", pb.CreateSecretRequest(expected_version=0)),
        ("rotate_secret", pb.RotateSecretRequest(expected_version=3)),
    ]:
        server.respond_with(failure, failure, Reply())
        caller(call, request)
        assert len(server.requests) == 3, call


def test_other_writes_and_other_refusals_are_not_made_again(server: FakeServer, kind: str) -> None:
    caller = Caller(kind, server.url)
    for call, request in [
        ("create_secret", pb.CreateSecretRequest()),
        ("rotate_secret", pb.RotateSecretRequest()),
        ("delete_secret", pb.DeleteSecretRequest()),
    ]:
        for failure, error in ((BUSY, sdk.UnavailableError), (Reply(drop=True), sdk.UnreachableError)):
            server.respond_with(failure)
            with pytest.raises(error):
                caller(call, request)
            assert len(server.requests) == 1, call
    for failure in (
        refusal(413, "resource_exhausted", "BODY_TOO_LARGE"),
        refusal(404, "not_found", "SECRET_NOT_FOUND"),
        refusal(500, "internal", "INTERNAL"),
        Reply(404, b"<html>", "text/html"),
    ):
        server.respond_with(failure)
        with pytest.raises(sdk.AgentRouterError):
            caller("get_secret", pb.GetSecretRequest())
        assert len(server.requests) == 1


def test_the_number_of_retries_is_kept_to(server: FakeServer, kind: str) -> None:
    for retries in (0, 1, 3):
        server.respond_with(BUSY)
        with pytest.raises(sdk.UnavailableError):
            Caller(kind, server.url, retries=retries)("get_secret", pb.GetSecretRequest())
        assert len(server.requests) == 1 + retries


def test_retry_after_is_waited_for_but_never_past_the_timeout(server: FakeServer, kind: str) -> None:
    limited = refusal(429, "resource_exhausted", "RATE_LIMITED", retry_after="1")
    server.respond_with(limited, FOUND)
    start = time.monotonic()
    Caller(kind, server.url)("get_secret", pb.GetSecretRequest())
    assert time.monotonic() - start >= 1.0
    server.respond_with(refusal(429, "resource_exhausted", "RATE_LIMITED", retry_after="60"), FOUND)
    start = time.monotonic()
    with pytest.raises(sdk.ResourceExhaustedError):
        Caller(kind, server.url, timeout=59)("get_secret", pb.GetSecretRequest())
    assert time.monotonic() - start < 50 and len(server.requests) == 1


def test_no_response_in_time_is_a_timeout_error(server: FakeServer, kind: str) -> None:
    server.respond_with(Reply(delay=60))
    for settings, options in (({"timeout": 0.8}, {}), ({}, {"timeout": 0.8})):
        start = time.monotonic()
        with pytest.raises(sdk.CallTimeoutError, match=r"within 0\.8 s") as caught:
            Caller(kind, server.url, **settings)("get_secret", pb.GetSecretRequest(), **options)
        assert time.monotonic() - start < 50
        assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, sdk.TransportError)
        assert caught.value.code == "DEADLINE_EXCEEDED" and caught.value.reason == ""
        assert type(copy.copy(caught.value)) is sdk.CallTimeoutError
    assert len(server.requests) == 2
    assert 0 < int(server.requests[0].headers["connect-timeout-ms"]) <= 800


def test_a_server_that_cannot_be_reached_is_a_transport_error(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(sdk.UnavailableError, match="cannot reach the server: .") as caught:
        Caller(kind, url)("get_secret", pb.GetSecretRequest())
    assert caught.value.code == "UNAVAILABLE"


def test_what_is_not_the_service_is_a_transport_error_on_one_line(server: FakeServer, kind: str) -> None:
    for response in (
        Reply(200, b"<html>", "text/html"),
        Reply(200, b"\xff\xff", "application/proto"),
        Reply(404, b"<html>", "text/html"),
        Reply(500, b'{"message": "\\u001b[31m ak-%s %s"}' % (KEY.encode(), b"x" * 9000), "application/json"),
        Reply(307, headers={"location": "http://127.0.0.1:9/elsewhere"}),
    ):
        server.respond_with(response)
        with pytest.raises(sdk.TransportError) as caught:
            Caller(kind, server.url, retries=0)("get_secret", pb.GetSecretRequest())
        assert len(server.requests) == 1
        text = str(caught.value)
        assert len(text) < 600 and text.isprintable() and "Canary" not in text


def test_no_exception_holds_the_key_nor_the_value(server: FakeServer, kind: str) -> None:
    """Not even in the SDK's frames of its traceback, nor in its cause."""
    request = pb.CreateSecretRequest(name="n", value="Canary-value")
    for response in (BUSY, Reply(drop=True), Reply(404, b"x", "text/html"), Reply(delay=0.5)):
        server.respond_with(response)
        with pytest.raises(sdk.AgentRouterError) as caught:
            Caller(kind, server.url, timeout=0.3)("create_secret", request)
        error = caught.value
        assert error.__cause__ is None and error.__context__ is None
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        assert "Canary" not in "".join(lines) + repr(error) + repr(error.__dict__)
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert not any("httpx" in frame.f_code.co_filename for frame in frames)


def test_all_pages_are_walked_and_the_request_is_left_as_it_is(server: FakeServer) -> None:
    def page(request: Any) -> Reply:
        sent = pb.ListSecretsRequest.FromString(request.body)
        assert (sent.realm, sent.page_size) == ("mcp", 2)
        start = int(sent.page_token or "0")
        secrets = [pb.Secret(name=str(n)) for n in range(start, min(start + 2, 5))]
        return ok(pb.ListSecretsResponse(secrets=secrets, next_page_token=str(start + 2) if start < 4 else ""))

    server.handler = page
    request = pb.ListSecretsRequest(realm="mcp", page_size=2)
    with Client(base_url=server.url, api_key=KEY) as client:
        walk = client.secret.list_all(request)
        assert server.requests == []
        assert next(walk).name == "0" and len(server.requests) == 1
        assert [secret.name for secret in walk] == ["1", "2", "3", "4"]

    async def run() -> list[str]:
        async with AsyncClient(base_url=server.url, api_key=KEY) as client:
            return [secret.name async for secret in client.secret.list_all(request)]

    assert asyncio.run(run()) == ["0", "1", "2", "3", "4"]
    assert request == pb.ListSecretsRequest(realm="mcp", page_size=2)


def test_a_cancelled_task_is_cancelled_and_not_an_error_of_the_sdk(server: FakeServer) -> None:
    server.respond_with(Reply(delay=60))

    async def run() -> None:
        async with AsyncClient(base_url=server.url, api_key=KEY) as client:
            task = asyncio.create_task(client.secret.get_secret(pb.GetSecretRequest()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.__cause__ is None and not isinstance(caught.value.__context__, Exception)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.secret.get_secret(pb.GetSecretRequest()), 0.1)

    asyncio.run(run())


def test_a_closed_client_calls_no_more(server: FakeServer) -> None:
    server.respond_with(FOUND)
    client = Client(base_url=server.url, api_key=KEY)
    client.close()
    with pytest.raises(sdk.TransportError):
        client.secret.get_secret(pb.GetSecretRequest())

    async def run() -> None:
        async with AsyncClient(base_url=server.url, api_key=KEY) as closed:
            pass
        with pytest.raises(sdk.TransportError):
            await closed.secret.get_secret(pb.GetSecretRequest())

    asyncio.run(run())
    assert server.requests == []
