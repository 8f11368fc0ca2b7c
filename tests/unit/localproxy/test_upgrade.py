"""The opening handshake and CONNECT, with the websockets library as the judge."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from localproxy.upgrade import (
    MAX_BODY,
    MAX_HEAD,
    SUBPROTOCOL,
    Answer,
    AnswerError,
    AnswerReader,
    check_upgrade,
    connect_request,
    new_key,
    upgrade_request,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPTED = {
    "upgrade": "WebSocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 section 1.3
    "sec-websocket-protocol": SUBPROTOCOL,
}


def read(raw: bytes, size: int = 1 << 20, expected: int = 101) -> Answer:
    reader = AnswerReader(expected)
    for start in range(0, len(raw), size):
        answer = reader.feed(raw[start : start + size])
        if answer:
            return answer
    answer = reader.give_up()
    assert answer is not None
    return answer


def test_websockets_accepts_our_request_and_we_its_answer() -> None:
    key = new_key()
    server = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)])
    server.receive_data(upgrade_request("example.com", 443, key, "token+/=", "c" * 32))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/tunnel?local-proxy-mode=destination"
    assert request.headers.get_all("access-token") == ["token+/="]
    assert request.headers.get_all("client-token") == ["c" * 32]
    assert request.headers["Host"] == "example.com"
    server.send_response(server.accept(request))
    answer = read(b"".join(server.data_to_send()) + b"\x82\x00", 7)
    check_upgrade(answer, key)
    assert answer.rest.startswith(b"\x82") or answer.rest == b""


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [("a.b", 443, "a.b"), ("a.b", 8443, "a.b:8443"), ("::1", 443, "[::1]"), ("::1", 9, "[::1]:9")],
)
def test_host_header(host: str, port: int, shown: str) -> None:
    request = upgrade_request(host, port, KEY, "t", None)
    assert f"\r\nHost: {shown}\r\n".encode() in request
    assert b"client-token" not in request


def test_connect_request() -> None:
    assert connect_request("::1", 443, "me:s3cret") == (
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nProxy-Authorization: Basic bWU6czNjcmV0\r\n\r\n"
    )
    assert connect_request("a", 1, None) == b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"


def test_keys_differ() -> None:
    assert len({new_key() for _ in range(20)}) == 20


def _without(name: str) -> Callable[[], dict[str, str]]:
    return lambda: {key: value for key, value in ACCEPTED.items() if key != name}


@pytest.mark.parametrize(
    "headers",
    [
        *[_without(name)() for name in ACCEPTED],
        {**ACCEPTED, "sec-websocket-accept": "c3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
        {**ACCEPTED, "upgrade": "h2c"},
        {**ACCEPTED, "connection": "close"},
        {**ACCEPTED, "sec-websocket-protocol": "aws.iot.securetunneling-9.0"},
        {**ACCEPTED, "sec-websocket-extensions": "permessage-deflate"},
    ],
)
def test_an_upgrade_that_is_none(headers: dict[str, str]) -> None:
    check_upgrade(Answer(101, "", ACCEPTED), KEY)
    with pytest.raises(AnswerError):
        check_upgrade(Answer(101, "", headers), KEY)


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nbodymore", 403, b"body"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nuntil the end", 403, b"until the end"),
        (b"HTTP/1.0 500\r\n\r\n", 500, b""),
        (
            b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhat\r\n1\r\n!\r\n0\r\n\r\n",
            400,
            b"what!",
        ),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 403 No\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 9999, 403, b"x" * MAX_BODY),
        (b"HTTP/1.1 403 No\r\nContent-Length: -1\r\n\r\nx", 403, b"x"),
    ],
)
def test_refusals(raw: bytes, status: int, body: bytes, size: int) -> None:
    answer = read(raw, size)
    assert (answer.status, answer.body) == (status, body)


def test_what_follows_an_upgrade_is_not_lost() -> None:
    answer = read(b"HTTP/1.1 101 Switching Protocols\r\nA:  b \r\na: c\r\n\r\n\x82\x01x")
    assert answer.rest == b"\x82\x01x"
    assert answer.headers == {"a": "b, c"}
    assert str(answer) == "HTTP/1.1 101 Switching Protocols"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 2000 High\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnul: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_HEAD,
        b"x" * (MAX_HEAD + 1),
    ],
)
def test_no_http(raw: bytes) -> None:
    for size in (100, 1 << 20):
        with pytest.raises(AnswerError):
            read(raw, size)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_none(raw: bytes) -> None:
    for prefix in (b"", b"HTTP/1.1 403 ", b"HTTP/1.1 403 No\r\n"):
        reader = AnswerReader(101)
        try:
            answer = reader.feed(prefix + raw + b"\r\n\r\n") or reader.give_up()
        except AnswerError:
            continue
        assert answer is None or 100 <= answer.status <= 599
