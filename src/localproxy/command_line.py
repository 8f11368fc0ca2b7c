"""The command line and the environment: arguments to Settings (pure but for looking at paths).

What lives here: options, their names and shapes, defaults, every complaint. What must not: what is done
with any of it.

The options are those of the C++ localproxy's destination mode, with the same names and variables, so
that either can be started in place of the other. Where it shrugs at nonsense this one says so: one line,
exit code 2. Not taken are --config, --config-dir, --settings-json and what belongs to source mode.
"""

from __future__ import annotations

import getopt
import os
import re

from . import VERSION
from .destinations import HOST_PORT, Destination, UsageError, joined, parse_destinations, port_number
from .upgrade import MAX_REQUEST, upgrade_request
from .web_proxy import web_proxy_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from .web_proxy import WebProxy

ACCESS_TOKEN, CLIENT_TOKEN = "AWSIOT_TUNNEL_ACCESS_TOKEN", "AWSIOT_TUNNEL_CLIENT_TOKEN"
ENDPOINT, REGION = "AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION"

# Short name, long name, name of the value, help.
_OPTIONS = (
    ("h", "help", "", "Show this help and exit"),
    ("V", "version", "", "Show the version and exit"),
    ("t", "access-token", "TOKEN", f"Access token; better given as {ACCESS_TOKEN}"),
    ("i", "client-token", "TOKEN", f"Client token, allows to reconnect; better given as {CLIENT_TOKEN}"),
    ("e", "proxy-endpoint", "HOST[:PORT]", f"Endpoint of the service (443); or {ENDPOINT}"),
    ("r", "region", "REGION", f"Region of the tunnel, instead of an endpoint; or {REGION}"),
    ("d", "destination-app", "MAP", "PORT, HOST:PORT or /PATH, or ID=one of these[,ID=...]"),
    ("b", "local-bind-address", "ADDRESS", "Source address of connections to local services"),
    ("c", "capath", "PATH", "More root certificates: a directory, or a PEM file"),
    ("k", "no-ssl-host-verify", "", "INSECURE: do not verify the service's certificate"),
    ("v", "verbose", "LEVEL", "0 off, 1 fatal, 2 error, 3 warning, 4 info (default), 5 debug, 6 trace"),
    ("m", "mode", "MODE", "dst or destination; there is no source mode here"),
    (
        "y",
        "destination-client-type",
        "TYPE",
        "V1 or V2: always answer in that form; V3, the default: in the source's",
    ),
)
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Settings:
    """What one run is asked to do."""

    def __init__(
        self,
        host: str,
        port: int,
        destinations: Mapping[str, Destination],
        access_token: str,
        *,
        client_token: str | None = None,
        bind_address: str | None = None,
        capath: str | None = None,
        verify: bool = True,
        verbosity: int = 4,
        form: str | None = None,
        web_proxy: WebProxy | None = None,
        token_is_visible: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.destinations = destinations
        """By service id; a single one without an id is ""."""
        self.access_token = access_token
        self.client_token = client_token
        self.bind_address = bind_address
        self.capath = capath
        self.verify = verify
        self.verbosity = verbosity
        self.form = form
        self.web_proxy = web_proxy
        self.token_is_visible = token_is_visible
        """Whether a token is in the argument list, where every user of this host can read it."""

    @property
    def endpoint(self) -> str:
        return joined(self.host, self.port)


def help_text() -> str:
    lines = [
        version_text(),  # as everything that the C++ localproxy prints begins with it
        "Usage: localproxy -d MAP (-r REGION | -e HOST[:PORT]) [options]",
        "The destination side of AWS IoT secure tunneling.",
        "",
    ]
    for short, name, value, text in _OPTIONS:
        lines.append(f"  {f'-{short} [ --{name} ] {value}':<46} {text}")
    return "\n".join(lines)


def version_text() -> str:
    return f"Running AWS IoT Secure Tunneling Local Proxy version: {VERSION}"


def parse(arguments: Sequence[str], environ: MutableMapping[str, str]) -> Settings | str:
    """The settings, or a text to print (help, version). Raises UsageError.

    Takes the tokens out of `environ`, so that nothing started or logged later can pass them on.
    """
    tokens = {name: environ.pop(name, "") for name in (ACCESS_TOKEN, CLIENT_TOKEN)}
    given = _read(arguments)
    if "help" in given:
        return help_text()
    if "version" in given:
        return version_text()
    access_token = given.get("access-token") or tokens[ACCESS_TOKEN]
    client_token = given.get("client-token") or tokens[CLIENT_TOKEN] or None
    if not access_token:
        raise UsageError(f"no access token: set {ACCESS_TOKEN}, or give --access-token")
    if not _TOKEN.fullmatch(access_token):
        raise UsageError("the access token holds characters that no token has")
    if client_token and not re.fullmatch("[a-zA-Z0-9-]{32,128}", client_token):
        raise UsageError("the client token is not 32 to 128 characters of a-z, A-Z, 0-9 and -")
    host, port = _service(given, environ)
    if len(upgrade_request(host, port, "x" * 24, access_token, client_token)) >= MAX_REQUEST:
        raise UsageError(
            f"the access token is too long: the service takes requests under {MAX_REQUEST} bytes"
        )
    mode = given.get("mode", "dst")
    if mode not in ("dst", "destination"):
        raise UsageError(f"--mode {mode}: this localproxy is a destination only, dst or destination")
    if "destination-app" not in given:
        raise UsageError("no destination: give --destination-app, for example -d SSH=22")
    form = given.get("destination-client-type")
    if form not in (None, "V1", "V2", "V3"):
        raise UsageError(f"--destination-client-type {form}: expected V1, V2 or V3")
    capath = given.get("capath")
    if capath is not None and not os.access(capath, os.R_OK):
        raise UsageError(f"--capath {capath}: cannot be read")
    try:
        web_proxy = web_proxy_for(host, port, environ)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Settings(
        host,
        port,
        parse_destinations(given["destination-app"]),
        access_token,
        client_token=client_token,
        bind_address=_bind_address(given.get("local-bind-address")),
        capath=capath,
        verify="no-ssl-host-verify" not in given,
        verbosity=_verbosity(given.get("verbose", "4")),
        form=form,
        web_proxy=web_proxy,
        token_is_visible="access-token" in given or "client-token" in given,
    )


def _read(arguments: Sequence[str]) -> dict[str, str]:
    """Option values by long name."""
    shorts = "".join(short + (":" if value else "") for short, _, value, _ in _OPTIONS)
    longs = [name + ("=" if value else "") for _, name, value, _ in _OPTIONS]
    names = {f"-{short}": name for short, name, _, _ in _OPTIONS}
    try:
        found, rest = getopt.gnu_getopt(list(arguments), shorts, longs)
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]}")
    given: dict[str, str] = {}
    for option, value in found:
        name = names.get(option) or option[2:]
        if name in given:
            raise UsageError(f"--{name} is given twice")
        given[name] = value
    return given


def _service(given: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the tunneling service."""
    endpoint = given.get("proxy-endpoint") or environ.get(ENDPOINT)
    region = given.get("region") or environ.get(REGION)
    if bool(endpoint) == bool(region):
        raise UsageError("give one and only one of --region and --proxy-endpoint")
    if region:
        if not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", region):
            raise UsageError(f"--region {region}: no region, expected something like eu-central-1")
        return f"data.tunneling.iot.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}", 443
    found = HOST_PORT.fullmatch(endpoint or "")
    if not found:
        raise UsageError(f"--proxy-endpoint {endpoint}: expected HOST or HOST:PORT")
    host = (found["v6"] or found["host"]).lower()
    return host, port_number(found["port"], "--proxy-endpoint") if found["port"] else 443


def _verbosity(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text) or int(text) > 255:
        raise UsageError(f"--verbose {text}: expected 0 to 6")
    return min(int(text), 6)


def _bind_address(text: str | None) -> str | None:
    """An address of this host, without brackets."""
    if text is None:
        return None
    from ipaddress import ip_address  # only for the few who bind

    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        raise UsageError(f"--local-bind-address {text}: expected an IPv4 or IPv6 address") from None
