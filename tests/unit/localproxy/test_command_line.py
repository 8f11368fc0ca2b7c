"""Arguments and environment: what is understood, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localproxy.command_line import Settings, parse
from localproxy.destinations import UsageError, parse_destinations

TOKEN = "a-token"
CLIENT = "0123456789abcdef0123456789abcdef"
BASE = ["-r", "eu-central-1", "-d", "22", "-t", TOKEN]


def settings(*arguments: str, **environ: str) -> Settings:
    parsed = parse(arguments, environ)
    assert isinstance(parsed, Settings)
    return parsed


def test_short_and_long_options_mean_the_same(tmp_path: Path) -> None:
    short = settings(
        *("-e", "Example.COM:8443", "-d", "A=1", "-t", TOKEN, "-i", CLIENT, "-b", "127.0.0.2"),
        *("-c", str(tmp_path), "-k", "-v", "6", "-m", "dst", "-y", "V1"),
    )
    long = settings(
        *("--proxy-endpoint", "example.com:8443", "--destination-app=A=1", "--access-token", TOKEN),
        *(f"--client-token={CLIENT}", "--local-bind-address", "127.0.0.2", "--capath", str(tmp_path)),
        *("--no-ssl-host-verify", "--verbose", "6", "--mode=destination", "--destination-client-type", "V1"),
    )
    for parsed in (short, long):
        shown: dict[str, Any] = {**vars(parsed)}
        destinations = {key: str(value) for key, value in shown.pop("destinations").items()}
        assert destinations == {"A": "localhost:1"}
        assert shown == {
            "host": "example.com",
            "port": 8443,
            "access_token": TOKEN,
            "client_token": CLIENT,
            "bind_address": "127.0.0.2",
            "capath": str(tmp_path),
            "verify": False,
            "verbosity": 6,
            "form": "V1",
            "web_proxy": None,
            "token_is_visible": True,
        }


def test_the_environment_is_used_and_the_tokens_leave_it() -> None:
    environ = {
        "AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN,
        "AWSIOT_TUNNEL_CLIENT_TOKEN": CLIENT,
        "AWSIOT_TUNNEL_ENDPOINT": "[::1]:99",
        "HOME": "/root",
    }
    parsed = parse(["-d", "22"], environ)
    assert isinstance(parsed, Settings)
    assert (parsed.access_token, parsed.client_token) == (TOKEN, CLIENT)
    assert (parsed.host, parsed.port, parsed.endpoint) == ("::1", 99, "[::1]:99")
    assert not parsed.token_is_visible
    assert set(environ) == {"AWSIOT_TUNNEL_ENDPOINT", "HOME"}


def test_tokens_leave_the_environment_whatever_else_is_wrong() -> None:
    environ = {"AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN, "AWSIOT_TUNNEL_CLIENT_TOKEN": CLIENT}
    with pytest.raises(UsageError):
        parse(["--nonsense"], environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "data.tunneling.iot.eu-central-1.amazonaws.com"),
        ("cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_region(region: str, host: str) -> None:
    parsed = settings("-d", "22", "-t", TOKEN, AWSIOT_TUNNEL_REGION=region)
    assert (parsed.host, parsed.port) == (host, 443)


@pytest.mark.parametrize(("given", "means"), [("0", 0), ("4", 4), ("6", 6), ("7", 6), ("255", 6)])
def test_verbosity(given: str, means: int) -> None:
    assert settings(*BASE, "-v", given).verbosity == means


@pytest.mark.parametrize(
    ("text", "destinations"),
    [
        ("22", {"": "localhost:22"}),
        ("192.0.2.1:22", {"": "192.0.2.1:22"}),
        ("raspberry_pi.local:22", {"": "raspberry_pi.local:22"}),
        ("[fe80::1]:22", {"": "[fe80::1]:22"}),
        ("/run/x.sock", {"": "/run/x.sock"}),
        ("./x.sock", {"": "./x.sock"}),
        ("/run/a=b,c=d.sock", {"": "/run/a=b,c=d.sock"}),
        ("SSH=22", {"SSH": "localhost:22"}),
        ("SSH=22,VNC=h:5900,X=/run/x", {"SSH": "localhost:22", "VNC": "h:5900", "X": "/run/x"}),
        ("a:b-c_d=[::1]:1", {"a:b-c_d": "[::1]:1"}),
        ("S=/run/a,b.sock,T=1", {"S": "/run/a,b.sock", "T": "localhost:1"}),
    ],
)
def test_destinations(text: str, destinations: dict[str, str]) -> None:
    assert {name: str(value) for name, value in parse_destinations(text).items()} == destinations


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected PORT"),
        ("0", "no port"),
        ("65536", "no port"),
        ("99999999999999999999", "no port"),
        ("host", "expected PORT"),
        ("host:", "expected PORT"),
        (":22", "expected PORT"),
        ("::1:22", "expected PORT"),
        ("host:99999", "no port"),
        ("-p", "expected PORT"),
        ("22,23", "expected PORT"),
        ("SSH=", "expected PORT"),
        ("SSH=22,", "expected PORT"),
        ("SSH=22,VNC", "expected PORT"),
        ("SSH=22,SSH=23", "twice"),
        ("S S=22", "expected PORT"),
        (f"{'x' * 129}=22", "expected PORT"),
        ("/" + "x" * 107, "too long"),
    ],
)
def test_no_destinations(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_destinations(text)


@pytest.mark.parametrize(
    ("arguments", "environ", "why"),
    [
        (["-r", "x", "-d", "22"], {}, "no access token"),
        (["-r", "x", "-d", "22", "-t", ""], {}, "no access token"),
        (["-r", "x", "-d", "22", "-t", "a b"], {}, "characters"),
        (["-r", "x", "-d", "22", "-t", "a\r\nX: y"], {}, "characters"),
        (["-r", "x", "-d", "22", "-t", "a" * 4000], {}, "too long"),
        ([*BASE, "-i", "short"], {}, "32 to 128"),
        ([*BASE, "-i", "_" * 32], {}, "32 to 128"),
        ([*BASE, "-i", "a" * 129], {}, "32 to 128"),
        ([*BASE, "-e", "x"], {}, "one and only one"),
        (BASE, {"AWSIOT_TUNNEL_ENDPOINT": "x"}, "one and only one"),
        (["-e", "x", "-d", "22", "-t", TOKEN], {"AWSIOT_TUNNEL_REGION": "x"}, "one and only one"),
        (["-d", "22", "-t", TOKEN], {}, "one and only one"),
        (["-d", "22", "-t", TOKEN, "-r", "-x"], {}, "no region"),
        (["-d", "22", "-t", TOKEN, "-r", "EU"], {}, "no region"),
        (["-d", "22", "-t", TOKEN, "-r", "x.evil.com/"], {}, "no region"),
        (["-d", "22", "-t", TOKEN, "-e", "host:"], {}, "expected HOST"),
        (["-d", "22", "-t", TOKEN, "-e", "https://host"], {}, "expected HOST"),
        (["-d", "22", "-t", TOKEN, "-e", "host:0"], {}, "no port"),
        (["-r", "x", "-t", TOKEN], {}, "no destination"),
        ([*BASE, "-m", "src"], {}, "destination only"),
        ([*BASE, "-s", "5555"], {}, "-s"),
        ([*BASE, "-y", "V4"], {}, "V1, V2 or V3"),
        ([*BASE, "-v", "-1"], {}, "0 to 6"),
        ([*BASE, "-v", "much"], {}, "0 to 6"),
        ([*BASE, "-v"], {}, "requires"),
        ([*BASE, "-b", "localhost"], {}, "IPv4 or IPv6"),
        ([*BASE, "-c", "/does/not/exist"], {}, "cannot be read"),
        ([*BASE, "--config", "x"], {}, "config"),
        ([*BASE, "surplus"], {}, "surplus"),
        ([*BASE, "-d", "23"], {}, "twice"),
        (BASE, {"HTTPS_PROXY": "socks5://x:1"}, "socks5"),
    ],
)
def test_misuse(arguments: list[str], environ: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse(arguments, dict(environ))
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_help_and_version_need_nothing_else() -> None:
    text = parse(["-h"], {})
    assert isinstance(text, str)
    for name in ("--client-token", "--destination-client-type", "--capath", "--region"):
        assert name in text
    assert str(parse(["--version"], {})).startswith(
        "Running AWS IoT Secure Tunneling Local Proxy version: 2.0.0"
    )
