"""With which arguments and which environment a localproxy is started for a notification. Pure.

The tokens go into the environment and nowhere else: an argument list is for every user of the device to read.
The environment is built up, not copied: what the nucleus gave to the component (its IPC token, its way to the
device's AWS credentials) is no business of a child that talks to the network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunnel_agent.config import Configuration, parse_endpoint
from tunnel_agent.notification import Notification

# Below this localproxy does not say whether it is connected or rejected; the agent reads that from its lines
# and leaves out of the log what is above the wanted verbosity.
_LOWEST_VERBOSITY = 4

_PASSED_ON = ("PATH", "HOME", "LANG", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")
_PROXY_FOR_HTTPS = ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


class LaunchError(Exception):
    """A notification for which no localproxy can be started: one line with the key that mends it."""


@dataclass(frozen=True)
class Localproxy:
    """A localproxy that was found usable.

    Attributes:
        command: what starts it, without options.
        builtin: whether it is the one that comes with the component.
        version: what it calls itself.
        options: the long options that it knows, such as ``--client-token``.
        environment: what it needs on top of every localproxy's environment.
    """

    command: tuple[str, ...]
    builtin: bool
    version: str
    options: frozenset[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'built-in' if self.builtin else self.command[0]}, version {self.version}"


def service_problem(configuration: Configuration, services: tuple[str, ...]) -> str:
    """Why a tunnel with these service ids cannot be served; empty if it can."""
    unknown = [service for service in services if service not in configuration.services]
    if unknown:
        known = ", ".join(configuration.services) or "none"
        return f"no destination for {', '.join(unknown)}; the configuration key services has: {known}"
    if len(services) > 1:
        with_colon = [service for service in services if ":" in service]
        if with_colon:
            return (
                f"service id {', '.join(with_colon)} has a colon, which localproxy takes only in a tunnel "
                "with one service; rename it where the tunnel is opened and in the configuration key services"
            )
    return ""


def endpoint_host(configuration: Configuration, region: str) -> str:
    """The host of the tunneling service that localproxy will connect to."""
    if configuration.tunneling_endpoint:
        return parse_endpoint(configuration.tunneling_endpoint)[0]
    return f"data.tunneling.iot.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def arguments(
    localproxy: Localproxy, configuration: Configuration, notification: Notification
) -> tuple[str, ...]:
    """The whole command. The service ids must have passed :func:`service_problem`.

    Raises:
        LaunchError: this localproxy cannot do what the configuration asks for.
    """
    command = list(localproxy.command)
    if configuration.tunneling_endpoint:
        command += ["-e", configuration.tunneling_endpoint]
    else:
        command += ["-r", notification.region]
    destinations = [(service, configuration.services[service]) for service in notification.services]
    if len(destinations) == 1:
        command += ["-d", destinations[0][1]]
    else:
        command += ["-d", ",".join(f"{service}={where}" for service, where in destinations)]
    command += ["-v", str(max(_LOWEST_VERBOSITY, configuration.localproxy_verbosity))]
    if configuration.ca_path:
        command += ["-c", configuration.ca_path]
    client_type = _client_type(localproxy, configuration, len(destinations))
    if client_type in ("V1", "V2"):
        command += ["-y", client_type]
    return tuple(command)


def _client_type(localproxy: Localproxy, configuration: Configuration, services: int) -> str:
    wanted = configuration.client_type
    knows = "--destination-client-type" in localproxy.options
    if wanted == "auto":
        # The built-in recognises its peer; the binary must be told that it is a V1 source.
        return "V1" if knows and not localproxy.builtin and services == 1 else "V3"
    if wanted == "V1" and services > 1:
        raise LaunchError("the configuration key destinationClientType is V1, which carries one service only")
    if wanted != "V3" and not knows:
        raise LaunchError(
            f"localproxy {localproxy.version} does not know --destination-client-type; "
            "set the configuration key destinationClientType to auto"
        )
    return wanted


def hints(localproxy: Localproxy, command: tuple[str, ...]) -> list[str]:
    """What the person at the other end has to know about this command, a line each."""
    if localproxy.builtin:
        return []
    lines = []
    if command[-2:] == ("-y", "V1"):
        lines.append("a V3 localproxy as its source needs --destination-client-type V1")
    if "[" in command[command.index("-d") + 1]:
        # Seen with 3.3.1: it takes the colon before the port for a part of the address.
        lines.append(
            "the C++ localproxy finds no IPv6 address: give a host name, or set localproxyPath to builtin"
        )
    return lines


@dataclass(frozen=True)
class Inherited:
    """What a localproxy may have of the component's own environment.

    Attributes:
        variables: what every one has.
        https_proxy: what those have whose host ``no_proxy`` does not name; empty for none.
    """

    variables: Mapping[str, str]
    https_proxy: str
    no_proxy: str

    @classmethod
    def of(cls, ours: Mapping[str, str]) -> Inherited:
        """The named few of the component's own environment."""
        variables = {name: ours[name] for name in _PASSED_ON if ours.get(name)}
        variables.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
        proxy = next((ours[name] for name in _PROXY_FOR_HTTPS if _is_http_proxy(ours.get(name, ""))), "")
        return cls(variables, proxy, ours.get("no_proxy") or ours.get("NO_PROXY") or "")


def environment(
    localproxy: Localproxy, inherited: Inherited, host: str, access_token: str, client_token: str
) -> dict[str, str]:
    """The whole environment of a localproxy that connects to ``host``; ``client_token`` is empty for none."""
    result = dict(inherited.variables)
    # The binary knows neither NO_PROXY nor ALL_PROXY, so they are applied here.
    if inherited.https_proxy and not _covered(host, inherited.no_proxy):
        result["HTTPS_PROXY"] = inherited.https_proxy
    result.update(localproxy.environment)
    result["AWSIOT_TUNNEL_ACCESS_TOKEN"] = access_token
    if client_token and "--client-token" in localproxy.options:
        result["AWSIOT_TUNNEL_CLIENT_TOKEN"] = client_token
    return result


def _is_http_proxy(url: str) -> bool:
    scheme, separator, _ = url.partition("://")
    return bool(url) and (not separator or scheme.lower() in ("http", "https"))


def _covered(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names this host: by itself, by a domain above it, by a network, or with ``*``."""
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        name = entry.lstrip("*").lstrip(".") if entry != "*" else entry
        if name == "*" or (name and (host == name or host.endswith("." + name))):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue  # one of the two is a name
    return False
