"""Services as a device has them: an HTTP server and an OpenSSH server, on free ports of 127.0.0.1."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
_TIMEOUT = 10.0


@contextmanager
def web_server(data: bytes) -> Iterator[int]:
    """An HTTP server with ``data`` to get, which answers a PUT with the SHA-256 of what it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(data)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(hashlib.sha256(body).hexdigest().encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """An OpenSSH server that lets in this user with a key made in ``folder``, and nobody else."""
    if SSHD is None:
        raise FileNotFoundError("no sshd on this machine: apt-get install openssh-server")
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # StrictModes no: /tmp, which is above the folder, may be written to by all.
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nPasswordAuthentication no\nUsePAM no\n"
    )
    (folder / "known_hosts").write_text(f"* {(folder / 'host.pub').read_text()}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # sshd insists on it, and only its service makes it
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        deadline = time.monotonic() + _TIMEOUT
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"sshd does not start: {(folder / 'sshd.log').read_text()}")
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait(_TIMEOUT)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ssh_command(port: int, folder: Path) -> list[str]:
    """What logs in to that server through ``port``; it asks nothing and leaves the user's own files alone."""
    known = f"UserKnownHostsFile={folder}/known_hosts"
    options = ["-F", "none", "-o", known, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    return ["ssh", "-p", str(port), "-i", f"{folder}/user", *options, f"{getpass.getuser()}@127.0.0.1"]
