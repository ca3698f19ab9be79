"""A secret service in memory, for the tests of programs that use this SDK.

```python
service = FakeService()
service.put("openai-api-key", "llm-keys", value="sk-test")
with service.client() as client:
    assert client.secret.get_secret_value(name="openai-api-key", realm="llm-keys").value == "sk-test"
```

The clients are those of the SDK, with their retries and exceptions, over a transport without a network. The service has the
behaviour that programs rely on: versions, owners of LLM realms, pages, `expected_version`, `update_mask`, rotation and grace
periods. It does not check scopes, the rules of names and values, or rate limits.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import httpx
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from tars.secret.v1 import secret_pb2 as pb

from ._client import AsyncClient, Client
from ._errors import Code, Reason, is_code
from ._wire import CONTENT_TYPE

__all__ = ["Call", "FakeService"]

_KEY = "ak-" + "0" * 16 + "_" + "0" * 49
_LLM_REALMS = {"llm-keys", "llm", "llm-providers", "ai-keys", "byok"}
_DOMAIN = "agentrouter.secret.v1"
# The HTTP status of each code. It matters to programs that count responses.
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
}

# Owner, realm, name.
_Place = tuple[str, str, str]


class Call(NamedTuple):
    """A request that the service received."""

    name: str
    """The call, such as `GetSecret`."""
    request: Any
    """Its message."""


class _Refused(Exception):
    def __init__(self, code: str, reason: str, message: str, *, violations: Sequence[tuple[str, str]] = (), retry_after: float = 0) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.violations, self.retry_after = violations, retry_after


class _Version(NamedTuple):
    secret: pb.Secret
    value: str


class FakeService:
    """A secret service in memory. Threads may share it.

    Args:
        user: The user of the key: the owner of secrets outside the LLM realms.
        realm: The current realm of the key.
    """

    def __init__(self, *, user: str = "test", realm: str = "default") -> None:
        self.calls: list[Call] = []
        """The requests, oldest first. Each retry is one."""
        self._user, self._realm = user, realm
        self._lock = threading.Lock()
        self._versions: dict[_Place, list[_Version]] = {}
        self._ids = 0
        self._failures: deque[tuple[str | None, _Refused]] = deque()
        self._handlers: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
            "CreateSecret": (pb.CreateSecretRequest, self._create),
            "GetSecret": (pb.GetSecretRequest, self._get),
            "ListSecrets": (pb.ListSecretsRequest, self._list),
            "DeleteSecret": (pb.DeleteSecretRequest, self._delete),
            "RotateSecret": (pb.RotateSecretRequest, self._rotate),
            "ValidateSecret": (pb.ValidateSecretRequest, self._validate),
            "GetSecretValue": (pb.GetSecretValueRequest, self._value),
        }

    def client(self, **settings: Any) -> Client:
        """A client of this service. `settings` are those of `Client`, such as `retries`."""
        return Client(**self._settings(settings), http_client=httpx.Client(transport=httpx.MockTransport(self._respond)))

    def async_client(self, **settings: Any) -> AsyncClient:
        """As `client`, for asyncio."""
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._respond))
        return AsyncClient(**self._settings(settings), http_client=http)

    def put(self, name: str, realm: str = "", *, value: str, tags: Mapping[str, str] | None = None) -> pb.Secret:
        """Stores a value as the active version. Not recorded in `calls`."""
        with self._lock:
            return self._create(pb.CreateSecretRequest(name=name, realm=realm, value=value, tags=tags)).secret

    def fail(
        self,
        code: str,
        reason: str = "",
        message: str = "A test asked for this.",
        *,
        call: str | None = None,
        times: int = 1,
        retry_after: float = 0,
    ) -> None:
        """Refuses the next `times` requests, or those of one call, such as `GetSecretValue`, before they do anything.

        The client tries again where it would with the service.

        Args:
            code: One of `Code`.
            reason: One of `Reason`. Without one, the error is that of a proxy.
            retry_after: The delay that the error asks for, in seconds.

        Raises:
            ValueError: There is no such code or call.
        """
        if not is_code(code):
            raise ValueError(f"there is no code {code!r}: use one of agentrouter_sdk.Code")
        if call is not None and call not in self._handlers:
            raise ValueError(f"there is no call {call!r}: use one of {', '.join(self._handlers)}")
        with self._lock:
            self._failures.extend([(call, _Refused(code, reason, message, retry_after=retry_after))] * times)

    @staticmethod
    def _settings(settings: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": "http://localhost", "api_key": _KEY, **settings}

    def _respond(self, request: httpx.Request) -> httpx.Response:
        call = request.url.path.rpartition("/")[2]
        try:
            kind, handler = self._handlers[call]
            message = kind.FromString(request.content)
            with self._lock:
                self.calls.append(Call(call, message))
                self._fail_if_requested(call)
                body = handler(message).SerializeToString()
            return httpx.Response(200, content=body, headers={"content-type": CONTENT_TYPE})
        except _Refused as refused:
            return _refusal(refused)

    def _fail_if_requested(self, call: str) -> None:
        for number, (only, refused) in enumerate(self._failures):
            if only in (None, call):
                del self._failures[number]
                raise refused

    # The calls. The caller holds the lock.

    def _place(self, request: Any, user_id: str = "") -> _Place:
        realm = request.realm or self._realm
        return ("system" if realm in _LLM_REALMS else user_id or self._user, realm, request.name)

    def _stored(self, request: Any, user_id: str = "") -> list[_Version]:
        """The versions of a secret, oldest first. Those whose grace is over are retired."""
        _need(request, "name")
        place = self._place(request, user_id)
        if place not in self._versions:
            raise _Refused(Code.NOT_FOUND, Reason.SECRET_NOT_FOUND, "There is no such secret.")
        _expire(self._versions[place])
        return self._versions[place]

    def _create(self, request: pb.CreateSecretRequest) -> pb.CreateSecretResponse:
        place = self._place(request, request.user_id)
        versions = self._versions.get(place, [])
        _need(request, "name")
        _expect(request, versions)

        def writes(field: str) -> bool:
            if versions and request.HasField("update_mask"):
                return field in request.update_mask.paths
            return bool(getattr(request, field))

        if not versions or writes("value"):
            _need(request, "value")
        if not versions:
            self._ids += 1
            made = pb.Secret(id=f"{self._ids:026}", user_id=place[0], realm=place[1], name=place[2], kek_id="test")
            made.created_at.FromDatetime(_now())
        else:
            made = _copy(versions[-1].secret)
        if writes("description"):
            made.description = request.description
        if writes("tags"):
            made.tags.clear()
            made.tags.update(request.tags)
        made.updated_at.FromDatetime(_now())
        if writes("value"):
            made.version, made.status = made.version + 1, "active"
            if versions:
                _retire(versions[-1].secret)
            versions = [*versions, _Version(made, request.value)]
        else:
            versions = [*versions[:-1], _Version(made, versions[-1].value)]
        self._versions[place] = versions
        return pb.CreateSecretResponse(secret=made)

    def _get(self, request: pb.GetSecretRequest) -> pb.GetSecretResponse:
        return pb.GetSecretResponse(secret=self._stored(request)[-1].secret)

    def _list(self, request: pb.ListSecretsRequest) -> pb.ListSecretsResponse:
        status = request.status or "active"
        for versions in self._versions.values():
            _expire(versions)
        found = [
            version.secret
            for (owner, realm, name), versions in sorted(self._versions.items(), key=lambda item: item[0][1:])
            for version in versions
            if owner in ("system" if realm in _LLM_REALMS else self._user,)
            and request.realm in ("", realm)
            and name.startswith(request.name_prefix)
            and status in ("any", version.secret.status)
            and all(version.secret.tags.get(key) == value for key, value in request.tags.items())
        ]
        token = request.page_token or "0"
        if not token.isdecimal() or int(token) > len(found):
            raise _Refused(Code.INVALID_ARGUMENT, Reason.PAGE_TOKEN_INVALID, "The page token is invalid.")
        if request.page_size < 0:
            raise _invalid("page_size", "must not be negative")
        start = int(token)
        end = start + min(request.page_size or 50, 1000)
        return pb.ListSecretsResponse(
            secrets=found[start:end], next_page_token=str(end) if end < len(found) else ""
        )

    def _delete(self, request: pb.DeleteSecretRequest) -> pb.DeleteSecretResponse:
        self._stored(request)
        del self._versions[self._place(request)]
        return pb.DeleteSecretResponse(success=True)

    def _rotate(self, request: pb.RotateSecretRequest) -> pb.RotateSecretResponse:
        _need(request, "name", "new_value")
        versions = self._stored(request)
        _expect(request, versions)
        before = versions[-1].secret
        made = _copy(before)
        made.version += 1
        grace = request.grace_period.ToTimedelta() if request.HasField("grace_period") else timedelta(hours=24)
        before.status = "rotated_pending"
        before.expires_at.FromDatetime(_now() + grace)
        made.rotated_at.FromDatetime(_now())
        made.updated_at.FromDatetime(_now())
        versions.append(_Version(made, request.new_value))
        return pb.RotateSecretResponse(secret=made)

    def _validate(self, request: pb.ValidateSecretRequest) -> pb.ValidateSecretResponse:
        self._stored(request)
        return pb.ValidateSecretResponse(valid=True)

    def _value(self, request: pb.GetSecretValueRequest) -> pb.GetSecretValueResponse:
        versions = self._stored(request, request.user_id)
        for version in reversed(versions):
            if request.version in (0, version.secret.version) and version.secret.status != "retired":
                return pb.GetSecretValueResponse(value=version.value, secret=version.secret)
        raise _Refused(Code.NOT_FOUND, Reason.SECRET_NOT_FOUND, "There is no such readable version.")


def _expect(request: Any, versions: list[_Version]) -> None:
    current = versions[-1].secret.version if versions else 0
    if request.HasField("expected_version") and request.expected_version != current:
        raise _Refused(Code.ABORTED, Reason.VERSION_MISMATCH, "The current version is another one.")


def _need(request: Any, *fields: str) -> None:
    for field in fields:
        if not getattr(request, field):
            raise _invalid(field, "must be set")


def _invalid(field: str, rule: str) -> _Refused:
    return _Refused(Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST, f"Invalid request: {field} {rule}.", violations=[(field, rule)])


def _expire(versions: list[_Version]) -> None:
    for secret, _ in versions:
        if secret.status == "rotated_pending" and secret.expires_at.ToDatetime(timezone.utc) <= _now():
            _retire(secret)


def _retire(secret: pb.Secret) -> None:
    secret.status = "retired"
    secret.ClearField("expires_at")


def _copy(secret: pb.Secret) -> pb.Secret:
    copy = pb.Secret()
    copy.CopyFrom(secret)
    return copy


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _refusal(refused: _Refused) -> httpx.Response:
    details: list[Message] = []
    if refused.reason:
        details.append(ErrorInfo(reason=refused.reason, domain=_DOMAIN))
    if refused.violations:
        violations = [BadRequest.FieldViolation(field=field, description=rule) for field, rule in refused.violations]
        details.append(BadRequest(field_violations=violations))
    if refused.retry_after:
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=refused.retry_after))
        details.append(RetryInfo(retry_delay=delay))
    body = {"code": refused.code.lower(), "message": refused.message, "details": [_detail(each) for each in details]}
    headers = {"content-type": "application/json", "x-request-id": "fake"}
    return httpx.Response(_STATUS.get(refused.code, 500), content=json.dumps(body), headers=headers)


def _detail(message: Message) -> dict[str, str]:
    value = base64.b64encode(message.SerializeToString()).decode().rstrip("=")
    return {"type": message.DESCRIPTOR.full_name, "value": value}
