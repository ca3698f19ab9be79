"""The settings of a client, and the errors that it reports before it sends a request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import KEY, FakeServer, ok
from tars.secret.v1 import secret_pb2 as pb

import agentrouter_sdk
from agentrouter_sdk import AgentRouterError, AsyncClient, Client, ConfigError


def test_a_key_is_taken_with_and_without_its_prefix_and_sent_as_a_bearer(server: FakeServer) -> None:
    server.respond_with(ok(pb.GetSecretResponse()))
    for key in (KEY, "ak-" + KEY):
        Client(base_url=server.url + "/", api_key=key, user_agent="gateway/1.4").secret.get_secret(pb.GetSecretRequest())
    for request in server.requests:
        assert request.headers["authorization"] == "Bearer ak-" + KEY
        assert request.headers["user-agent"] == "gateway/1.4 agentrouter-sdk-python/0.1.1"
        assert request.headers["content-type"] == "application/proto"
        assert request.headers.get("content-encoding", "identity") == "identity"
        assert request.path == "/agentrouter.secret.v1.SecretService/GetSecret"
    assert len(server.requests) == 2


def test_base_url_and_key_come_from_the_environment_if_not_passed(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTROUTER_BASE_URL", server.url + "/prefix")
    monkeypatch.setenv("AGENTROUTER_API_KEY", KEY)
    server.respond_with(ok(pb.GetSecretResponse()))
    Client().secret.get_secret(pb.GetSecretRequest())
    assert server.requests[0].path == "/prefix/agentrouter.secret.v1.SecretService/GetSecret"


@pytest.mark.parametrize(
    "key",
    [
        KEY[:-1],
        KEY + "0",
        "ak-ak-" + KEY,
        "AK-" + KEY,
        "Bearer " + KEY,
        "Bearer ak-" + KEY,
        KEY + "\n",
        " " + KEY,
        KEY.replace("_", "-"),
        KEY.replace("a", "é"),
        KEY.replace("1", "\N{ARABIC-INDIC DIGIT ONE}"),
        "${AGENTROUTER_API_KEY}",
        "ak-",
        KEY.encode(),
        "",
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_malformed_key_is_refused_and_never_repeated(kind: Any, key: Any) -> None:
    with pytest.raises(ConfigError, match="API key") as caught:
        kind(base_url="http://127.0.0.1:1", api_key=key)
    shown = f"{caught.value} {caught.value!r} {caught.value.args}"
    assert "Canary" not in shown and "01234" not in shown
    assert isinstance(caught.value, AgentRouterError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "localhost",
        "ftp://h",
        "http://",
        "http://user:Canary@h",
        "http://h?x=1",
        "http://h#x",
        "http://h?",
        "http://a b",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        "/v1",
        "unix:",
        "unix:/",
        7,
    ],
)
def test_a_base_url_is_http_with_a_host_and_nothing_else(url: Any) -> None:
    with pytest.raises(ConfigError, match="base URL") as caught:
        Client(base_url=url, api_key=KEY)
    assert "Canary" not in repr(caught.value)
    for good in ("http://127.0.0.1:8080", "https://secrets.example.com/", "https://h/prefix", "http://[::1]:8080"):
        Client(base_url=good, api_key=KEY).close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "10"},
        {"retries": -1},
        {"retries": 1.5},
        {"user_agent": "a\nb"},
        {"user_agent": ""},
        {"base_url": "http://h"},
        {"base_url": "unix:/run/s", "http_client": httpx.Client()},
        {"base_url": "unix:/run/s", "ca_file": "ca.pem"},
    ],
)
def test_other_settings_are_checked_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Client(**{"base_url": "https://h", "api_key": KEY, **wrong})


def test_a_ca_file_must_be_readable_and_have_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
    for kind in (Client, AsyncClient):
        for path in (tmp_path / "absent.pem", empty, broken):
            with pytest.raises(ConfigError):
                kind(base_url="https://h", api_key=KEY, ca_file=path)
    monkeypatch.setenv("AGENTROUTER_CA_FILE", str(empty))
    with pytest.raises(ConfigError, match=r"empty\.pem"):
        Client(base_url="https://h", api_key=KEY)
    Client(base_url="http://localhost", api_key=KEY)
    with pytest.raises(ConfigError, match="no effect without https"):
        Client(base_url="http://localhost", api_key=KEY, ca_file=empty)
    with pytest.raises(ConfigError, match="http_client"):
        Client(base_url="https://h", api_key=KEY, ca_file=empty, http_client=httpx.Client())


def test_a_custom_http_client_is_used_and_left_open(server: FakeServer) -> None:
    server.respond_with(ok(pb.GetSecretResponse()))
    with httpx.Client() as http_client:
        with Client(base_url=server.url, api_key=KEY, http_client=http_client) as client:
            client.secret.get_secret(pb.GetSecretRequest())
        client.secret.get_secret(pb.GetSecretRequest())
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_is_not_sent_in_clear_text_to_another_host(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://10.0.0.1:8080", "http://secrets", "http://localhost.example.com", "http://[2001:db8::1]"):
        with pytest.raises(ConfigError, match="clear text.*AGENTROUTER_ALLOW_HTTP=1"):
            kind(base_url=url, api_key=KEY)
        kind(base_url=url, api_key=KEY, allow_http=True)
        monkeypatch.setenv("AGENTROUTER_ALLOW_HTTP", "1")
        kind(base_url=url, api_key=KEY)
        with pytest.raises(ConfigError):
            kind(base_url=url, api_key=KEY, allow_http=False)
        monkeypatch.setenv("AGENTROUTER_ALLOW_HTTP", "")
    for url in ("http://127.0.0.1", "http://LOCALHOST:1", "http://[::1]:8080", "http://app.localhost", "https://h"):
        kind(base_url=url, api_key=KEY)
    monkeypatch.setenv("AGENTROUTER_ALLOW_HTTP", "perhaps")
    with pytest.raises(ConfigError, match="must be 1 or 0"):
        kind(base_url="https://h", api_key=KEY)


@pytest.mark.parametrize("name", ["AGENTROUTER_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_empty_variable_counts_as_unset_and_a_wrong_path_is_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = Client(base_url="https://h", api_key=KEY)._http._route.tls
    monkeypatch.setenv(name, "")
    same = Client(base_url="https://h", api_key=KEY)._http._route.tls
    assert trusted and same and same.cert_store_stats() == trusted.cert_store_stats()
    monkeypatch.setenv(name, "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem"):
        Client(base_url="https://h", api_key=KEY)


def test_no_repr_shows_the_key() -> None:
    for client in (Client(base_url="https://h", api_key=KEY), AsyncClient(base_url="https://h", api_key=KEY)):
        for thing in (client, client.secret, client.secret._settings, client.secret._settings.headers):
            assert "Canary" not in repr(thing) + str(thing)
        assert "https://h" in repr(client)


def test_the_version_is_that_of_the_distribution() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found and found[1] == agentrouter_sdk.__version__
