"""The component's configuration: defaults, parsing, validation. Pure: no IPC, no files.

The nucleus gives a tree of JSON values. Classic keeps numbers as numbers, lite gives them as strings, and an
operator may have written either, so both are taken everywhere. A value that is not allowed is an error, not a
guess: a component that guesses is found out when somebody needs the tunnel.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Optional

SERVICE_ID = re.compile(r"[a-zA-Z0-9:_-]{1,128}", re.ASCII)

BUILTIN = "builtin"
DISTRIBUTIONS = ("auto", "ubuntu", "amzn2", "raspberrypi")
CLIENT_TYPES = ("auto", "V1", "V2", "V3")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

# Control characters, and what is no character.
_UNPRINTABLE = r"\0-\x1f\x7f\ud800-\udfff"
# As many as the C++ localproxy takes in a host: no underscore.
_HOST = re.compile(r"(?!-)[a-zA-Z0-9.-]{1,253}", re.ASCII)
# Commas and equals signs separate the entries of localproxy's -d.
_SOCKET_PATH = re.compile(rf"/[^{_UNPRINTABLE},=]{{1,106}}")
_MAX_SHOWN = 80


class ConfigurationError(Exception):
    """A value that is not allowed: one line with the key, the value and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"configuration key {key}: {shown(value)} is not allowed; give {allowed}")


def shown(value: object) -> str:
    """A received value as printable ASCII on one line, shortened, for a log line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = ascii(type(value).__name__)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text)} characters)"


def parse_endpoint(text: str) -> tuple[str, Optional[int]]:
    """Split ``host``, ``host:port``, ``[v6]`` or ``[v6]:port`` into the host, without brackets, and the port.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    v6, host, port = match.groups()
    if v6 is not None:
        host = str(ipaddress.IPv6Address(v6))
    elif not _HOST.fullmatch(host):
        raise ValueError(text)
    number = None if port is None else int(port)
    if number is not None and not 1 <= number <= 65535:
        raise ValueError(text)
    return host, number


def _whole_number(value: object) -> Optional[int]:
    """A number or the text of one; also 22.0, as a nucleus that keeps all numbers as doubles gives it."""
    text = str(value).strip() if isinstance(value, (int, float, str)) else ""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.0+)?", text, re.ASCII)
    return None if match is None or isinstance(value, bool) else int(match[1])


