"""The built-in localproxy as a process: certificates, address families, web proxies."""

from __future__ import annotations

import asyncio
import base64
import ssl
import warnings
from pathlib import Path

import pytest

from standins.hostile_service import Hostile
from standins.proxy_process import LocalService, ProxyProcess, echo, scenario
from standins.tunnel_certificates import Certificates
from standins.tunneling_service import TunnelingService

CONNECTED = "\\[info\\] Successfully established websocket connection"


@scenario()
async def test_certificates(tmp_path: Path) -> None:
    """Trusted by directory (hashed or not) or file; otherwise refused, unless -k."""
    async with TunnelingService(tmp_path / "service") as service:
        plain = tmp_path / "plain"
        plain.mkdir()
        (plain / "ca.pem").write_bytes(service.ca_file.read_bytes())
        for ca in (str(service.ca_directory), str(service.ca_file), str(plain)):
            tunnel = await service.open_tunnel(["SSH"])
            async with ProxyProcess(service, tunnel, "1", ca=ca) as proxy:
                await proxy.line(CONNECTED)
        handshakes = len(service.handshakes)
        tunnel = await service.open_tunnel(["SSH"])
        stranger = str(Certificates(tmp_path / "stranger").ca_file)
        async with ProxyProcess(service, tunnel, "1", ca=stranger) as proxy:
            await proxy.line("\\[error\\] Could not connect .* certificate is not trusted")
            await proxy.line("Trying again")
        wrong_name = f"ip6-localhost:{service.port}"
        async with ProxyProcess(service, tunnel, "1", endpoint=wrong_name) as proxy:
            await proxy.line("\\[error\\] Could not connect ")
        assert len(service.handshakes) == handshakes
        async with ProxyProcess(service, tunnel, "1", "-k", ca=stranger) as proxy:
            await proxy.line("\\[warning\\] SECURITY WARNING: certificates are NOT verified")
            await proxy.line(CONNECTED)


@scenario()
async def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for ca in (empty, garbage):
        async with ProxyProcess(None, None, "1", endpoint="localhost:9", ca=str(ca)) as proxy:
            assert await proxy.exit_code() == 1
            await proxy.line("\\[fatal\\] Cannot go on: ")


@scenario()
async def test_tls_older_than_1_2_is_refused(tmp_path: Path) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("TLS 1.1 was spoken")

    hostile = Hostile(tmp_path, never)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # they are old, and that is the point
        hostile.certificates.server_context.minimum_version = ssl.TLSVersion.TLSv1
        hostile.certificates.server_context.maximum_version = ssl.TLSVersion.TLSv1_1
    hostile.certificates.server_context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with hostile, ProxyProcess(None, None, "1", endpoint=hostile.endpoint, ca=hostile.ca) as proxy:
        await proxy.line("\\[error\\] Could not connect")
        assert hostile.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@scenario()
async def test_ipv4_and_ipv6(tmp_path: Path, host: str) -> None:
    listen = "::1" if host == "localhost" else host
    async with TunnelingService(tmp_path, hosts=[listen]) as service:
        tunnel = await service.open_tunnel(["SSH"])
        endpoint = f"[{host}]:{service.port}" if ":" in host else f"{host}:{service.port}"
        async with ProxyProcess(service, tunnel, "1", endpoint=endpoint) as proxy:
            await proxy.line(CONNECTED)


@scenario()
async def test_a_name_that_does_not_resolve_is_tried_again(tmp_path: Path) -> None:
    async with ProxyProcess(None, None, "1", endpoint="does-not-exist.invalid") as proxy:
        await proxy.line("\\[error\\] Could not connect .*cannot be resolved")
        await proxy.line("Trying again")


async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Both ways between a client and a local port, until one of them ends."""
    there, back = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()

    await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
@scenario()
async def test_through_a_web_proxy(tmp_path: Path, scheme: str, variable: str) -> None:
    async with TunnelingService(tmp_path / "service") as service:

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
            await relayed(reader, writer, service.port)

        proxy_server = Hostile(tmp_path / "proxy", connect, tls=scheme == "https")
        both = tmp_path / "both.pem"
        both.write_bytes(service.ca_file.read_bytes() + proxy_server.certificates.ca_file.read_bytes())
        async with proxy_server, LocalService(echo) as local:
            tunnel = await service.open_tunnel(["SSH"])
            environ = {variable: f"{scheme}://me:s3cr%40t@localhost:{proxy_server.port}"}
            destination = f"SSH={local.address}"
            async with ProxyProcess(service, tunnel, destination, ca=str(both), environ=environ) as proxy:
                await proxy.line(CONNECTED)
                (request,) = proxy_server.requests
                assert request.startswith(f"CONNECT {service.endpoint} HTTP/1.1\r\n".encode())
                credentials = base64.b64encode(b"me:s3cr@t")
                assert b"Proxy-Authorization: Basic " + credentials in request
                assert b"token" not in request
                await tunnel.close()
                assert await proxy.exit_code() == 0
                assert not any("s3cr" in line for line in proxy.lines)


@scenario()
async def test_no_proxy_and_a_proxy_that_refuses(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 5\r\n\r\nwho? ")

    refusing = Hostile(tmp_path / "proxy", refuse, tls=False)
    async with TunnelingService(tmp_path / "service") as service, refusing:
        tunnel = await service.open_tunnel(["SSH"])
        environ = {"HTTPS_PROXY": f"http://localhost:{refusing.port}"}
        async with ProxyProcess(service, tunnel, "1", environ=environ) as proxy:
            await proxy.line('web proxy .* answered \\(HTTP/1.1 407 Proxy Authentic.*\\) "who\\?"')
            await proxy.line("Trying again")
        environ["NO_PROXY"] = "localhost"
        async with ProxyProcess(service, tunnel, "1", environ=environ) as proxy:
            await proxy.line(CONNECTED)
        assert len(refusing.requests) == 1
