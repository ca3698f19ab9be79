"""The clients."""

from __future__ import annotations

import os
from types import TracebackType

import httpx

from ._errors import ConfigError
from ._http import AsyncHttp, SyncHttp
from ._route import UNIX, Route
from ._secret import AsyncSecretClient, SecretClient
from ._settings import RETRIES, TIMEOUT, Settings


class Client:
    """A client of AgentRouter. Threads may share it, and forked processes may use it. It connects at the first call.

    Close it, or use it in a `with`, to close its connections at once.

    Args:
        base_url: The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Or `unix:` and
            the path of a Unix socket. Default: `AGENTROUTER_BASE_URL`.
        api_key: The API key, with or without `ak-`. Default: `AGENTROUTER_API_KEY`.
        timeout: The time limit of a call, with its retries and pauses, in seconds. Default: 10.
        retries: The number of retries of a read, or of a write with `expected_version`. Default: 2. 0 turns retries off.
        user_agent: The name and version of the program, such as `gateway/1.4`. The client sends it before the SDK's.
        ca_file: A PEM file of certificates to trust instead of the system's. Default: `AGENTROUTER_CA_FILE`, or the
            system's.
        allow_http: Whether the key and values may be sent to another host without TLS. Default:
            `AGENTROUTER_ALLOW_HTTP`, or False.
        http_client: An `httpx.Client` to use, for client certificates, event hooks or tests. The caller closes it. It decides
            about proxies and certificates.

    Raises:
        ConfigError: A setting is missing or malformed. No request was sent.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        user_agent: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        allow_http: bool | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, retries, user_agent, allow_http)
        self._http = SyncHttp(_route(settings, ca_file, http_client), http_client)
        self._secret = SecretClient(settings, self._http)

    @property
    def secret(self) -> SecretClient:
        """The secret service."""
        return self._secret

    def close(self) -> None:
        """Closes the connections. Later calls fail."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._secret._settings!r})"


class AsyncClient:
    """`Client` for asyncio, with the same settings. Close it with `aclose`, or use it in an `async with`.

    `http_client` is an `httpx.AsyncClient` here. Several event loops may share a client.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        user_agent: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        allow_http: bool | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, retries, user_agent, allow_http)
        self._http = AsyncHttp(_route(settings, ca_file, http_client), http_client)
        self._secret = AsyncSecretClient(settings, self._http)

    @property
    def secret(self) -> AsyncSecretClient:
        """The secret service."""
        return self._secret

    async def aclose(self) -> None:
        """Closes the connections. Later calls fail."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._secret._settings!r})"


def _route(settings: Settings, ca_file: str | os.PathLike[str] | None, http_client: object) -> Route:
    if http_client is None:
        return Route(settings.base_url, ca_file, settings.allow_http)
    if ca_file is not None:
        raise ConfigError("ca_file has no effect on an http_client. Set only one of them")
    if settings.base_url.startswith(UNIX):
        raise ConfigError("a base URL of a Unix socket has no effect on an http_client. Set its transport instead")
    return Route(settings.base_url, None, settings.allow_http, own=True)
