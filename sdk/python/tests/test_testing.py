"""The secret service for tests of programs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import agentrouter_sdk as sdk
from agentrouter_sdk.testing import FakeService


def test_the_fake_service_follows_the_rules_of_the_service() -> None:
    service = FakeService()
    with service.client() as client:
        secret = client.secret
        made = secret.create_secret(name="n", realm="mcp", value="v1", tags={"env": "prod"}).secret
        assert (made.version, made.status, made.user_id, made.realm) == (1, "active", "test", "mcp")
        assert secret.create_secret(name="k", realm="llm", value="x").secret.user_id == "system"
        with pytest.raises(sdk.AbortedError) as caught:
            secret.create_secret(name="n", realm="mcp", value="v", expected_version=0)
        assert caught.value.reason == sdk.Reason.VERSION_MISMATCH
        rotated = secret.rotate_secret(name="n", realm="mcp", new_value="v2", grace_period=timedelta(hours=1)).secret
        assert rotated.version == 2 and rotated.id == made.id
        assert secret.get_secret_value(name="n", realm="mcp").value == "v2"
        assert secret.get_secret_value(name="n", realm="mcp", version=1).value == "v1"
        assert [s.status for s in secret.list_all(realm="mcp", status="any", page_size=1)] == ["rotated_pending", "active"]
        assert [s.name for s in secret.list_all(tags={"env": "prod"})] == ["n"]
        assert secret.validate_secret(name="n", realm="mcp").valid
        secret.create_secret(name="n", realm="mcp", value="v3")
        with pytest.raises(sdk.NotFoundError):
            secret.get_secret_value(name="n", realm="mcp", version=2)
        assert secret.delete_secret(name="n", realm="mcp").success
        with pytest.raises(sdk.NotFoundError) as absent:
            secret.get_secret(name="n", realm="mcp")
        assert absent.value.reason == sdk.Reason.SECRET_NOT_FOUND
        with pytest.raises(sdk.InvalidArgumentError):
            secret.create_secret(name="n")
        with pytest.raises(sdk.InvalidArgumentError):
            secret.create_secret(value="v")
        with pytest.raises(sdk.InvalidArgumentError):
            secret.list_secrets(page_size=-1)
        secret.create_secret(name="m", value="v1", description="d")
        fields: dict[str, Any] = {"name": "m", "value": "v2", "description": "e", "tags": {"a": "b"}}
        masked = secret.create_secret(**fields, update_mask=["description"]).secret
        assert (masked.version, masked.description, dict(masked.tags)) == (1, "e", {})
    assert service.calls[0].name == "CreateSecret" and service.calls[0].request.value == "v1"


def test_the_fake_service_fails_on_request() -> None:
    service = FakeService(user="u", realm="mcp")
    service.put("n", value="v")
    service.fail("UNAVAILABLE", "OVERLOADED", call="GetSecretValue")
    client = service.client()
    assert client.secret.get_secret(name="n").secret.realm == "mcp"
    assert client.secret.get_secret_value(name="n").value == "v", "retried"
    assert [call.name for call in service.calls] == ["GetSecret", "GetSecretValue", "GetSecretValue"]
    service.fail("PERMISSION_DENIED", "SCOPE_MISSING", times=2)

    async def run() -> Any:
        async with service.async_client(retries=0) as client:
            with pytest.raises(sdk.PermissionDeniedError):
                await client.secret.get_secret(name="n")
            return client

    asyncio.run(run())
    for wrong in ("UNAVAILBLE", "unavailable", ""):
        with pytest.raises(ValueError, match="there is no code"):
            service.fail(wrong)
    with pytest.raises(ValueError, match="there is no call"):
        service.fail("UNAVAILABLE", call="get_secret")
    with pytest.raises(sdk.PermissionDeniedError):
        client.secret.get_secret(name="n")
    assert client.secret.get_secret(name="n").secret.user_id == "u"
