"""What a client may send into a tunnel (no I/O)."""

from __future__ import annotations

from standins.tunnel_message import MAX_PAYLOAD, InvalidMessageError, TunnelMessage, Type, bodies

_TYPES = {int(type_) for type_ in Type}
_OF_A_STREAM = _TYPES - {Type.SESSION_RESET, Type.SERVICE_IDS}
_MAY_SEND = {
    "source": _OF_A_STREAM,
    "destination": _OF_A_STREAM - {Type.STREAM_START, Type.CONNECTION_START},
}


class ViolationError(Exception):
    """A client did what the protocol forbids; the service closes its WebSocket with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def check(mode: str, whole: bytes) -> dict[str, int]:
    """Look at whole messages from the side of that mode; raises ViolationError.

    Returns the streams that they start: service id to stream id.
    """
    started = {}
    for body in bodies(whole):
        try:
            message = TunnelMessage.parse(body)
        except InvalidMessageError as error:
            raise ViolationError(1002, str(error)) from error
        if message.type not in _MAY_SEND[mode]:
            if message.type in _TYPES or not message.ignorable:
                raise ViolationError(1002, f"a {mode} may not send messages of type {message.type}")
        elif message.stream_id == 0:
            raise ViolationError(1002, f"stream id 0 in a message of type {message.type}")
        elif len(message.payload) > MAX_PAYLOAD:
            raise ViolationError(1002, f"a payload of {len(message.payload)} bytes")
        elif message.type == Type.STREAM_START:
            started[message.service_id] = message.stream_id
    return started
