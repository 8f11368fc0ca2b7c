"""The README tells what is there: its tables, commands, examples and log lines are held against the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
import yaml

from standins.deployment import PROJECT
from tunnel_agent.config import Configuration, ConfigurationError
from tunnel_agent.notification import Notification
from tunnel_agent.status import EVENTS, status_event

NAME = "com.javatask.iot-tunnel-agent"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
TESTS = PROJECT / "tests"
MIB = 1 << 20

# Marks a block of commands that no test can run.
NEEDS = re.compile(r"# needs (AWS|a localproxy binary)\n")
PATH = re.compile(r"(?:tests|src|\.ci)/[\w./-]*\w")


def section(heading: str) -> str:
    """The text under a heading of the second level."""
    match = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables whose first column is code, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def blocks(language: str) -> list[str]:
    """The fenced blocks, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indentation}", "", text, flags=re.MULTILINE) for indentation, text in found]


def merged(update: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a nucleus makes of a merge update."""
    return {
        **defaults,
        **{
            key: merged(value, defaults[key])
            if isinstance(value, dict) and isinstance(defaults.get(key), dict)
            else value
            for key, value in update.items()
        },
    }


RECIPE = yaml.safe_load((PROJECT / "recipe.yaml").read_text())
DEFAULTS: dict[str, Any] = RECIPE["ComponentConfiguration"]["DefaultConfiguration"]
CONFIGURATION = {
    key.strip("`"): (default.strip("`"), allowed)
    for key, default, allowed, _ in rows(section("Configuration"))
}


def test_every_key_with_its_default() -> None:
    known = [field.metadata["key"] for field in fields(Configuration) if "key" in field.metadata]
    assert list(CONFIGURATION) == known
    documented = {key: json.loads(default) for key, (default, _) in CONFIGURATION.items()}
    assert documented == {key: value for key, value in DEFAULTS.items() if key != "accessControl"}
    assert Configuration.parse(documented) == Configuration()
    for policies in DEFAULTS["accessControl"].values():
        for policy in policies.values():
            assert all(f"`{resource}`" in section("Configuration") for resource in policy["resources"])


def refused(key: str, value: object) -> bool:
    try:
        Configuration.parse({key: value})
    except ConfigurationError:
        return True
    return False


@pytest.mark.parametrize("key", [key for key in CONFIGURATION if key != "services"])
def test_what_is_allowed(key: str) -> None:
    _, allowed = CONFIGURATION[key]
    if (bounds := re.fullmatch(r"(\d+)-(\d+)", allowed)) is not None:
        low, high = int(bounds[1]), int(bounds[2])
        assert [refused(key, value) for value in (low - 1, low, high, high + 1)] == [True, False, False, True]
        return
    words = re.findall(r"`(\w+)`", allowed.replace("`host`", ""))
    assert not [word for word in words if refused(key, word)]
    assert refused(key, "a word#that is not there")
    assert refused(key, "") is not ("nothing" in allowed)
    if "absolute path" in allowed:
        assert not refused(key, "/somewhere")
        assert refused(key, "somewhere")
    if "host" in allowed:
        assert not refused(key, "host")
        assert not refused(key, "host:443")
        assert refused(key, "https://host")
    if "characters" in allowed:
        assert [refused(key, "x" * length) for length in (250, 251)] == [False, True]
        assert refused(key, "a/+/b")


def test_paths_and_tests_exist() -> None:
    for path in PATH.findall(README):
        if not path.startswith("tests/.venv/"):
            assert (PROJECT / path).exists(), path
    named = re.findall(r"([\w/]+\.py)::(\w+)", README)
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"def {test}\(", (TESTS / file).read_text()), f"{file}::{test}"


def test_links_lead_somewhere() -> None:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]*)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (PROJECT / target).exists(), target


def test_commands_name_scripts() -> None:
    commands = 0
    for block in blocks("bash"):
        if NEEDS.match(block):
            continue
        for line in block.splitlines():
            scripts = [path for path in PATH.findall(line) if not path.startswith("tests/.venv/")]
            assert scripts, line
            assert all((PROJECT / script).is_file() for script in scripts), line
            commands += 1
    assert commands >= 5


def test_every_log_line_is_one_of_ours() -> None:
    sources = [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "src").glob("*.sh")]
    # Texts that go on in the next line of the source are put together.
    ours = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source.read_text()) for source in sources)
    lines = [line.strip("`") for line, _ in rows(section("Troubleshooting"))]
    assert len(lines) > 30
    for line in lines:
        pieces = [piece.strip() for piece in line.split("…")]
        assert any(len(piece) > 10 for piece in pieces), line
        for piece in pieces:
            # What stands alone between two values is punctuation.
            assert piece in ours or not re.search(r"\w", piece), line


def test_status_events() -> None:
    text = section("Logs and status events")
    assert tuple(event.strip("`") for event, _ in rows(text)) == EVENTS
    [example] = [value for value in map(json.loads, blocks("json")) if "event" in value]
    notification = Notification("x", example["region"], tuple(example["services"]))
    ours = status_event(example["event"], 1, notification, "x")
    assert list(example) == list(ours)
    assert [type(value) for value in example.values()] == [type(value) for value in ours.values()]
    assert (len(example["token"]), len(example["time"])) == (len(ours["token"]), len(ours["time"]))


def test_json_examples() -> None:
    updates = []
    for text in blocks("json"):
        example = json.loads(text)
        if "clientAccessToken" in example:
            Notification.parse(text.encode())
        elif "components" in example:
            component = example["components"][NAME]
            config = json.loads((PROJECT / "gdk-config.json").read_text())
            assert component["componentVersion"] == config["component"][NAME]["version"]
            updates.append(json.loads(component["configurationUpdate"]["merge"]))
        elif "event" not in example and "Statement" not in example:
            updates.append(example)
    assert len(updates) == 2
    for update in updates:
        configuration = Configuration.parse(merged(update, DEFAULTS))
        assert configuration.unknown_keys == ()


def test_the_example_switches_one_service_off_and_another_on() -> None:
    [example] = [value for value in map(json.loads, blocks("json")) if "components" in value]
    update = json.loads(example["components"][NAME]["configurationUpdate"]["merge"])
    services = Configuration.parse(merged(update, DEFAULTS)).services
    assert list(services) == ["SSH", "PG", "HTTP"]


def test_access_control_is_narrowed_under_its_own_name() -> None:
    [example] = [value for value in map(json.loads, blocks("json")) if "accessControl" in value]
    for service, policies in example["accessControl"].items():
        for name, policy in policies.items():
            default = DEFAULTS["accessControl"][service][name]
            assert {**policy, "resources": [policy["resources"][0].replace("MyDevice", "+")]} == default


def test_the_iot_policy_is_for_the_topic() -> None:
    [example] = [value for value in map(json.loads, blocks("json")) if "Statement" in value]
    topic = "$aws/things/${iot:Connection.Thing.ThingName}/tunnels/notify"
    kinds = {"iot:Subscribe": "topicfilter", "iot:Receive": "topic"}
    statements = {statement["Action"]: statement["Resource"] for statement in example["Statement"]}
    assert set(statements) == set(kinds)
    for action, kind in kinds.items():
        assert statements[action].endswith(f":{kind}/{topic}")


def constant(name: str) -> int:
    """A number of the built-in localproxy's, wherever it stands."""
    source = "\n".join(path.read_text() for path in (PROJECT / "src/localproxy").glob("*.py"))
    [value] = re.findall(rf"^{name} = ([0-9 *]+)$", source, re.MULTILINE)
    return math.prod(map(int, value.split("*")))


def test_limits() -> None:
    text = section("Limits")
    assert f"buffer of {constant('MAX_QUEUED') // MIB} MiB" in text
    assert f"{constant('MAX_QUEUED_IN_ALL') // MIB} MiB for all" in text
    assert f"at most {constant('MAX_CONNECTIONS')} connections" in text


def test_the_changelog_has_this_version() -> None:
    config = json.loads((PROJECT / "gdk-config.json").read_text())
    versions = re.findall(r"^### (.*)$", section("Changelog"), re.MULTILINE)
    assert versions[0] == config["component"][NAME]["version"]
