"""Settings of a client, and their checks.

No error contains the key or the user part of a URL.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from ._errors import ConfigError
from ._route import UNIX

VERSION = "0.1.1"
# The defaults of a client: seconds, and retries after the first attempt.
TIMEOUT = 10.0
RETRIES = 2

_KEY = re.compile(r"[0-9A-Za-z]{16}_[0-9A-Za-z]{49}")


class _Headers(dict[str, str]):
    """Headers whose `repr` has no key, for programs that print the variables of a frame."""

    def with_(self, *others: Mapping[str, str]) -> _Headers:
        """A copy with more headers."""
        headers = _Headers(self)
        for other in others:
            headers.update(other)
        return headers

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


class Settings:
    """Settings that passed the checks."""

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        timeout: float,
        retries: int,
        user_agent: str | None,
        allow_http: bool | None,
    ) -> None:
        self.base_url = _base_url(base_url if base_url is not None else os.environ.get("AGENTROUTER_BASE_URL", ""))
        self.allow_http = allow_http if allow_http is not None else _switch("AGENTROUTER_ALLOW_HTTP")
        key = api_key if api_key is not None else os.environ.get("AGENTROUTER_API_KEY", "")
        self.headers = _Headers({"authorization": _authorization(key), "user-agent": _user_agent(user_agent)})
        self.timeout = seconds("the timeout", timeout)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigError("the number of retries must be a whole number, 0 or more")
        self.retries = retries

    def __repr__(self) -> str:
        return f"base_url={self.base_url!r}, timeout={self.timeout:g}, retries={self.retries}"


def seconds(what: str, value: float, zero: bool = False) -> float:
    """A time that is finite and above zero, or zero if that is allowed."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"{what} must be a number of seconds {'of zero or more' if zero else 'above zero'}")
    return float(value)


def _switch(name: str) -> bool:
    """A variable that is `1` or `true`, or `0` or `false`. An empty variable counts as unset."""
    value = os.environ.get(name, "").lower()
    if value not in ("", "0", "1", "false", "true"):
        raise ConfigError(f"{name} must be 1 or 0")
    return value in ("1", "true")


def _base_url(text: str) -> str:
    """The base URL without a slash at its end: `http` or `https`, a host, optionally a port and a path prefix.

    Or `unix:` and the path of a socket.
    """
    if not text:
        raise ConfigError("no base URL is set. Set base_url or AGENTROUTER_BASE_URL")
    if isinstance(text, str) and text.startswith(UNIX):
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("the base URL names a Unix socket, which this system does not have")
        if not text[len(UNIX) :].strip("/") or "\0" in text:
            raise ConfigError("the base URL must name a socket, such as unix:/run/agentrouter.sock")
        return text
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigError("the base URL must be a URL such as http://127.0.0.1:8080") from None
    if url.scheme not in ("http", "https"):
        raise ConfigError("the base URL must begin with http://, https:// or unix:")
    if "@" in url.netloc:
        raise ConfigError("the base URL must not have a user or password in it")
    if not host:
        raise ConfigError("the base URL must name a host")
    if "?" in text or "#" in text:
        raise ConfigError("the base URL must not have a query or fragment")
    if not re.fullmatch(r"[!-~]+", text):
        raise ConfigError("the base URL must not have spaces or characters beyond ASCII")
    return text.rstrip("/")


def _authorization(key: str) -> str:
    """The `Authorization` header for a key given with or without `ak-`.

    It checks the form only. The server checks the checksum.
    """
    if not key:
        raise ConfigError("no API key is set. Set api_key or AGENTROUTER_API_KEY")
    bare = key.removeprefix("ak-") if isinstance(key, str) else ""
    if _KEY.fullmatch(bare):
        return f"Bearer ak-{bare}"
    rule = "must be 16 letters and digits, '_', and 49 letters and digits, with or without 'ak-' before them"
    if bare and key.strip() != key:
        rule = "must not have spaces or a line end around it"
    elif bare.startswith("Bearer"):
        rule = "must be given without 'Bearer'"
    raise ConfigError(f"the API key {rule}")


def _user_agent(product: str | None) -> str:
    sdk = f"agentrouter-sdk-python/{VERSION}"
    if product is None:
        return sdk
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", product):
        raise ConfigError("the user agent must be printable ASCII, such as gateway/1.4")
    return f"{product} {sdk}"
