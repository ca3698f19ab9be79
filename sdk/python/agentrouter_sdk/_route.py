"""The route to the server: its URL, a Unix socket, a proxy of the environment, and the certificates to trust."""

from __future__ import annotations

import ipaddress
import os
import ssl
from urllib.parse import unquote, urlsplit

import certifi
import httpcore

from ._errors import ConfigError

# The beginning of the base URL of a Unix socket.
UNIX = "unix:"


class Route:
    """How requests reach a server. Immutable. With `own`, an HTTP client of the caller decides about TLS and proxies."""

    def __init__(
        self, base_url: str, ca_file: str | os.PathLike[str] | None, allow_http: bool, *, own: bool = False
    ) -> None:
        self.socket = base_url[len(UNIX) :] if base_url.startswith(UNIX) else None
        self.base_url = "http://localhost" if self.socket else base_url
        url = urlsplit(self.base_url)
        host = url.hostname or ""
        tls = url.scheme == "https"
        if not tls and not is_loopback(host) and not allow_http:
            raise ConfigError(
                "the base URL is http://, so the API key and all values would cross the network in clear text. Use https://, "
                "or set allow_http=True or AGENTROUTER_ALLOW_HTTP=1 if the network is trusted"
            )
        if ca_file is not None and not tls:
            raise ConfigError("ca_file has no effect without https://. Leave it out")
        self.tls: ssl.SSLContext | None = None
        self.proxy: httpcore.Proxy | None = None
        if tls and not own:
            self.tls = _trust(ca_file or os.environ.get("AGENTROUTER_CA_FILE") or None)
        if not self.socket and not own:
            self.proxy = proxy_for(url.scheme, host, url.port or (443 if tls else 80))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _trust(path: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """TLS that trusts the certificates of a file alone, or the system's.

    OpenSSL finds the system's, also by SSL_CERT_FILE and SSL_CERT_DIR. If it finds none, they are certifi's.
    """
    if path is not None:
        return _trust_file(path)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        named = os.environ.get(name)
        if named and not os.path.exists(named):
            raise ConfigError(f"cannot read certificates from {named} of {name}. Correct the path, or unset {name}")
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not os.environ.get("SSL_CERT_FILE", "-") and os.path.exists(paths.openssl_cafile):
        context.load_verify_locations(paths.openssl_cafile)  # OpenSSL takes an empty variable for a path.
    if not os.environ.get("SSL_CERT_DIR", "-") and os.path.isdir(paths.openssl_capath):
        context.load_verify_locations(capath=paths.openssl_capath)
    if not context.cert_store_stats()["x509_ca"] and not paths.capath and not paths.cafile:
        context.load_verify_locations(certifi.where())
    return context


def _trust_file(path: str | os.PathLike[str]) -> ssl.SSLContext:
    shown = os.fspath(path)
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"there are no certificates in {shown}, or they cannot be parsed") from None
    except OSError as error:
        raise ConfigError(f"cannot read certificates from {shown}: {error.strerror}") from None


def proxy_for(scheme: str, host: str, port: int) -> httpcore.Proxy | None:
    """The proxy that the environment names for a server. The loopback interface has none."""
    if is_loopback(host):
        return None
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        # A CGI server sets HTTP_PROXY from a header of its caller.
        value = "" if name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ else os.environ.get(name, "")
        if value:
            excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
            return None if _is_excluded(excluded, host.lower(), port) else _proxy(name, value)
    return None


def _proxy(name: str, value: str) -> httpcore.Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or url.scheme not in ("http", "https"):
        raise ConfigError(f"{name} must be a URL such as http://proxy.example.com:3128. Correct it, or set NO_PROXY")
    auth = (unquote(url.username).encode(), unquote(url.password or "").encode()) if url.username else None
    shown = f"[{host}]" if ":" in host else host
    context = ssl.create_default_context() if url.scheme == "https" else None
    return httpcore.Proxy(
        f"{url.scheme}://{shown}:{port or (443 if url.scheme == 'https' else 80)}", auth=auth, ssl_context=context
    )


def _is_excluded(excluded: str, host: str, port: int) -> bool:
    """Whether NO_PROXY names a host: `*`, a domain with its subdomains, `.domain`, an address, a network, or one with a port."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in excluded.lower().replace(" ", ",").split(","):
        if entry == "*":
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                pass
            continue
        name, colon, its_port = entry.rpartition(":")
        if colon and its_port.isdigit() and (name.count(":") == 0 or name.endswith("]")):
            if int(its_port) != port:
                continue
            entry = name
        entry = entry.strip("[]")
        entry = entry[1:] if entry.startswith("*.") else entry
        parent = entry.strip(".")
        if parent and (host == entry or (address is None and host.endswith(f".{parent}"))):
            return True
    return False
