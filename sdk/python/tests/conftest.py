"""A scripted server in this process, and clients of it."""

from __future__ import annotations

import base64
import json
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
class Answer:
    """A response of the server: a message, an error, or invalid bytes."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/proto"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


def ok(message: Any) -> Answer:
    return Answer(body=message.SerializeToString())


def refusal(
    status: int,
    code: str,
    reason: str,
    message: str = "No.",
    fields: tuple[str, ...] = (),
    details: Sequence[Any] = (),
    **headers: str,
) -> Answer:
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
    return Answer(status, json.dumps(body).encode(), "application/json", {"x-request-id": "r-1", **named})


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

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: list[Answer] = []
        self.handler: Callable[[Request], Answer] | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                fake.requests.append(request)
                if fake.handler:
                    answer = fake.handler(request)
                else:
                    answer = fake.script.pop(0) if len(fake.script) > 1 else fake.script[0]
                time.sleep(answer.delay)
                if answer.drop:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {"content-type": answer.content_type, **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # Clients that gave up.

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answers(self, *script: Answer) -> None:
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


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if request.module.__name__ != "test_cases":
        for name in ("AGENTROUTER_BASE_URL", "AGENTROUTER_API_KEY", "AGENTROUTER_CA_FILE"):
            monkeypatch.delenv(name, raising=False)
