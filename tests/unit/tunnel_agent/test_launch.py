"""Launch decisions: arguments, environment, what cannot be served."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel_agent.config import Configuration
from tunnel_agent.launch import (
    Inherited,
    LaunchError,
    Localproxy,
    arguments,
    endpoint_host,
    environment,
    hints,
    service_problem,
)
from tunnel_agent.notification import Notification

ALL = frozenset({"--destination-client-type", "--client-token"})
BINARY = Localproxy(("/opt/lp/localproxy",), False, "v3.3.1", ALL)
OLD = Localproxy(("/opt/lp/localproxy",), False, "v1.0", frozenset())
BUILTIN = Localproxy(("python3", "-m", "localproxy"), True, "built-in", ALL, {"PYTHONPATH": "/src"})

HOST = "data.tunneling.iot.eu-central-1.amazonaws.com"


def command(localproxy: Localproxy, services: tuple[str, ...], configuration: dict[str, Any]) -> list[str]:
    notification = Notification("token", "eu-central-1", services)
    whole = arguments(localproxy, Configuration.parse(configuration), notification)
    assert whole[: len(localproxy.command)] == localproxy.command
    return list(whole[len(localproxy.command) :])


@pytest.mark.parametrize(
    ("localproxy", "services", "configuration", "expected"),
    [
        (BINARY, ("SSH",), {}, "-r eu-central-1 -d 127.0.0.1:22 -v 4 -y V1"),
        (BINARY, ("SSH", "VNC"), {}, "-r eu-central-1 -d SSH=127.0.0.1:22,VNC=127.0.0.1:5900 -v 4"),
        (BUILTIN, ("SSH",), {}, "-r eu-central-1 -d 127.0.0.1:22 -v 4"),
        (OLD, ("SSH",), {}, "-r eu-central-1 -d 127.0.0.1:22 -v 4"),
        (OLD, ("SSH",), {"destinationClientType": "V3"}, "-r eu-central-1 -d 127.0.0.1:22 -v 4"),
        (BINARY, ("SSH",), {"destinationClientType": "V2"}, "-r eu-central-1 -d 127.0.0.1:22 -v 4 -y V2"),
        (BUILTIN, ("SSH",), {"destinationClientType": "V1"}, "-r eu-central-1 -d 127.0.0.1:22 -v 4 -y V1"),
        (BINARY, ("SSH",), {"destinationClientType": "V3"}, "-r eu-central-1 -d 127.0.0.1:22 -v 4"),
        (BINARY, ("S:1",), {"services": {"S:1": "/run/x"}}, "-r eu-central-1 -d /run/x -v 4 -y V1"),
        (BUILTIN, ("SSH",), {"tunnelingEndpoint": "h:8443"}, "-e h:8443 -d 127.0.0.1:22 -v 4"),
        (BUILTIN, ("SSH",), {"caPath": "/ca"}, "-r eu-central-1 -d 127.0.0.1:22 -v 4 -c /ca"),
        (BUILTIN, ("SSH",), {"localproxyVerbosity": 6}, "-r eu-central-1 -d 127.0.0.1:22 -v 6"),
        (BUILTIN, ("SSH",), {"localproxyVerbosity": 0}, "-r eu-central-1 -d 127.0.0.1:22 -v 4"),
    ],
)
def test_arguments(
    localproxy: Localproxy, services: tuple[str, ...], configuration: dict[str, Any], expected: str
) -> None:
    assert " ".join(command(localproxy, services, configuration)) == expected


def test_what_a_localproxy_cannot_do() -> None:
    with pytest.raises(LaunchError, match="destinationClientType is V1"):
        command(BINARY, ("SSH", "VNC"), {"destinationClientType": "V1"})
    with pytest.raises(LaunchError, match="destinationClientType to auto"):
        command(OLD, ("SSH",), {"destinationClientType": "V2"})


@pytest.mark.parametrize(
    ("localproxy", "configuration", "words"),
    [
        (BINARY, {}, ["--destination-client-type V1"]),
        (BINARY, {"destinationClientType": "V3"}, []),
        (BINARY, {"services": {"SSH": "[::1]:22"}}, ["--destination-client-type V1", "IPv6"]),
        (BUILTIN, {"services": {"SSH": "[::1]:22"}}, []),
        (OLD, {}, []),
    ],
)
def test_hints(localproxy: Localproxy, configuration: dict[str, Any], words: list[str]) -> None:
    notification = Notification("token", "eu-central-1", ("SSH",))
    whole = arguments(localproxy, Configuration.parse(configuration), notification)
    lines = hints(localproxy, whole)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines))


@pytest.mark.parametrize(
    ("services", "problem"),
    [
        (("SSH",), ""),
        (("SSH", "PG"), ""),
        (("A:B",), ""),
        (
            ("NO", "SSH", "NEITHER"),
            "no destination for NO, NEITHER; the configuration key services has: A:B, PG, SSH",
        ),
        (("SSH", "A:B"), "service id A:B has a colon"),
    ],
)
def test_services(services: tuple[str, ...], problem: str) -> None:
    configuration = Configuration.parse({"services": {"A:B": 1, "PG": 2, "SSH": 3}})
    said = service_problem(configuration, services)
    assert said.startswith(problem)
    assert bool(said) is bool(problem)


@pytest.mark.parametrize(
    ("endpoint", "region", "host"),
    [
        ("", "eu-central-1", HOST),
        ("", "cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
        ("localhost:8443", "eu-central-1", "localhost"),
        ("[::1]:8443", "eu-central-1", "::1"),
    ],
)
def test_endpoint_host(endpoint: str, region: str, host: str) -> None:
    assert endpoint_host(Configuration.parse({"tunnelingEndpoint": endpoint}), region) == host


NUCLEUS = {
    "SVCUID": "secret",
    "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/ipc",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": "secret",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1",
    "AWS_IOT_THING_NAME": "thing",
    "PATH": "/bin",
    "HOME": "/home/x",
    "LANG": "C",
    "LD_PRELOAD": "x",
}


def test_the_environment_is_built_up() -> None:
    assert environment(BUILTIN, Inherited.of(NUCLEUS), HOST, "access", "client") == {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LANG": "C",
        "PYTHONPATH": "/src",
        "AWSIOT_TUNNEL_ACCESS_TOKEN": "access",
        "AWSIOT_TUNNEL_CLIENT_TOKEN": "client",
    }


def test_an_environment_without_anything() -> None:
    assert set(environment(BINARY, Inherited.of({}), HOST, "access", "")) == {
        "PATH",
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
    }


def test_an_old_binary_gets_no_client_token() -> None:
    assert "AWSIOT_TUNNEL_CLIENT_TOKEN" not in environment(OLD, Inherited.of({}), HOST, "access", "client")


@pytest.mark.parametrize(
    ("ours", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "http://low:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "socks5://p:1"}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "p:1"}, "p:1"),
    ],
)
@pytest.mark.parametrize(
    ("no_proxy", "covered"),
    [
        ("", False),
        ("*", True),
        (HOST, True),
        ("amazonaws.com", True),
        (".amazonaws.com", True),
        ("*.amazonaws.com", True),
        ("other.com, .AMAZONAWS.com", True),
        ("zonaws.com", False),
        ("169.254.169.254,10.0.0.0/8", False),
        (",", False),
    ],
)
def test_proxies(ours: dict[str, str], proxy: str, no_proxy: str, covered: bool) -> None:
    given = environment(BINARY, Inherited.of({**ours, "NO_PROXY": no_proxy}), HOST, "access", "")
    assert given.get("HTTPS_PROXY") == (None if covered else proxy)
    assert "https_proxy" not in given
    assert "ALL_PROXY" not in given


@pytest.mark.parametrize(
    ("no_proxy", "covered"), [("10.0.0.0/8", True), ("10.1.2.3", True), ("10.2.0.0/16", False)]
)
def test_no_proxy_for_an_address(no_proxy: str, covered: bool) -> None:
    inherited = Inherited.of({"HTTPS_PROXY": "http://p", "no_proxy": no_proxy})
    given = environment(BINARY, inherited, "10.1.2.3", "access", "")
    assert ("HTTPS_PROXY" not in given) is covered
