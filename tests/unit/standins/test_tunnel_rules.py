"""What a source or destination may not send."""

from __future__ import annotations

import pytest

from standins.tunnel_message import MAX_PAYLOAD, TunnelMessage, Type
from standins.tunnel_rules import ViolationError, check


@pytest.mark.parametrize(
    "message",
    [
        TunnelMessage(Type.STREAM_START, 1, "SSH", 1),
        TunnelMessage(Type.CONNECTION_START, 1, "SSH", 1),
        TunnelMessage(Type.SESSION_RESET),
        TunnelMessage(Type.SERVICE_IDS, available_service_ids=("SSH",)),
    ],
)
def test_a_destination_may_not_speak_for_others(message: TunnelMessage) -> None:
    with pytest.raises(ViolationError, match="destination may not send messages"):
        check("destination", message.encode())


@pytest.mark.parametrize("type_", [Type.SESSION_RESET, Type.SERVICE_IDS])
def test_a_source_may_not_speak_for_the_service(type_: Type) -> None:
    with pytest.raises(ViolationError, match="source may not send"):
        check("source", TunnelMessage(type_).encode())


@pytest.mark.parametrize("mode", ["source", "destination"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (TunnelMessage(Type.DATA, 0, "SSH").encode()[2:], "stream id 0"),
        (TunnelMessage(Type.STREAM_RESET, 0, "SSH").encode()[2:], "stream id 0"),
        (TunnelMessage(Type.DATA, 1, payload=bytes(MAX_PAYLOAD + 1)).encode()[2:], "payload of 64513 bytes"),
        (TunnelMessage(99, 1).encode()[2:], "type 99"),
        (b"", "type 0"),
        (b"\xff\xff", "not a protobuf message"),
        (b"\x08\x01\x10\x01\x42\x00", "field 8 is not in the schema"),
    ],
)
def test_nobody_may_send_what_the_schema_has_not(mode: str, body: bytes, reason: str) -> None:
    lawful = TunnelMessage(Type.DATA, 1, "SSH", 1, bytes(MAX_PAYLOAD)).encode()
    with pytest.raises(ViolationError, match=reason) as caught:
        check(mode, lawful + len(body).to_bytes(2, "big") + body)
    assert caught.value.code == 1002
    assert len(str(caught.value)) < 124, "a WebSocket close takes no longer reason"


def test_what_is_lawful_passes() -> None:
    messages = [
        TunnelMessage(Type.STREAM_START, 7, "SSH", 1),
        TunnelMessage(Type.STREAM_START, -1, "VNC", 1),
        TunnelMessage(Type.DATA, 7, "SSH", 1, b"data"),
        TunnelMessage(99, ignorable=True),
    ]
    assert check("source", b"".join(message.encode() for message in messages)) == {"SSH": 7, "VNC": -1}
    assert check("destination", messages[2].encode() + messages[3].encode()) == {}
