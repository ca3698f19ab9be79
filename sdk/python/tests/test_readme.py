"""The README's example runs unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import KEY, Reply, FakeServer, Request, ok, refusal
from tars.secret.v1 import secret_pb2 as pb

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTROUTER_BASE_URL", server.url)
    monkeypatch.setenv("AGENTROUTER_API_KEY", KEY)


def test_the_example_runs(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    stored: list[pb.Secret] = []

    def handler(request: Request) -> Reply:
        if request.call == "CreateSecret":
            sent = pb.CreateSecretRequest.FromString(request.body)
            stored.append(pb.Secret(name=sent.name, realm=sent.realm, version=1, status="active", tags=sent.tags))
            return ok(pb.CreateSecretResponse(secret=stored[0]))
        if request.call == "ListSecrets":
            return ok(pb.ListSecretsResponse(secrets=stored))
        return refusal(404, "not_found", "SECRET_NOT_FOUND")

    server.handler = handler
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "github-token has version 1",
        "github-token active",
        "NOT_FOUND SECRET_NOT_FOUND",
    ]


def test_the_example_of_the_cache_runs(server: FakeServer) -> None:
    server.respond_with(ok(pb.GetSecretValueResponse(value="sk-1")))
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    assert names["api_key"] == "sk-1"


def test_the_example_of_the_fake_service_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[2], "README.md", "exec"), {})
    assert capsys.readouterr().out == "sk-test\n" and len(EXAMPLES) == 3