def _destination(key: str, value: object) -> Optional[str]:
    """A service's destination in the form that localproxy takes; None for a service that is switched off."""
    if value is None or value == "":
        return None
    number = _whole_number(value)
    text = f"127.0.0.1:{number}" if number is not None else value.strip() if isinstance(value, str) else ""
    if _SOCKET_PATH.fullmatch(text):
        return text
    try:
        host, port = parse_endpoint(text)
        if port is None:
            raise ValueError(text)
    except ValueError:
        raise ConfigurationError(
            key, value, "a port (1-65535), host:port, [IPv6]:port or the path of a Unix socket"
        ) from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _services(key: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(key, value, 'a map of service ids to destinations, such as {"SSH": 22}')
    services = {}
    for service, destination in value.items():
        if not SERVICE_ID.fullmatch(service):
            raise ConfigurationError(key, service, "service ids of 1-128 letters, digits, ':', '_' and '-'")
        where = _destination(f"{key}.{service}", destination)
        if where is not None:
            services[service] = where
    return services


def _number(low: int, high: int) -> Callable[[str, object], int]:
    def parse(key: str, value: object) -> int:
        number = _whole_number(value)
        if number is None or not low <= number <= high:
            raise ConfigurationError(key, value, f"a whole number from {low} to {high}")
        return number

    return parse


def _truth(key: str, value: object) -> bool:
    text = str(value).strip().lower() if isinstance(value, (bool, str)) else ""
    if text not in ("true", "false"):
        raise ConfigurationError(key, value, "true or false")
    return text == "true"


def _one_of(*allowed: str) -> Callable[[str, object], str]:
    def parse(key: str, value: object) -> str:
        if value not in allowed:
            raise ConfigurationError(key, value, "one of " + ", ".join(allowed))
        return str(value)

    return parse


def _absolute_path(*words: str) -> Callable[[str, object], str]:
    """An absolute path, one of these words, or nothing."""

    def parse(key: str, value: object) -> str:
        if value == "" or value in words:
            return str(value)
        if not isinstance(value, str) or not re.fullmatch(rf"/[^{_UNPRINTABLE}]{{0,4000}}", value):
            raise ConfigurationError(key, value, " or ".join(["an absolute path", *words, "nothing"]))
        return value

    return parse


def _endpoint(key: str, value: object) -> str:
    try:
        if value != "":
            parse_endpoint(value if isinstance(value, str) else "")
    except ValueError:
        raise ConfigurationError(key, value, "host or host:port without a scheme, or nothing") from None
    return str(value)


def _topic(key: str, value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not re.fullmatch(rf"[^{_UNPRINTABLE}+#]{{1,250}}", value):
        raise ConfigurationError(key, value, "a topic of at most 250 characters without + and #, or nothing")
    return value


def _key(name: str, default: Any, parse: Callable[[str, object], Any]) -> Any:
    """A configuration key: its name for the operator, its default, and what turns a value into ours."""
    return field(default=default, metadata={"key": name, "parse": parse})


@dataclass(frozen=True)
class Configuration:
    """One whole, valid configuration. The README's table says what each key is for."""

    services: Mapping[str, str] = field(
        default_factory=lambda: {"SSH": "127.0.0.1:22", "VNC": "127.0.0.1:5900", "PG": "127.0.0.1:9876"},
        metadata={"key": "services", "parse": _services},
    )
    localproxy_path: str = _key("localproxyPath", "", _absolute_path(BUILTIN))
    distribution: str = _key("OS_DIST_INFO", "auto", _one_of(*DISTRIBUTIONS))
    localproxy_verbosity: int = _key("localproxyVerbosity", 4, _number(0, 6))
    client_type: str = _key("destinationClientType", "auto", _one_of(*CLIENT_TYPES))
    tunneling_endpoint: str = _key("tunnelingEndpoint", "", _endpoint)
    ca_path: str = _key("caPath", "", _absolute_path())
    max_concurrent_tunnels: int = _key("maxConcurrentTunnels", 20, _number(1, 20))
    tunnel_timeout_seconds: int = _key("tunnelTimeoutSeconds", 43200, _number(1, 43200))
    reconnect_with_client_token: bool = _key("reconnectWithClientToken", True, _truth)
    defer_updates_seconds: int = _key("deferUpdatesSeconds", 3600, _number(0, 86400))
    resubscribe_seconds: int = _key("resubscribeSeconds", 3600, _number(0, 86400))
    ipc_retry_seconds: int = _key("ipcRetrySeconds", 300, _number(1, 86400))
    status_topic: str = _key("statusTopic", "iot-tunnel-agent/status", _topic)
    log_level: str = _key("logLevel", "INFO", _one_of(*LOG_LEVELS))
    unknown_keys: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Configuration:
        """The configuration that GetConfiguration gave, a missing or null key standing for its default.

        Raises:
            ConfigurationError: a value is not allowed; the first one found is named.
        """
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigurationError("(all)", value, "a map of the component's configuration keys")
        parsed: dict[str, Any] = {}
        known = {"accessControl"}  # the nucleus's own
        for known_key in fields(cls):
            if "key" in known_key.metadata:
                name = known_key.metadata["key"]
                known.add(name)
                if value.get(name) is not None:
                    parsed[known_key.name] = known_key.metadata["parse"](name, value[name])
        return cls(**parsed, unknown_keys=tuple(sorted(str(name) for name in value if name not in known)))
