"""Every reason for which the stand-in service refuses a handshake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from standins.raw_peer import RawPeer
from standins.tunnel import Tunnel
from standins.tunnel_handshake import RefusedError, read_credentials
from standins.tunneling_service import TunnelingService

OFFER = ("Sec-WebSocket-Protocol", "aws.iot.securetunneling-3.0")
TOKEN = ("access-token", "T0KEN")
CLIENT_TOKEN = "0123456789abcdef0123456789ABCDEF-"
PATH = "/tunnel?local-proxy-mode=destination"


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/other?local-proxy-mode=destination", [OFFER, TOKEN], "path"),
        ("/tunnel", [OFFER, TOKEN], "local-proxy-mode"),
        ("/tunnel?local-proxy-mode=both", [OFFER, TOKEN], "local-proxy-mode"),
        (PATH + "&local-proxy-mode=source", [OFFER, TOKEN], "local-proxy-mode"),
        (PATH, [TOKEN], "Sec-WebSocket-Protocol"),
        (
            PATH,
            [("Sec-WebSocket-Protocol", "chat, aws.iot.securetunneling-4.0"), TOKEN],
            "Sec-WebSocket-Protocol",
        ),
        (PATH, [OFFER], "access token"),
        (PATH, [OFFER, TOKEN, TOKEN], "access token"),
        (PATH, [OFFER, TOKEN, ("Cookie", "awsiot-tunnel-token=T0KEN")], "access token"),
        (PATH, [OFFER, TOKEN, ("client-token", "short")], "client token"),
        (PATH, [OFFER, TOKEN, ("client-token", "_" * 32)], "client token"),
        (
            PATH,
            [OFFER, TOKEN, ("client-token", CLIENT_TOKEN), ("client-token", CLIENT_TOKEN)],
            "client token",
        ),
        (PATH, [OFFER, TOKEN, ("padding", "x" * 4000)], "4096"),
    ],
)
def test_a_request_that_can_never_be_right(path: str, headers: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        read_credentials(path, headers)
    assert caught.value.status == 400


def test_a_cookie_may_carry_the_access_token() -> None:
    shown = read_credentials(PATH, [OFFER, ("Cookie", "a=b; awsiot-tunnel-token=T0KEN")])
    assert shown == ("destination", "T0KEN", None)


async def refused(service: TunnelingService, access_token: str, **more: Any) -> InvalidStatus:
    """The answer to a handshake that must not succeed."""
    with pytest.raises(InvalidStatus) as caught:
        async with RawPeer(
            service.endpoint, service.ca_file, access_token, **{"mode": "destination", **more}
        ):
            pass
    return caught.value


async def connects(service: TunnelingService, tunnel: Tunnel, **more: Any) -> None:
    """A destination's handshake succeeds."""
    token = tunnel.destination.token.text
    async with RawPeer(service.endpoint, service.ca_file, token, mode="destination", **more) as peer:
        assert peer.websocket.response is not None
        assert peer.websocket.response.headers["channel-id"] == service.handshakes[-1].channel_id


async def test_a_refusal_explains_itself(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        response = (await refused(service, "unknown")).response
        assert response.status_code == 403
        assert b"not known" in response.body
        handshake = service.handshakes[0]
        assert response.headers["channel-id"] == handshake.channel_id
        assert (handshake.status, handshake.header("access-token")) == (403, ["unknown"])


async def test_a_token_is_for_one_mode(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        error = await refused(service, tunnel.source.token.text)
        assert error.response.status_code == 403
        assert b"mode" in error.response.body
        await connects(service, tunnel)


async def test_a_token_is_spent_by_its_first_success(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        await service.refuse_next(1, 503)
        await refused(service, tunnel.destination.token.text)
        await connects(service, tunnel)
        for client_token in (None, CLIENT_TOKEN):
            error = await refused(service, tunnel.destination.token.text, client_token=client_token)
            assert error.response.status_code == 403
            assert b"previously used" in error.response.body


async def test_a_client_token_may_come_back(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        for _ in range(3):
            await connects(service, tunnel, client_token=CLIENT_TOKEN)
        for client_token in (None, CLIENT_TOKEN + "X"):
            error = await refused(service, tunnel.destination.token.text, client_token=client_token)
            assert error.response.status_code == 403


async def test_closed_tunnels_and_revoked_tokens_are_refused(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        revoked = tunnel.destination.token.text
        await tunnel.rotate("destination")
        assert (await refused(service, revoked)).response.status_code == 403
        await tunnel.close()
        error = await refused(service, tunnel.destination.token.text)
        assert error.response.status_code == 403
        assert b"closed" in error.response.body


async def test_refusing_on_demand(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        await service.refuse_next(2, 500)
        await service.refuse_next(1, 302, "elsewhere", [("Location", "wss://elsewhere.invalid/")])
        token = tunnel.destination.token.text
        for _ in range(2):
            assert (await refused(service, token)).response.status_code == 500
        handshakes = service.wait_handshakes(3)
        with pytest.raises(Exception):  # noqa: B017 - how it fails to follow the redirect does not matter
            async with RawPeer(service.endpoint, service.ca_file, token, mode="destination"):
                pass
        await handshakes
        assert service.handshakes[2].status == 302
        await connects(service, tunnel)


async def test_a_handshake_that_is_no_websocket_spends_no_token(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        bad = [("Sec-WebSocket-Version", "13")]  # twice
        await refused(service, tunnel.destination.token.text, headers=bad)
        await connects(service, tunnel)


async def test_the_service_listens_on_every_host(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path, hosts=("127.0.0.1", "127.0.0.2")) as service:
        for _ in range(2):
            error = await refused(service, "unknown")
            assert error.response.status_code == 403
