"""Hosts, ports and paths as they are written in arguments (pure).

What lives here: `-d` in all its shapes, and what it shares with `-e`. What must not: other options
(command_line), connecting to any of it (dial).
"""

from __future__ import annotations

import os
import re

_SERVICE_ID = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[a-zA-Z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


class UsageError(Exception):
    """The command line or the environment asks for what cannot be; the text is one line."""


class Destination:
    """Where a service listens: host and port, or the path of a Unix socket."""

    __slots__ = ("host", "path", "port")

    def __init__(self, host: str = "", port: int = 0, path: str = "") -> None:
        self.host = host
        self.port = port
        self.path = path

    def __str__(self) -> str:
        return self.path or joined(self.host, self.port)


def parse_destinations(text: str) -> dict[str, Destination]:
    """`-d` in all its shapes: one destination without an id, or a list with ids. Raises UsageError."""
    # An id holds no slash: what stands before the first = of a path is none. A comma ends a
    # destination where another id follows, so a path may hold one too.
    if not re.match(rf"{_SERVICE_ID.pattern}=", text):
        return {"": _destination(text)}
    destinations: dict[str, Destination] = {}
    for part in re.split(rf",(?={_SERVICE_ID.pattern}=)", text):
        service_id, _, where = part.partition("=")
        if service_id in destinations:
            raise UsageError(f"--destination-app: the service id {service_id} is there twice")
        destinations[service_id] = _destination(where)
    return destinations


def _destination(text: str) -> Destination:
    if "/" in text:
        if len(os.fsencode(text)) > 107 or "\0" in text:
            raise UsageError(f"--destination-app {text}: too long for the path of a socket")
        return Destination(path=text)
    if re.fullmatch("[0-9]+", text):
        return Destination("localhost", port_number(text, "--destination-app"))
    found = HOST_PORT.fullmatch(text)
    if not found or not found["port"]:
        raise UsageError(
            f"--destination-app {text}: expected PORT, HOST:PORT, [IPV6]:PORT or a path with a /"
        )
    return Destination(found["v6"] or found["host"], port_number(found["port"], "--destination-app"))


def port_number(text: str, option: str) -> int:
    if not 0 < int(text[:6]) < 65536:
        raise UsageError(f"{option}: {text} is no port, expected 1 to 65535")
    return int(text)


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
