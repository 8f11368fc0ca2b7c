"""Configuration: defaults, bounds, the forms in which the nuclei and operators give values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.config import Configuration, ConfigurationError, parse_endpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KEYS = [
    "services",
    "localproxyPath",
    "OS_DIST_INFO",
    "localproxyVerbosity",
    "destinationClientType",
    "tunnelingEndpoint",
    "caPath",
    "maxConcurrentTunnels",
    "tunnelTimeoutSeconds",
    "reconnectWithClientToken",
    "deferUpdatesSeconds",
    "resubscribeSeconds",
    "ipcRetrySeconds",
    "statusTopic",
    "logLevel",
]


def test_nothing_gives_the_defaults() -> None:
    assert Configuration.parse(None) == Configuration.parse({}) == Configuration()
    assert Configuration().services == {
        "SSH": "127.0.0.1:22",
        "VNC": "127.0.0.1:5900",
        "PG": "127.0.0.1:9876",
    }


def test_a_null_is_as_good_as_a_missing_key() -> None:
    assert Configuration.parse(dict.fromkeys(KEYS)) == Configuration()


@pytest.mark.parametrize(
    ("given_value", "destination"),
    [
        (22, "127.0.0.1:22"),
        ("22", "127.0.0.1:22"),
        (22.0, "127.0.0.1:22"),
        (" 22\n", "127.0.0.1:22"),
        (1, "127.0.0.1:1"),
        (65535, "127.0.0.1:65535"),
        ("camera.local:80", "camera.local:80"),
        ("192.168.0.7:080", "192.168.0.7:80"),
        ("[::1]:22", "[::1]:22"),
        ("[0:0::1]:22", "[::1]:22"),
        ("/run/app/app.socket", "/run/app/app.socket"),
    ],
)
def test_destination(given_value: object, destination: str) -> None:
    assert Configuration.parse({"services": {"X": given_value}}).services == {"X": destination}


@pytest.mark.parametrize("off", [None, ""])
def test_a_service_is_switched_off(off: object) -> None:
    assert Configuration.parse({"services": {"SSH": 22, "VNC": off}}).services == {"SSH": "127.0.0.1:22"}


def test_the_map_of_services_is_taken_as_it_is() -> None:
    assert Configuration.parse({"services": {"WEB": 80}}).services == {"WEB": "127.0.0.1:80"}
    assert Configuration.parse({"services": {}}).services == {}


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        65536,
        -1,
        22.5,
        True,
        "ssh",
        "host",
        "host:",
        "host:0",
        "host:99999",
        "ho st:22",
        "-host:22",
        "under_score:22",
        "::1:22",
        "[::1]",
        "[nonsense]:22",
        "relative/path",
        "/run/\ud800",
        "/run/a,b=c",
        "/" + "x" * 107,
        "host:22,VNC=evil:1",
        [22],
        {"port": 22},
        "١٢",
    ],
)
def test_wrong_destination(wrong: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^configuration key services\.SSH: .* is not allowed; give "
    ):
        Configuration.parse({"services": {"SSH": wrong}})


@pytest.mark.parametrize("wrong", [[], "SSH=22", 22, {"a b": 22}, {"": 22}, {"x" * 129: 22}, {"a,b": 1}])
def test_wrong_services(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^configuration key services: "):
        Configuration.parse({"services": wrong})


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("localproxyVerbosity", 0, 6),
        ("maxConcurrentTunnels", 1, 20),
        ("tunnelTimeoutSeconds", 1, 43200),
        ("deferUpdatesSeconds", 0, 86400),
        ("resubscribeSeconds", 0, 86400),
        ("ipcRetrySeconds", 1, 86400),
    ],
)
def test_bounds(key: str, low: int, high: int) -> None:
    for value in (low, high):
        for form in (value, str(value), float(value), f"{value}.0"):
            assert value in vars(Configuration.parse({key: form})).values()
    wrongs: list[object] = [low - 1, high + 1, "", "many", 1.5, True, [], {}, "0x1", "1e1"]
    for wrong in [*wrongs, float("nan"), float("inf")]:
        with pytest.raises(ConfigurationError, match=f"^configuration key {key}: .* from {low} to {high}$"):
            Configuration.parse({key: wrong})


@pytest.mark.parametrize(
    ("form", "value"), [(True, True), ("false", False), ("True", True), (" FALSE ", False)]
)
def test_truth(form: object, value: bool) -> None:
    assert Configuration.parse({"reconnectWithClientToken": form}).reconnect_with_client_token is value


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("reconnectWithClientToken", [], ["yes", 1, "", []]),
        (
            "localproxyPath",
            ["", "builtin", "/opt/lp/localproxy"],
            ["localproxy", "./x", 7, "/a\nb", "/\ud800", ["/x"]],
        ),
        ("OS_DIST_INFO", ["auto", "ubuntu", "amzn2", "raspberrypi"], ["", "Ubuntu", "windows", 1]),
        ("destinationClientType", ["auto", "V1", "V2", "V3"], ["", "v1", "V4", 1]),
        (
            "tunnelingEndpoint",
            [
                "",
                "localhost",
                "localhost:8443",
                "[::1]:8443",
                "data.tunneling.iot.eu-central-1.amazonaws.com",
            ],
            ["https://localhost", "host:port", "-v", "a b", "host:0", 443, "host:1:2"],
        ),
        ("caPath", ["", "/etc/ssl/certs"], ["certs", 1, "-c"]),
        ("statusTopic", ["", "a/b"], ["a/+", "#", 1, "a\0b", "\ud800", "x" * 251]),
        ("logLevel", ["DEBUG", "INFO", "WARNING", "ERROR"], ["", "debug", "TRACE", 4]),
    ],
)
def test_words(key: str, right: list[object], wrong: list[object]) -> None:
    for value in right:
        assert value in list(vars(Configuration.parse({key: value})).values())
    for value in wrong:
        with pytest.raises(ConfigurationError, match=f"^configuration key {key}: "):
            Configuration.parse({key: value})


def test_unknown_keys_are_named_and_access_control_is_not_one() -> None:
    assert Configuration.parse({"accessControl": {}, "b": 1, "a": 2}).unknown_keys == ("a", "b")


def test_an_error_is_one_short_line() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse({"logLevel": "x\n" * 10000})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(JSON)
def test_whatever_the_nucleus_gives(value: object) -> None:
    try:
        Configuration.parse(value)
    except ConfigurationError as error:
        assert str(error).isprintable()


@given(st.sampled_from(KEYS), JSON)
def test_whatever_stands_in_a_key(key: str, value: object) -> None:
    try:
        configuration = Configuration.parse({key: value})
    except ConfigurationError as error:
        assert str(error).isprintable()
    else:
        assert configuration.unknown_keys == ()


@given(st.dictionaries(st.from_regex(r"[a-zA-Z0-9:_-]{1,20}", fullmatch=True), st.integers(1, 65535)))
def test_as_text_a_configuration_means_the_same(services: dict[str, int]) -> None:
    def as_text(value: Any) -> Any:
        return {key: str(item) for key, item in value.items()}

    assert Configuration.parse({"services": services}) == Configuration.parse({"services": as_text(services)})
    assert json.loads(json.dumps(dict(Configuration.parse({"services": services}).services))) == {
        service: f"127.0.0.1:{port}" for service, port in services.items()
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [("h", ("h", None)), ("h:1", ("h", 1)), ("[::1]", ("::1", None)), ("[::1]:2", ("::1", 2))],
)
def test_endpoint(text: str, parts: tuple[str, int]) -> None:
    assert parse_endpoint(text) == parts


@pytest.mark.parametrize("text", ["", ":1", "::1", "h:", "h:0", "h:65536", "h:123456", "[h]:1", "-h", "h/x"])
def test_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(text)
