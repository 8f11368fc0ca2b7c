"""Tunnel notifications: what is taken, what is refused with which words, and that nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.notification import Notification, NotificationError

VALID: dict[str, Any] = {
    "clientAccessToken": "AQGAAXk" + "s3cr3t" * 100,
    "clientMode": "destination",
    "region": "eu-central-1",
    "services": ["SSH"],
}


def parse(**changes: Any) -> Notification:
    return Notification.parse(json.dumps({**VALID, **changes}).encode())


def test_as_aws_documents_it() -> None:
    notification = Notification.parse(json.dumps(VALID, indent=2).encode())
    assert notification.access_token == VALID["clientAccessToken"]
    assert notification.region == "eu-central-1"
    assert notification.services == ("SSH",)


def test_its_representation_has_no_token() -> None:
    assert "s3cr3t" not in repr(parse())


def test_unknown_members_are_left_alone() -> None:
    assert parse(tunnelId="x", expiry=None) == parse()


def test_services_are_kept_in_order_and_once() -> None:
    assert parse(services=["B", "A:1", "B", "c_-9"]).services == ("B", "A:1", "c_-9")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xff", "it is not JSON .not UTF-8"),
        (b"[" * 100_000, "it is not JSON .too deeply nested"),
        (b"1" * 10_000, "it is not"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        *(
            (json.dumps({k: v for k, v in VALID.items() if k != m}).encode(), f"member {m} is missing")
            for m in VALID
        ),
    ],
)
def test_no_notification(payload: bytes, words: str) -> None:
    with pytest.raises(NotificationError, match=words):
        Notification.parse(payload)


@pytest.mark.parametrize(
    ("member", "wrong"),
    [
        ("clientAccessToken", ["", None, 1, ["x"], "a b", "a\nb", "a\r\nx: y", "é", "x" * 4001, "\ud800"]),
        ("clientMode", ["source", "", None, 1, ["destination"], "Destination"]),
        (
            "region",
            ["", None, 1, "-r", "EU", "eu central", "a.evil.com", "eu/..", "x" * 65, "eu\n", "\ud800"],
        ),
        (
            "services",
            [
                None,
                [],
                "SSH",
                {},
                [1],
                [None],
                [""],
                ["a,b"],
                ["a=b"],
                ["-d x"],
                ["x" * 129],
                ["\0"],
                ["S"] * 65,
            ],
        ),
    ],
)
def test_wrong_members(member: str, wrong: list[object]) -> None:
    for value in wrong:
        with pytest.raises(NotificationError, match=member) as caught:
            parse(**{member: value})
        assert str(caught.value).isprintable()
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("member", ["clientMode", "region"])
def test_a_token_in_the_wrong_place_is_not_shown(member: str) -> None:
    with pytest.raises(NotificationError) as caught:
        parse(**{member: VALID["clientAccessToken"]})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("piece", ["xx" + "s3cr3t" * 2 + "xx", "s3cr3t" * 10, "Another" * 30])
def test_a_piece_of_a_token_in_the_wrong_place_is_not_shown(piece: str) -> None:
    with pytest.raises(NotificationError, match=r"\(a (piece|text) of ") as caught:
        parse(clientMode=piece)
    assert "s3cr3t" not in str(caught.value)
    assert "Another" not in str(caught.value)


def test_key_tells_tokens_apart() -> None:
    assert parse().key == parse(services=["VNC"]).key
    assert parse().key != parse(clientAccessToken="other").key


@given(st.binary())
def test_whatever_the_bytes(payload: bytes) -> None:
    with pytest.raises(NotificationError):
        Notification.parse(payload)


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANYTHING = st.recursive(LEAF, lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(st.fixed_dictionaries(dict.fromkeys(VALID, ANYTHING)))
def test_whatever_the_members(value: dict[str, Any]) -> None:
    payload = json.dumps(value).encode()
    with pytest.raises(NotificationError):
        Notification.parse(payload)


@given(st.sampled_from(sorted(VALID)), ANYTHING)
def test_whatever_one_member_is(member: str, value: object) -> None:
    try:
        notification = parse(**{member: value})
    except NotificationError as error:
        assert str(error).isprintable()
    else:
        assert notification.services
