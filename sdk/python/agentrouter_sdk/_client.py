"""The clients."""

from __future__ import annotations

import os
from types import TracebackType

import pyqwest

from ._errors import ConfigError
from ._secret import AsyncSecretClient, SecretClient
from ._settings import RETRIES, TIMEOUT, Settings, trust

# How long an idle connection is kept, in seconds. The server closes one after 10: a shorter time keeps writes off it.
_IDLE = 8.0


class Client:
    """A client of AgentRouter. Threads may share it. No connection is made before the first call.

    Close it, or use it in a `with`, to close its connections at once.

    Args:
        base_url: The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Default:
            `AGENTROUTER_BASE_URL`.
        api_key: The API key, with or without `ak-`. Default: `AGENTROUTER_API_KEY`.
        timeout: The time limit of a call, with its retries and pauses, in seconds. Default: 10.
        retries: The number of retries of a read, or of a write with `expected_version`. Default: 2. 0 turns retries off.
        user_agent: The name and version of the program, such as `gateway/1.4`. The client sends it before the SDK's.
        ca_file: A PEM file of certificates to trust instead of the system's. Default: `AGENTROUTER_CA_FILE`, or the
            system's.
        http_client: A `pyqwest.SyncClient` to use, for proxies or client certificates. The caller closes it. It must not
            follow redirects, which would send values to another server.

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
            raise ConfigError("ca_file has no effect on an http_client. Set only one of them")
        self._secret = SecretClient(settings, http_client)

    @property
    def secret(self) -> SecretClient:
        """The secret service."""
        return self._secret

    def close(self) -> None:
        """Closes the connections. Later calls fail."""
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
    """`Client` for asyncio, with the same settings. Close it with `aclose`, or use it in an `async with`.

    `http_client` is a `pyqwest.Client` here.
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
            raise ConfigError("ca_file has no effect on an http_client. Set only one of them")
        self._secret = AsyncSecretClient(settings, http_client)

    @property
    def secret(self) -> AsyncSecretClient:
        """The secret service."""
        return self._secret

    async def aclose(self) -> None:
        """Closes the connections. Later calls fail."""
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
