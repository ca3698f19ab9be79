"""Requests by keyword arguments, and the text form of messages."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta

import pytest
from conftest import KEY, FakeServer, ok
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tars.secret.v1 import secret_pb2 as pb

from agentrouter_sdk import AsyncSecretClient, Client, SecretClient

CALLS = list(pb.DESCRIPTOR.services_by_name["SecretService"].methods_by_name)


def method(call: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", call).lower()


@pytest.mark.parametrize("client", [SecretClient, AsyncSecretClient])
@pytest.mark.parametrize("call", [*CALLS, "ListAll"])
def test_every_field_of_a_request_is_a_keyword_argument(client: type, call: str) -> None:
    message = pb.DESCRIPTOR.message_types_by_name["ListSecretsRequest" if call == "ListAll" else call + "Request"]
    parameters = inspect.signature(getattr(client, method(call))).parameters
    assert list(parameters) == ["self", "req", *(field.name for field in message.fields), "timeout"]


def test_keyword_arguments_make_the_same_request(server: FakeServer) -> None:
    server.respond_with(ok(pb.CreateSecretResponse()))
    client = Client(base_url=server.url, api_key=KEY)
    for call, fields, message in [
        (
            "create_secret",
            {"name": "n", "value": "v", "tags": {"a": "b"}, "expected_version": 0, "update_mask": ["tags"]},
            pb.CreateSecretRequest(
                name="n", value="v", tags={"a": "b"}, expected_version=0, update_mask=FieldMask(paths=["tags"])
            ),
        ),
        (
            "rotate_secret",
            {"name": "n", "realm": "r", "new_value": "v", "grace_period": timedelta(seconds=90)},
            pb.RotateSecretRequest(name="n", realm="r", new_value="v", grace_period=Duration(seconds=90)),
        ),
        ("rotate_secret", {"grace_period": Duration(nanos=1)}, pb.RotateSecretRequest(grace_period=Duration(nanos=1))),
        ("list_secrets", {"tags": {}, "page_size": 7}, pb.ListSecretsRequest(page_size=7)),
        ("get_secret_value", {"name": "n", "version": 3}, pb.GetSecretValueRequest(name="n", version=3)),
    ]:
        getattr(client.secret, call)(**fields)
        assert type(message).FromString(server.requests[-1].body) == message
    with pytest.raises(TypeError, match="not both: realm"):
        client.secret.get_secret(pb.GetSecretRequest(name="n"), realm="r")
    with pytest.raises(TypeError):
        client.secret.get_secret(nmae="n")  # type: ignore[call-arg]


def test_no_text_form_of_a_message_shows_a_value() -> None:
    shown = 0
    for descriptor in pb.DESCRIPTOR.message_types_by_name.values():
        kind = getattr(pb, descriptor.name)
        message = kind()
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_STRING and field.message_type is None:
                setattr(message, field.name, "Canary" if field.GetOptions().debug_redact else "visible")
        redacted = any(field.GetOptions().debug_redact for field in descriptor.fields)
        for text in (repr(message), str(message), f"{message}", f"{message!r}", f"{[message]}", "%s" % message):
            assert "Canary" not in text and ("[REDACTED]" in text) == redacted
        assert (b"Canary" in message.SerializeToString()) == redacted
        shown += redacted
    assert shown == 3
    assert "REDACTED" not in repr(pb.GetSecretValueResponse(secret=pb.Secret(name="visible")))
