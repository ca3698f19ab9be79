"""Settings of a client, and their checks.

No error contains the key or the user part of a URL.
"""

from __future__ import annotations

import math
import os
import re
from urllib.parse import urlsplit

from ._errors import ConfigError

VERSION = "0.1.1"
# The defaults of a client: seconds, and retries after the first attempt.
TIMEOUT = 10.0
RETRIES = 2

_KEY = re.compile(r"[0-9A-Za-z]{16}_[0-9A-Za-z]{49}")


class _Headers(dict[str, str]):
    """Headers whose `repr` has no key, for programs that print the variables of a frame."""

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
    ) -> None:
        self.base_url = _base_url(base_url if base_url is not None else os.environ.get("AGENTROUTER_BASE_URL", ""))
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


def trust(base_url: str, path: str | os.PathLike[str] | None) -> tuple[bool, bytes | None]:
    """Whether to trust the system's certificates, and the PEM file to trust instead.

    Without TLS it is neither: reading the system's certificates takes about 200 ms.
    """
    if urlsplit(base_url).scheme != "https":
        return False, None
    path = path if path is not None else os.environ.get("AGENTROUTER_CA_FILE") or None
    if path is None:
        return True, None
    try:
        with open(path, "rb") as file:
            pem = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read certificates from {os.fspath(path)}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"there are no certificates in {os.fspath(path)}")
    return False, pem


def _base_url(text: str) -> str:
    """The base URL without a slash at its end: `http` or `https`, a host, optionally a port and a path prefix."""
    if not text:
        raise ConfigError("no base URL is set. Set base_url or AGENTROUTER_BASE_URL")
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigError("the base URL must be a URL such as http://127.0.0.1:8080") from None
    if url.scheme not in ("http", "https"):
        raise ConfigError("the base URL must begin with http:// or https://")
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
