"""The clients and their settings."""

from __future__ import annotations

import os
from types import TracebackType

import pyqwest

from ._errors import ConfigError
from ._secret import AsyncSecretClient, SecretClient
from ._settings import Settings, trust

# How long an unused connection is kept, in seconds: less than a server's 10, so that it is not closed under a write.
_IDLE = 8.0


class Client:
    """A client of AgentRouter. Threads may share it. No connection is made before the first call.

    Close it, or use it in a `with`, to give up its connections at once; otherwise they go with it.

    Args:
        base_url: Where the server is: `http://` or `https://`, a host, perhaps a port and a path prefix. Default:
            `AGENTROUTER_BASE_URL`.
        api_key: The API key, with or without `ak-`. Default: `AGENTROUTER_API_KEY`.
        timeout: Time for one call, its retries and pauses included, in seconds. Default: 10.
        retries: How often a safe call is made again after it failed. Default: 2; 0 turns retries off.
        user_agent: The name and version of the program, such as `gateway/1.4`, sent before the SDK's own.
        ca_file: A PEM file of certificates to trust in place of the system's. Default: `AGENTROUTER_CA_FILE`, else the
            system's.
        http_client: A `pyqwest.SyncClient` to use instead of one of our own, for proxies, client certificates and
            such; the caller closes it. Let it follow no redirects, which would send values on to another server.

    Raises:
        ConfigError: The base URL or the key is missing or malformed, or another setting is. Nothing was sent.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        user_agent: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        http_client: pyqwest.SyncClient | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, retries, user_agent)
        self._transport: pyqwest.SyncHTTPTransport | None = None
        if http_client is None:
            system, pem = trust(settings.base_url, ca_file)
            try:
                self._transport = pyqwest.SyncHTTPTransport(
                    tls_ca_cert=pem,
                    tls_include_system_certs=system,
                    pool_idle_timeout=_IDLE,
                    follow_redirects=False,
                )
            except ValueError as error:
                raise ConfigError(f"TLS cannot be set up: {error}") from None
            http_client = pyqwest.SyncClient(self._transport)
        elif ca_file is not None:
            raise ConfigError("ca_file has no effect on an http_client; give one of them")
        self._secret = SecretClient(settings, http_client)

    @property
    def secret(self) -> SecretClient:
        """The secret service."""
        return self._secret

    def close(self) -> None:
        """Gives up the connections. Calls fail from then on."""
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._secret._settings!r})"


class AsyncClient:
    """`Client` for asyncio: the same settings, and calls to await. Close it with `aclose`, or use it in an `async with`.

    `http_client` is a `pyqwest.Client` here.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        user_agent: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        http_client: pyqwest.Client | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, retries, user_agent)
        self._transport: pyqwest.HTTPTransport | None = None
        if http_client is None:
            system, pem = trust(settings.base_url, ca_file)
            try:
                self._transport = pyqwest.HTTPTransport(
                    tls_ca_cert=pem,
                    tls_include_system_certs=system,
                    pool_idle_timeout=_IDLE,
                    follow_redirects=False,
                )
            except ValueError as error:
                raise ConfigError(f"TLS cannot be set up: {error}") from None
            http_client = pyqwest.Client(self._transport)
        elif ca_file is not None:
            raise ConfigError("ca_file has no effect on an http_client; give one of them")
        self._secret = AsyncSecretClient(settings, http_client)

    @property
    def secret(self) -> AsyncSecretClient:
        """The secret service."""
        return self._secret

    async def aclose(self) -> None:
        """Gives up the connections. Calls fail from then on."""
        if self._transport is not None:
            await self._transport.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._secret._settings!r})"
