"""Which proxy the environment names for an endpoint."""

from __future__ import annotations

from typing import Optional

import pytest

from localproxy.web_proxy import WebProxy, web_proxy_for

HOST = "data.tunneling.iot.eu-central-1.amazonaws.com"


def found(host: str = HOST, port: int = 443, **environ: str) -> Optional[WebProxy]:
    return web_proxy_for(host, port, environ)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "credentials"),
    [
        ("http://proxy:8080", "proxy", 8080, False, None),
        ("http://proxy:8080/", "proxy", 8080, False, None),
        ("proxy:8080", "proxy", 8080, False, None),
        ("http://proxy", "proxy", 3128, False, None),
        ("HTTPS://proxy:1", "proxy", 1, True, None),
        ("http://[::1]:8080", "::1", 8080, False, None),
        ("http://me:s3cret@proxy:8080", "proxy", 8080, False, "me:s3cret"),
        ("http://me@proxy:8080", "proxy", 8080, False, "me:"),
        ("http://d%40m%5Cme:p%3Aq@proxy:1", "proxy", 1, False, "d@m\\me:p:q"),
        ("http://me:a@b@proxy:1", "proxy", 1, False, "me:a@b"),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool, credentials: Optional[str]) -> None:
    proxy = found(https_proxy=url)
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.tls, proxy.credentials) == (host, port, tls, credentials)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("socks5://x:1", "socks5"),
        ("http://x:0", "port 0"),
        ("http://x:70000", "port 70000"),
        ("http://", "URL"),
        ("http://me:s3cret@", "URL"),
        ("http://s3cret x", "URL"),
        ("http://x:1/path", "URL"),
    ],
)
def test_no_urls(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        found(HTTPS_PROXY=url)
    assert "s3cret" not in str(caught.value)


def test_order() -> None:
    names = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    environ = {name: f"http://{name.replace('_', '-')}{index}:1" for index, name in enumerate(names)}
    while environ:
        proxy = web_proxy_for(HOST, 443, environ)
        assert proxy is not None
        name, url = next(iter(environ.items()))
        assert url == f"http://{proxy.host}:1"
        del environ[name]
    assert found() is None
    assert found(HTTP_PROXY="http://x:1", http_proxy="http://x:1", HTTPS_PROXY="") is None


@pytest.mark.parametrize(
    ("host", "port", "exceptions", "exempt"),
    [
        (HOST, 443, "amazonaws.com", True),
        (HOST, 443, ".amazonaws.com", True),
        (HOST, 443, "*.amazonaws.com", True),
        (HOST, 443, "a, AmazonAWS.com. ,b", True),
        (HOST, 443, HOST, True),
        (HOST, 443, HOST + ":443", True),
        (HOST, 443, HOST + ":444", False),
        (HOST, 443, "aws.com", False),
        (HOST, 443, "localhost,127.0.0.1", False),
        (HOST, 443, "*", True),
        (HOST, 443, ",", False),
        ("10.1.2.3", 443, "10.0.0.0/8", True),
        ("11.1.2.3", 443, "10.0.0.0/8", False),
        ("10.1.2.3", 443, "10.1.2.3", True),
        ("10.1.2.3", 443, "10.1.2.3:80", False),
        ("fd00::5", 443, "fd00::/8", True),
        ("fd00::5", 443, "[fd00::5]:443", True),
        ("fd00::5", 443, "[fd00::5]:444", False),
        ("fd00::5", 443, "fd00:0::5", True),
        ("10.1.2.3", 443, "10.1.2.x/99", False),
    ],
)
def test_no_proxy(host: str, port: int, exceptions: str, exempt: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert (found(host, port, ALL_PROXY="http://p:1", **{name: exceptions}) is None) == exempt


def test_a_proxy_that_is_not_used_is_not_judged() -> None:
    assert found(HTTPS_PROXY="socks5://x:1", NO_PROXY="*") is None
