"""Every rule of a destination about streams, without a socket."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localproxy.actions import Close, Connection, Open, Reply, Warn, Write
from localproxy.message import Message, MessageType, decode
from localproxy.streams import MissingDestinationError, ProtocolError, Streams

DATA, STREAM_START, STREAM_RESET = MessageType.DATA, MessageType.STREAM_START, MessageType.STREAM_RESET
SESSION_RESET, SERVICE_IDS = MessageType.SESSION_RESET, MessageType.SERVICE_IDS
CONNECTION_START, CONNECTION_RESET = MessageType.CONNECTION_START, MessageType.CONNECTION_RESET


def opened(streams: Streams, message: Message) -> Connection:
    """The one connection that a message opens, whatever else it does."""
    (connection,) = [action.connection for action in streams.receive(message) if isinstance(action, Open)]
    return connection


def sent(streams: Streams, connection: Connection) -> Message:
    """A DATA message of this connection as the peer reads it."""
    return decode(streams.data(connection, b"x")[2:])


@pytest.mark.parametrize("form", [None, "V1", "V2", "V3"])
@pytest.mark.parametrize(
    ("service_id", "connection_id"), [("", 0), ("SSH", 0), ("SSH", 1), ("", 1), ("SSH", 7)]
)
def test_answers_carry_the_ids_of_the_stream_start(
    service_id: str, connection_id: int, form: Optional[str]
) -> None:
    streams = Streams(["SSH"], form)
    start = Message(STREAM_START, 5, service_id=service_id, connection_id=connection_id)
    connection = opened(streams, start)
    expected_service = {"V1": "", "V2": "SSH"}.get(form or "", service_id)
    expected_connection = 0 if form in ("V1", "V2") else connection_id
    assert sent(streams, connection) == Message(
        DATA, 5, service_id=expected_service, connection_id=expected_connection, payload=b"x"
    )
    reply = streams.local_closed(connection)[-1]
    kind = CONNECTION_RESET if expected_connection else STREAM_RESET
    assert reply == Reply(Message(kind, 5, service_id=expected_service, connection_id=expected_connection))
    assert not streams.is_active(connection)


def test_data_follows_its_connection() -> None:
    streams = Streams(["SSH", "VNC"])
    first = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    second = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    # The same numbers for another service are another stream.
    other = opened(streams, Message(STREAM_START, 1, service_id="VNC", connection_id=1))
    for service_id, connection_id, owner in [("SSH", 1, first), ("SSH", 2, second), ("VNC", 1, other)]:
        data = Message(DATA, 1, service_id=service_id, connection_id=connection_id, payload=b"abc")
        assert streams.receive(data) == (Write(owner, b"abc"),)
    # In later messages of a V3 stream a missing connection id means 1.
    assert streams.receive(Message(DATA, 1, service_id="SSH", payload=b"d")) == (Write(first, b"d"),)
    assert streams.receive(Message(DATA, 1, service_id="SSH", connection_id=1)) == ()


@pytest.mark.parametrize("kind", [DATA, STREAM_RESET, CONNECTION_START, CONNECTION_RESET])
@pytest.mark.parametrize(
    "ids",
    [
        {"stream_id": 2, "service_id": "SSH"},
        {"stream_id": -1, "service_id": "SSH"},
        {"stream_id": 1, "service_id": "VNC"},
        {"stream_id": 1, "service_id": "FTP"},
        {"stream_id": 1, "service_id": ""},
    ],
)
def test_stale_ids_are_dropped(kind: MessageType, ids: dict[str, object]) -> None:
    streams = Streams(["SSH", "VNC"])
    connection = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    stale = Message(kind, connection_id=1, payload=b"x")
    for name, value in ids.items():
        setattr(stale, name, value)
    assert streams.receive(stale) == ()
    assert streams.is_active(connection)


@pytest.mark.parametrize("kind", [DATA, CONNECTION_RESET])
def test_a_stale_connection_id_is_dropped(kind: MessageType) -> None:
    streams = Streams(["SSH"])
    opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    assert streams.receive(Message(kind, 1, service_id="SSH", connection_id=2, payload=b"x")) == ()


@pytest.mark.parametrize("stream_id", [1, 2])
def test_a_new_stream_replaces_the_older_one_of_its_service(stream_id: int) -> None:
    streams = Streams(["SSH"])
    old = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    old_second = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    actions = streams.receive(Message(STREAM_START, stream_id, service_id="SSH", connection_id=1))
    assert list(actions[:2]) == [Close(old), Close(old_second)]
    (new,) = [action.connection for action in actions[2:] if isinstance(action, Open)]
    assert streams.is_active(new)
    assert not streams.is_active(old)
    # What the old connection still does concerns nobody.
    assert streams.local_closed(old) == ()
    assert streams.connect_failed(old) == ()
    data = Message(DATA, stream_id, service_id="SSH", connection_id=1, payload=b"x")
    assert streams.receive(data) == (Write(new, b"x"),)


def test_resets_close_what_they_name() -> None:
    streams = Streams(["SSH", "VNC"])
    first = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    second = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    other = opened(streams, Message(STREAM_START, 4, service_id="VNC", connection_id=1))
    reset = Message(CONNECTION_RESET, 1, service_id="SSH", connection_id=1)
    assert streams.receive(reset) == (Close(first),)
    assert streams.receive(reset) == ()
    assert streams.is_active(second)
    assert streams.receive(Message(STREAM_RESET, 1, service_id="SSH")) == [Close(second)]
    assert streams.is_active(other)


def test_a_session_reset_closes_everything() -> None:
    streams = Streams(["SSH", "VNC"])
    first = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    second = opened(streams, Message(STREAM_START, 9, service_id="VNC", connection_id=1))
    assert streams.receive(Message(SESSION_RESET)) == [Close(first), Close(second)]
    assert streams.receive(Message(SESSION_RESET)) == []
    again = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    assert streams.is_active(again)


def test_a_v3_stream_outlives_its_last_connection() -> None:
    streams = Streams(["SSH"])
    connection = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    streams.local_closed(connection)
    second = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    assert sent(streams, second).connection_id == 2


def test_a_connection_id_in_use_is_reset() -> None:
    streams = Streams(["SSH"])
    connection = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    actions = streams.receive(Message(CONNECTION_START, 1, service_id="SSH", connection_id=1))
    assert actions == (
        Close(connection),
        Reply(Message(CONNECTION_RESET, 1, service_id="SSH", connection_id=1)),
    )


def test_no_connection_start_in_an_older_stream() -> None:
    streams = Streams(["SSH"])
    connection = opened(streams, Message(STREAM_START, 1, service_id="SSH"))
    (warning,) = streams.receive(Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    assert isinstance(warning, Warn)
    assert streams.is_active(connection)


def test_a_destination_that_cannot_be_reached() -> None:
    streams = Streams(["SSH"])
    first = opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    second = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=2))
    third = opened(streams, Message(CONNECTION_START, 1, service_id="SSH", connection_id=3))
    assert streams.connect_failed(second) == (
        Reply(Message(CONNECTION_RESET, 1, service_id="SSH", connection_id=2)),
    )
    # The stream itself has failed, and what was opened in it meanwhile with it.
    assert streams.connect_failed(first) == [
        Close(first),
        Close(third),
        Reply(Message(STREAM_RESET, 1, service_id="SSH")),
    ]
    assert not streams.is_active(third)


@pytest.mark.parametrize(
    ("services", "tunnel", "message_id", "served"),
    [
        ([""], None, "", ""),
        ([""], ["SSH"], "SSH", ""),
        ([""], ["SSH"], "", ""),
        ([""], None, "SSH", ""),
        ([""], ["SSH"], "VNC", None),
        (["SSH"], None, "", "SSH"),
        (["SSH"], [], "", "SSH"),
        (["SSH"], ["SSH"], "SSH", "SSH"),
        (["SSH"], None, "VNC", None),
        (["SSH", "VNC"], ["VNC"], "", "VNC"),
        (["SSH", "VNC"], None, "", None),
        (["SSH", "VNC", "FTP"], ["SSH", "VNC"], "VNC", "VNC"),
    ],
)
def test_which_destination_serves(
    services: list[str], tunnel: Optional[list[str]], message_id: str, served: Optional[str]
) -> None:
    streams = Streams(services)
    if tunnel is not None:
        assert streams.receive(Message(SERVICE_IDS, available_service_ids=tunnel)) == ()
    start = Message(STREAM_START, 3, service_id=message_id, connection_id=1)
    if served is not None:
        assert opened(streams, start).stream.service == served
        return
    warning, reply = streams.receive(start)
    assert isinstance(warning, Warn)
    assert reply == Reply(Message(STREAM_RESET, 3, service_id=message_id))


@pytest.mark.parametrize(
    ("services", "tunnel", "named"),
    [
        (["SSH"], ["SSH", "VNC"], "VNC"),
        (["SSH"], ["VNC", "FTP"], "VNC, FTP"),
        ([""], ["SSH", "VNC"], "VNC"),
    ],
)
def test_a_service_without_destination(services: list[str], tunnel: list[str], named: str) -> None:
    with pytest.raises(MissingDestinationError, match=f"service id {named} "):
        Streams(services).receive(Message(SERVICE_IDS, available_service_ids=tunnel))


def test_later_service_ids_are_ignored() -> None:
    streams = Streams(["SSH"])
    streams.receive(Message(SERVICE_IDS, available_service_ids=["SSH"]))
    assert streams.receive(Message(SERVICE_IDS, available_service_ids=["VNC"])) == ()


def test_a_single_destination_cannot_serve_two() -> None:
    streams = Streams([""])
    opened(streams, Message(STREAM_START, 1, service_id="SSH", connection_id=1))
    actions = streams.receive(Message(STREAM_START, 1, service_id="VNC", connection_id=1))
    assert actions[1] == Reply(Message(STREAM_RESET, 1, service_id="VNC"))


@pytest.mark.parametrize(
    "message",
    [
        Message(0),
        Message(8, 1),
        Message(-1),
        Message(STREAM_START),
        Message(CONNECTION_START, connection_id=2),
    ],
)
def test_violations(message: Message) -> None:
    with pytest.raises(ProtocolError):
        Streams(["SSH"]).receive(message)


@pytest.mark.parametrize("kind", [0, 8, -1, 2**31 - 1])
def test_ignorable_messages_are_skipped(kind: int) -> None:
    assert Streams(["SSH"]).receive(Message(kind, 1, ignorable=True)) == ()


random_messages = st.builds(
    Message,
    st.sampled_from([*MessageType, 9]),
    st.integers(1, 3),
    service_id=st.sampled_from(["", "SSH", "VNC", "FTP"]),
    connection_id=st.integers(0, 3),
    payload=st.sampled_from([b"", b"x"]),
    ignorable=st.booleans(),
)


@given(
    st.lists(st.one_of(random_messages, st.integers(0, 30)), max_size=60),
    st.sampled_from([None, "V1", "V2"]),
)
def test_whatever_comes_handles_stay_consistent(events: list[object], form: Optional[str]) -> None:
    """Bytes only ever go to a connection that was opened and not closed; each is closed at most once."""
    streams = Streams(["SSH", "VNC"], form)
    streams.receive(Message(SERVICE_IDS, available_service_ids=["SSH", "VNC"]))
    every: list[Connection] = []
    alive: set[Connection] = set()
    for event in events:
        if isinstance(event, Message):
            try:
                actions = streams.receive(event)
            except ProtocolError:
                assert event.type not in set(MessageType)
                assert not event.ignorable
                continue
        elif every and isinstance(event, int):
            connection = every[event % len(every)]
            actions = streams.local_closed(connection)
            alive.discard(connection)
        else:
            continue
        for action in actions:
            if isinstance(action, Open):
                every.append(action.connection)
                alive.add(action.connection)
            elif isinstance(action, Write):
                assert action.connection in alive
            elif isinstance(action, Close):
                alive.discard(action.connection)
            elif isinstance(action, Reply):
                assert action.message.type in (STREAM_RESET, CONNECTION_RESET)
                assert action.message.stream_id != 0
        assert {connection for connection in every if streams.is_active(connection)} == alive
