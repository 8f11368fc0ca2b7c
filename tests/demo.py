"""The demonstration that demo.sh starts: what a device does, from the build to a file through the tunnel."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Optional

from standins.deployment import Deployment, build, stop
from standins.device import SSHD, ssh_command, ssh_server, web_server
from standins.loop_thread import LoopThread
from standins.nucleus import Nucleus
from standins.source import Source
from standins.tunneling_service import TunnelingService

SIZE = 10 << 20
TIMEOUT = 60.0  # seconds for any one step, installing apart
STARTED = time.monotonic()


class FailedError(Exception):
    """A step that did not do what it should; the message is for a person."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.sh")
    parser.add_argument("--keep", action="store_true", help="leave the tunnel open until Ctrl-C")
    keep = parser.parse_args().keep
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)  # so that everything is cleaned up
    # Not the default folder for temporary files: the path of a Unix socket may have 108 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="tunnel-demo-", dir="/tmp"))
    try:
        transferred = demonstrate(folder, keep)
        leave_nothing(folder)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except (FailedError, OSError, subprocess.SubprocessError) as failure:
        say(f"FAILED: {failure}")
        log = folder / "component.log"
        print(log.read_text() if log.exists() else "", end="", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    say(f"done: {transferred}")
    return 0


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def demonstrate(folder: Path, keep: bool) -> str:
    built = build(folder / "build")
    say(f"built {built.archive.name} as GDK does: {built.archive.stat().st_size / 1024:.0f} KiB")
    deployment = Deployment(built, folder / "greengrass")
    environment = surroundings()
    began = time.monotonic()
    installed = deployment.install(environment, timeout=900)
    *_, last = installed.stdout.splitlines()
    if installed.returncode != 0:
        raise FailedError(f"the recipe's install script: {last}")
    say(f"ran the recipe's install script in {time.monotonic() - began:.1f} s: {last}")

    with ExitStack() as stack:
        loop = stack.enter_context(LoopThread())
        service = stack.enter_context(loop.enter(TunnelingService(folder / "service")))
        data = os.urandom(SIZE)
        services = {"HTTP": stack.enter_context(web_server(data))}
        if SSHD is None:
            say("no sshd on this machine: HTTP only")
        else:
            services["SSH"] = stack.enter_context(ssh_server(folder / "ssh"))
        say(f"local services: {', '.join(f'{name} on port {port}' for name, port in services.items())}")
        nucleus = Nucleus(
            folder,
            {
                **deployment.configuration,
                "tunnelingEndpoint": service.endpoint,
                "caPath": str(service.ca_directory),
                "services": services,
            },
        )
        stack.enter_context(nucleus)
        say(
            f"a stand-in nucleus listens on a Unix socket, a stand-in tunneling service on {service.endpoint}"
        )

        log = stack.enter_context((folder / "component.log").open("wb"))
        began = time.monotonic()
        component = deployment.start({**environment, **nucleus.environment()}, log)
        stack.callback(stop, component)
        wait_subscribed(nucleus, component)
        say(f"the recipe's run script has the component subscribed after {time.monotonic() - began:.2f} s")

        tunnel = loop.run(service.open_tunnel(list(services)))
        began = time.monotonic()
        nucleus.notify(tunnel.notification)
        loop.run(tunnel.destination.wait_connected(timeout=TIMEOUT), TIMEOUT)
        say(f"a notification for {', '.join(services)}: connected after {time.monotonic() - began:.2f} s")
        source = stack.enter_context(
            loop.enter(Source(service.endpoint, service.ca_file, tunnel.source.token.text))
        )
        transferred = [through_http(source.ports["HTTP"], data)]
        if "SSH" in services:
            transferred.append(through_ssh(source.ports["SSH"], folder / "ssh", data))
        keep_secret(tunnel.destination.token.text, folder / "component.log")
        if keep:
            say("the tunnel stays open until Ctrl-C; try:")
            print(f"    curl -o file http://127.0.0.1:{source.ports['HTTP']}/", flush=True)
            if "SSH" in services:
                print(f"    {' '.join(ssh_command(source.ports['SSH'], folder / 'ssh'))}", flush=True)
            print(f"    tail -f {log.name}", flush=True)
            try:
                signal.pause()
            except KeyboardInterrupt:
                say("closing")
        if (code := stop(component)) != 0:
            raise FailedError(f"the component ended with exit code {code}")
        say("the component ended on SIGTERM with exit code 0")
    return ", ".join(transferred)


def wait_subscribed(nucleus: Nucleus, component: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return nucleus.wait_subscribed(timeout=0.2)
        except TimeoutError:
            if component.poll() is not None:
                raise FailedError(f"the component ended with exit code {component.returncode}") from None
            if time.monotonic() > deadline:
                raise


def surroundings() -> dict[str, str]:
    """What a nucleus would hand on of this machine: above all where Python and the package index are."""
    names = {"PATH", "HOME", "LANG", "SSL_CERT_FILE"}
    return {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith("PIP_") or name.lower().endswith("_proxy")
    }


def through_http(port: int, data: bytes) -> str:
    wanted = hashlib.sha256(data).hexdigest()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://127.0.0.1:{port}/"
    upload = urllib.request.Request(url, data=data, method="PUT")
    for way, request in (("from", urllib.request.Request(url)), ("to", upload)):
        began = time.monotonic()
        with opener.open(request, timeout=TIMEOUT) as response:
            body = response.read()
        seconds = time.monotonic() - began
        digest = hashlib.sha256(body).hexdigest() if way == "from" else body.decode()
        if digest != wanted:
            raise FailedError(f"HTTP {way} the device: SHA-256 {digest} instead of {wanted}")
        rate = SIZE / 2**20 / seconds
        say(f"HTTP, 10 MiB {way} the device: SHA-256 {digest[:12]}... as sent, {rate:.0f} MiB/s")
    return "10 MiB each way by HTTP"


def through_ssh(port: int, folder: Path, data: bytes) -> str:
    shown = subprocess.run(
        [*ssh_command(port, folder), "echo hello from $(uname -n); sha256sum"],
        input=data,
        capture_output=True,
        timeout=TIMEOUT,
    )
    if shown.returncode != 0 or hashlib.sha256(data).hexdigest() not in shown.stdout.decode():
        raise FailedError(
            f"ssh: {shown.stdout.decode()}{shown.stderr.decode()}{(folder / 'sshd.log').read_text()}"
        )
    say(f"OpenSSH: '{shown.stdout.decode().splitlines()[0]}', and 10 MiB to its sha256sum arrived as sent")
    return "a command and 10 MiB by OpenSSH"


def keep_secret(token: str, log: Path) -> None:
    if token in log.read_text():
        raise FailedError("the access token is in the component's log")
    if holder := process_with(token):
        raise FailedError(f"the access token is in the arguments of process {holder}")
    say("the access token is in no log line and in no process's arguments")


def leave_nothing(folder: Path) -> None:
    if left := process_with(str(folder)):
        raise FailedError(f"process {left} was left behind")
    say("no process was left behind")


def process_with(text: str) -> Optional[str]:
    """The id of a process that has ``text`` in its arguments."""
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in arguments.read_bytes():
                return arguments.parent.name
        except OSError:
            continue  # ended just now
    return None


if __name__ == "__main__":
    sys.exit(main())
