"""The recipe and the build configuration: what both nuclei, and GDK, read in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from installed import requirements, satisfies
from standins.deployment import PROJECT
from tunnel_agent.config import Configuration

NAME = "com.javatask.iot-tunnel-agent"
RECIPE: dict[str, Any] = yaml.safe_load((PROJECT / "recipe.yaml").read_text())
CONFIGURATION: dict[str, Any] = RECIPE["ComponentConfiguration"]["DefaultConfiguration"]
[MANIFEST] = RECIPE["Manifests"]

# The case of each key that nucleus lite reads.
CASE = {
    "RecipeFormatVersion",
    "ComponentName",
    "ComponentVersion",
    "ComponentType",
    "ComponentDescription",
    "ComponentPublisher",
    "ComponentConfiguration",
    "DefaultConfiguration",
    "ComponentDependencies",
    "VersionRequirement",
    "DependencyType",
    "Manifests",
    "Platform",
    "os",
    "runtime",
    "Artifacts",
    "Uri",
    "Unarchive",
    "Permission",
    "Read",
    "Execute",
    "Lifecycle",
    "install",
    "run",
    "Script",
    "Timeout",
    "RequiresPrivilege",
}


def keys(node: Any) -> Iterator[str]:
    """Every key of the recipe but for the names of components and what is in the configuration."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "aws.greengrass.Nucleus":
            yield key
        if key != "DefaultConfiguration":
            yield from keys(value)
    for value in node if isinstance(node, list) else ():
        yield from keys(value)


def test_keys_have_the_case_that_lite_reads() -> None:
    assert set(keys(RECIPE)) == CASE


def test_lite_can_hold_the_recipe() -> None:
    # Its buffer has 8196 bytes; GDK and the cloud would take 16000. GDK drops the comments.
    assert len(yaml.safe_dump(RECIPE)) < 8196
    assert (PROJECT / "recipe.yaml").stat().st_size < 8196


def test_the_defaults_are_the_components_own() -> None:
    known = {field.metadata["key"] for field in Configuration.__dataclass_fields__.values() if field.metadata}
    assert set(CONFIGURATION) == known | {"accessControl"}
    assert Configuration.parse(CONFIGURATION) == Configuration()


def test_the_defaults_are_what_is_documented() -> None:
    # Spelled out, as a wrong default could be wrong in both places; numbers are numbers.
    assert {key: value for key, value in CONFIGURATION.items() if key != "accessControl"} == {
        "services": {"SSH": 22, "VNC": 5900, "PG": 9876},
        "localproxyPath": "",
        "OS_DIST_INFO": "auto",
        "localproxyVerbosity": 4,
        "destinationClientType": "auto",
        "tunnelingEndpoint": "",
        "caPath": "",
        "maxConcurrentTunnels": 20,
        "tunnelTimeoutSeconds": 43200,
        "reconnectWithClientToken": True,
        "deferUpdatesSeconds": 3600,
        "resubscribeSeconds": 3600,
        "ipcRetrySeconds": 300,
        "statusTopic": "iot-tunnel-agent/status",
        "logLevel": "INFO",
    }


def test_access_control_allows_two_operations_and_no_more() -> None:
    allowed = {
        (policy, operation, resource)
        for policies in CONFIGURATION["accessControl"].values()
        for policy, rule in policies.items()
        for operation in rule["operations"]
        for resource in rule["resources"]
    }
    assert allowed == {
        (f"{NAME}:mqttproxy:1", "aws.greengrass#SubscribeToIoTCore", "$aws/things/+/tunnels/notify"),
        (f"{NAME}:pubsub:1", "aws.greengrass#PublishToTopic", CONFIGURATION["statusTopic"]),
    }


def test_one_manifest_for_linux_on_either_nucleus() -> None:
    assert MANIFEST["Platform"] == {"os": "linux", "runtime": "*"}
    assert RECIPE["ComponentType"] == "aws.greengrass.generic"
    assert RECIPE["ComponentDependencies"] == {
        "aws.greengrass.Nucleus": {"VersionRequirement": ">=2.0.0 <3.0.0", "DependencyType": "SOFT"}
    }


def test_lifecycle_steps() -> None:
    install, run = MANIFEST["Lifecycle"]["install"], MANIFEST["Lifecycle"]["run"]
    assert set(MANIFEST["Lifecycle"]) == {"install", "run"}  # lite knows no shutdown and no recover
    assert install["Timeout"] >= 600  # not the default of 120: a slow device on a slow line
    assert "Timeout" not in run
    assert install["RequiresPrivilege"] is run["RequiresPrivilege"] is False


@pytest.mark.parametrize("step", ["install", "run"])
def test_scripts_have_no_brace_that_is_not_a_variable_of_lite(step: str) -> None:
    script = MANIFEST["Lifecycle"][step]["Script"]
    variables = re.findall(r"\{[^}]*\}?", script)
    assert set(variables) == {"{work:path}", "{artifacts:decompressedPath}"}
    # Lite escapes a value for double quotes, and a path may have spaces in it.
    assert all(re.search(rf'"{re.escape(variable)}[^"]*"', script) for variable in variables)
    assert "configuration:" not in script  # or else every change of the configuration would be a restart


def test_the_artifact_is_what_the_build_makes() -> None:
    [artifact] = MANIFEST["Artifacts"]
    options = json.loads((PROJECT / "gdk-config.json").read_text())["component"][NAME]["build"]["options"]
    zip_name = options["zip_name"]
    assert artifact["Uri"] == f"s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{zip_name}.zip"
    assert artifact["Unarchive"] == "ZIP"
    assert f"/{zip_name}/src/" in MANIFEST["Lifecycle"]["run"]["Script"]


def test_gdk_configuration() -> None:
    config = json.loads((PROJECT / "gdk-config.json").read_text())
    assert config["gdk_version"] == "1.5.0"  # zip_name came with 1.3.0, globs in excludes with 1.5.0
    component = config["component"][NAME]
    assert (component["author"], component["version"]) == ("javatask", "2.0.0")
    assert component["build"]["build_system"] == "zip"
    assert component["publish"] == {"bucket": "xxx-sandbox", "region": "eu-central-1"}


def test_the_installation_can_read_each_requirement() -> None:
    names = []
    for requirement in requirements():
        match = re.fullmatch(r"([a-z]+)(>=[0-9.]+),(<[0-9]+)", requirement)
        assert match is not None, requirement
        names.append(match[1])
        assert satisfies(match[2][2:], f"{match[2]},{match[3]}")
        assert not satisfies(match[3][1:], f"{match[2]},{match[3]}")
    assert names == ["awsiotsdk", "awscrt", "websockets"]


@pytest.mark.parametrize(
    ("version", "bounds", "whether"),
    [
        ("1.22.0", ">=1.22,<2", True),
        ("1.22", ">= 1.22.0 , <2", True),
        ("1.9", ">=1.22", False),
        ("1.100.1", ">=1.22,<2", True),
        ("2.0.0", "<2", False),
        ("0.36.1", "==0.36.1", True),
        ("0.36.2", "==0.36.1", False),
        ("1.5", "!=1.5", False),
        ("3", "", True),
        ("1.22.0.dev1", ">=1", False),
        ("1.22", "~=1.2", False),
    ],
)
def test_satisfies(version: str, bounds: str, whether: bool) -> None:
    assert satisfies(version, bounds) is whether
