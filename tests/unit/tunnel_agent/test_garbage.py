"""A hundred thousand wrong notifications and as many wrong configurations: each is understood or refused.

They are valid ones with seeded mutations: bits flipped, pieces cut out or put in twice, members swapped. So
they come closer to what is valid than bytes by chance.
"""

from __future__ import annotations

import json
import random
from typing import Any

from standins.mutation import mutate_payload, mutate_value
from tunnel_agent import launch
from tunnel_agent.config import Configuration, ConfigurationError
from tunnel_agent.launch import Localproxy
from tunnel_agent.notification import Notification, NotificationError

COUNT = 100_000
SECRET = "AQGAAXk" + "SecretPart" * 20
LOCALPROXY = Localproxy(("/lp",), False, "3.3", frozenset({"--client-token", "--destination-client-type"}))

NOTIFICATIONS: tuple[dict[str, Any], ...] = (
    {"clientAccessToken": SECRET, "clientMode": "destination", "region": "eu-central-1", "services": ["SSH"]},
    {
        "region": "cn-north-1",
        "services": ["SSH", "a:b", "x_-9"],
        "clientMode": "destination",
        "clientAccessToken": SECRET,
        "somethingNew": {"a": [1, None]},
    },
)
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {
        "accessControl": {"aws.greengrass.ipc.mqttproxy": {}},
        "services": {"SSH": 22, "VNC": "5900", "WEB": "camera.local:80", "S": "/run/s", "V6": "[::1]:1"},
        "localproxyPath": "/opt/lp/localproxy",
        "OS_DIST_INFO": "ubuntu",
        "localproxyVerbosity": 6,
        "destinationClientType": "V1",
        "tunnelingEndpoint": "localhost:8443",
        "caPath": "/etc/ssl/certs",
        "maxConcurrentTunnels": "20",
        "tunnelTimeoutSeconds": 43200.0,
        "reconnectWithClientToken": "false",
        "deferUpdatesSeconds": 0,
        "resubscribeSeconds": 1,
        "ipcRetrySeconds": "300",
        "statusTopic": "a/b",
        "logLevel": "DEBUG",
    },
    {"services": {"SSH": ""}, "tunnelingEndpoint": "[::1]"},
)


def test_notifications() -> None:
    rng = random.Random(20261122)
    configuration = Configuration()
    valid = [json.dumps(notification, indent=2).encode() for notification in NOTIFICATIONS]
    understood = 0
    for _ in range(COUNT):
        payload = mutate_payload(rng.choice(valid), rng)
        try:
            notification = Notification.parse(payload)
        except NotificationError as error:
            text = str(error)
            assert text.isprintable(), payload
            assert len(text) < 1000, payload
            # A piece of the token may stand anywhere after several mutations; never more than a good bit.
            assert "SecretPart" * 6 not in text, payload
            continue
        understood += 1
        assert SECRET not in repr(notification)
        assert notification.access_token.isprintable()
        assert " " not in notification.access_token
        assert notification.region[0] != "-"
        assert set(notification.region) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"), payload
        assert 1 <= len(notification.services) == len(set(notification.services)) <= 64
        for service in notification.services:
            assert 1 <= len(service) <= 128
            assert not set(service) & set(" ,=/\n\0"), payload
        problem = launch.service_problem(configuration, notification.services)
        assert problem.isprintable()
        if not problem:
            command = launch.arguments(LOCALPROXY, configuration, notification)
            options = [argument for argument in command if argument.startswith("-")]
            assert options in (["-r", "-d", "-v", "-y"], ["-r", "-d", "-v"]), payload
            assert SECRET not in " ".join(command)
            host = launch.endpoint_host(configuration, notification.region)
            assert host.endswith((".amazonaws.com", ".amazonaws.com.cn")), payload
    assert COUNT / 50 < understood < COUNT / 2, "the mutations are too gentle, or too rough"


def test_configurations() -> None:
    rng = random.Random(20261122)
    understood = 0
    notification = Notification.parse(json.dumps(NOTIFICATIONS[0]).encode())
    for _ in range(COUNT):
        value: Any = rng.choice(CONFIGURATIONS)
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = mutate_value(value, rng)
        try:
            configuration = Configuration.parse(value)
        except ConfigurationError as error:
            assert str(error).startswith("configuration key "), value
            assert str(error).isprintable(), value
            continue
        understood += 1
        assert 1 <= configuration.max_concurrent_tunnels <= 20, value
        assert 1 <= configuration.tunnel_timeout_seconds <= 43200, value
        assert 1 <= configuration.ipc_retry_seconds <= 86400, value
        assert 0 <= configuration.localproxy_verbosity <= 6, value
        assert configuration.log_level in ("DEBUG", "INFO", "WARNING", "ERROR"), value
        assert isinstance(configuration.reconnect_with_client_token, bool)
        for service, destination in configuration.services.items():
            assert not set(service + destination) & set(",=\n\0"), value
            assert not destination.startswith("-"), value
        if "SSH" in configuration.services:
            command = launch.arguments(LOCALPROXY, configuration, notification)
            assert all(isinstance(argument, str) and "\0" not in argument for argument in command), value
            options = [argument for argument in command if argument.startswith("-")]
            assert set(options) <= {"-r", "-e", "-d", "-v", "-c", "-y"}, value
            assert len(options) == len(set(options)), value
    assert COUNT / 10 < understood < COUNT * 0.9, "the mutations are too gentle, or too rough"
