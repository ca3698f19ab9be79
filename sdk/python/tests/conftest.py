"""A scripted server in this process, and clients of it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

KEY = "0123456789abcdef_" + "Canary" + "0" * 43


@dataclass
class Reply:
    """A scripted response: a message, an error, or invalid bytes."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/proto"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


def ok(message: Any) -> Reply:
    return Reply(body=message.SerializeToString())


def refusal(
    status: int,
    code: str,
    reason: str,
    message: str = "No.",
    fields: tuple[str, ...] = (),
    details: Sequence[Any] = (),
    **headers: str,
) -> Reply:
    info = [ErrorInfo(reason=reason, domain="agentrouter.secret.v1"), *details] if reason else list(details)
    violations = [BadRequest.FieldViolation(field=f, description="must be set") for f in fields]
    messages = info + ([BadRequest(field_violations=violations)] if fields else [])
    body = {
        "code": code,
        "message": message,
        "details": [
            {
                "type": detail.DESCRIPTOR.full_name,
                "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
            }
            for detail in messages
        ],
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(body).encode(), "application/json", {"x-request-id": "r-1", **named})


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def call(self) -> str:
        return self.path.rsplit("/", 1)[1]


class FakeServer:
    """Sends the scripted responses in turn and repeats the last one, or sends the result of `handler`."""

    def __init__(self, tls: ssl.SSLContext | None = None, socket_path: str | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.script: list[Reply] = []
        self.handler: Callable[[Request], Reply] | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                fake.requests.append(request)
                if fake.handler:
                    reply = fake.handler(request)
                else:
                    reply = fake.script.pop(0) if len(fake.script) > 1 else fake.script[0]
                time.sleep(reply.delay)
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"content-type": reply.content_type, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: Any) -> None:
                pass

            def address_string(self) -> str:
                return "client"

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_UNIX if socket_path else socket.AF_INET

            def server_bind(self) -> None:
                self.socket.bind(self.server_address)
                self.server_address = self.socket.getsockname()

            def get_request(self) -> Any:
                connection, address = self.socket.accept()
                fake.connections += 1
                # The thread of the connection makes the handshake, at its first read.
                wrapped = tls.wrap_socket(connection, True, do_handshake_on_connect=False) if tls else connection
                return wrapped, address

            def handle_error(self, *_: Any) -> None:
                pass  # Clients that gave up.

        where: Any = socket_path or ("127.0.0.1", 0)
        self._server = Server(where, Handler)
        self.port = 0 if socket_path else self._server.server_address[1]
        scheme = "https" if tls else "http"
        self.url = f"unix:{socket_path}" if socket_path else f"{scheme}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def respond_with(self, *script: Reply) -> None:
        self.requests.clear()
        self.script = list(script)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@dataclass
class Certificate:
    """A certificate for 127.0.0.1 and secrets.corp.example, signed by itself."""

    path: str
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -days 2 -subj /CN=test"
    names = "subjectAltName=IP:127.0.0.1,DNS:secrets.corp.example"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), "-addext", names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return Certificate(str(folder / "cert.pem"), context)


@pytest.fixture
def tls_server(certificate: Certificate) -> Iterator[FakeServer]:
    fake = FakeServer(certificate.context)
    yield fake
    fake.stop()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    if request.module.__name__ != "test_cases":
        for name in ("BASE_URL", "API_KEY", "CA_FILE", "ALLOW_HTTP"):
            monkeypatch.delenv(f"AGENTROUTER_{name}", raising=False)
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
