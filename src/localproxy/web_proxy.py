"""Which web proxy the environment names for an endpoint (pure).

What lives here: the variables, their order, the shape of a proxy's URL, and NO_PROXY. What must not:
talking to it (upgrade, proxy).

https_proxy goes before HTTPS_PROXY as in the C++ localproxy; where neither is set ALL_PROXY counts, as
Greengrass sets it. NO_PROXY holds host names, which also mean everything below them, addresses, and
networks in CIDR form, each with or without a port; a * means every host.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 3128
"""The port of a proxy that is named without one, as the C++ localproxy takes it."""

_URL = re.compile(
    r"(?:(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://)?"
    r"(?:(?P<credentials>.*)@)?"
    r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s@/:\[\]]+))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


class WebProxy:
    """An HTTP proxy: reached over TLS if `tls`; `credentials` are user:password, decoded."""

    __slots__ = ("credentials", "host", "port", "tls")

    def __init__(self, host: str, port: int, tls: bool = False, credentials: str | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.credentials = credentials


def web_proxy_for(host: str, port: int, environ: Mapping[str, str]) -> WebProxy | None:
    """The proxy to use for host:port, None for none. Raises ValueError for one that cannot be used."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        url = environ.get(name, "").strip()
        if url:
            exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            return None if _is_exempt(host, port, exceptions) else _parse(name, url)
    return None


def _parse(name: str, url: str) -> WebProxy:
    # The URL itself may hold a password: no message repeats it.
    found = _URL.fullmatch(url)
    if not found:
        raise ValueError(f"{name} is not a proxy's URL, expected http://[user:password@]host[:port]")
    scheme = (found["scheme"] or "http").lower()
    if scheme not in ("http", "https"):
        raise ValueError(f"{name} names a proxy of the kind {scheme}, only http and https are known")
    port = int(found["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"{name} names the port {port}")
    credentials = found["credentials"]
    if credentials is not None:
        from urllib.parse import unquote  # only the few who need it pay for it

        credentials = unquote(credentials)
        if ":" not in credentials:
            credentials += ":"
    return WebProxy(found["v6"] or found["host"], port, scheme == "https", credentials)


def _is_exempt(host: str, port: int, exceptions: str) -> bool:
    host = host.lower().rstrip(".")
    for entry in re.split(r"[\s,]+", exceptions.lower()):
        if entry == "*":
            return True
        name, _, wanted = entry.rpartition(":")
        if name and wanted.isdigit() and (":" not in name or name.endswith("]")):
            if int(wanted) != port:
                continue
            entry = name
        entry = entry.strip("[]").lstrip("*").lstrip(".").rstrip(".")
        if entry and (host == entry or host.endswith("." + entry) or _is_in_network(host, entry)):
            return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    """Whether the host is an address that the entry means."""
    if not (host[-1:].isdigit() or ":" in host) or not (network[-1:].isalnum() or network[-1:] == ":"):
        return False
    from ipaddress import ip_address, ip_network  # only for the few endpoints that are addresses

    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
