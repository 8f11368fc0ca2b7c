"""A localproxy that does nothing but what the test's access token says, and notes how it was started.

For tests of the agent that are about processes and output, not about bytes in a tunnel. The access token is
``<behaviour>.<anything>``, where the behaviour is one of the functions of the script below, and may carry a
number: ``exit:3.abc``.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

HELP = """Running AWS IoT Secure Tunneling Local Proxy version: v0.0-fake
  -t [ --access-token ] arg
  -i [ --client-token ] arg
  -d [ --destination-app ] arg
  -y [ --destination-client-type ] arg
"""

_SCRIPT = """#!{python} -SE
import json, os, signal, subprocess, sys, time
HELP = {help!r}
if "--help" in sys.argv:
    print(HELP)
    sys.exit()
folder = {folder!r}
token = os.environ["AWSIOT_TUNNEL_ACCESS_TOKEN"]
note = {{
    "pid": os.getpid(), "argv": sys.argv[1:], "cwd": os.getcwd(),
    # As it was given: Python adds to os.environ.
    "environment": dict(
        item.split("=", 1) for item in open("/proc/self/environ").read().split("\\0") if item
    ),
    "entries": os.listdir("."), "group": os.getpgrp(),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) != 3),
}}
with open(f"{{folder}}/{{os.getpid()}}.new", "w") as out:
    json.dump(note, out)
os.rename(f"{{folder}}/{{os.getpid()}}.new", f"{{folder}}/{{os.getpid()}}.json")

def log(level, text):
    print(f"[2026-11-22 00:14:27.395683] (0x00007f54) [{{level}}] {{text}}", file=sys.stderr, flush=True)

def connected():
    log("info", "Successfully established websocket connection with proxy server: wss://localhost")

def stay(_):
    connected()
    while True:
        signal.pause()

def exit(code):
    connected()
    sys.exit(int(code or 0))

def die(number):
    connected()
    os.kill(os.getpid(), int(number))

def fail(_):
    log("error", "something went wrong")
    print("and this is not a record", file=sys.stderr)
    sys.exit(1)

def reject(_):
    log("error", 'Proxy server rejected web socket upgrade request: (HTTP/1.1 403 Forbidden) "bad token"')
    sys.exit(0)

def rotated(_):
    connected()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pause()  # until the test rotates the token
    reject(_)

def stubborn(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay(_)

def family(_):
    child = subprocess.Popen(["sleep", "1000"])
    log("info", f"child {{child.pid}}")
    stay(_)

def orphan(_):
    child = subprocess.Popen(["sleep", "1000"])
    log("info", f"child {{child.pid}}")
    sys.exit(0)

def daemon(_):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    log("info", f"child {{child.pid}}")
    sys.exit(0)

def levels(_):
    for level in ("trace", "debug", "info", "warning", "error", "fatal"):
        log(level, f"a {{level}} record")
    print("plain on stdout", flush=True)
    print("plain on stderr", file=sys.stderr, flush=True)

def leak(_):
    client = os.environ.get("AWSIOT_TUNNEL_CLIENT_TOKEN", "")
    log("info", f"tokens {{token}} and {{client}}.")
    print(f"{{token}}{{token}}", client, flush=True)
    # Over the limit of a line, with the token across the cut, and never a line end.
    sys.stdout.write("x" * (8192 - len(token) // 2) + token + "y" * 50000 + token + "\\n")
    sys.stdout.write("after the long line\\n")
    sys.stdout.write("last words without end " + token)
    sys.stdout.flush()

def betray(_):
    log("info", f"using {{token}}")
    print(token, file=sys.stderr)
    log("error", f'Proxy server rejected web socket upgrade request: (HTTP/1.1 403 Forbidden) "{{token}}"')
    sys.exit(1)

def say(text):
    print(text, flush=True)

def tokens(count):
    # A line of nothing else, whose end does not come with it.
    sys.stdout.write(token * int(count))
    sys.stdout.flush()
    time.sleep(0.1)
    print("\\nafter the tokens", flush=True)

def garbage(_):
    os.write(1, b"\\xff\\xfe broken \\x1b[31m red \\r\\n\\0\\n")
    os.write(2, bytes(range(256)) * 300 + b"\\n")
    print("after the garbage", flush=True)

def tick(count):
    connected()
    for _ in range(int(count)):
        log("info", f"tick {{time.monotonic()}}")
        time.sleep(0.02)

def flood(count):
    connected()
    for number in range(int(count)):
        sys.stderr.write(f"[2026-11-22 00:14:27.395683] (0x00007f54) [info] line {{number}}\\n")
    sys.stderr.flush()

name, _, argument = token.partition(".")[0].partition(":")
globals()[name](argument)
"""


class FakeLocalproxy:
    """An executable in ``folder``, and what its runs left there.

    Args:
        help_text: what ``--help`` prints.
    """

    def __init__(self, folder: Path, name: str = "localproxy", help_text: str = HELP) -> None:
        self._notes = folder / f"{name}-runs"
        self._notes.mkdir(parents=True)
        self.path = folder / name
        self.path.write_text(_SCRIPT.format(python=sys.executable, help=help_text, folder=str(self._notes)))
        self.path.chmod(0o755)

    def runs(self) -> list[dict[str, Any]]:
        """How it was started, oldest first: pid, argv, environment, cwd, entries, group, descriptors."""
        notes = sorted(self._notes.glob("*.json"), key=lambda note: note.stat().st_mtime_ns)
        return [json.loads(note.read_text()) for note in notes]

    def run_of(self, token: str) -> dict[str, Any]:
        """The run with this access token."""
        (run,) = [run for run in self.runs() if run["environment"]["AWSIOT_TUNNEL_ACCESS_TOKEN"] == token]
        return run


_counter = itertools.count(int(time.time()))


def token(behaviour: str) -> str:
    """A new access token of about the length of a real one."""
    return f"{behaviour}.AQGAAXk{next(_counter):x}" + "SecretPart" * 50


def notification(
    access_token: str, services: tuple[str, ...] = ("SSH",), region: str = "eu-central-1"
) -> dict[str, Any]:
    """A tunnel notification as AWS documents it."""
    return {
        "clientAccessToken": access_token,
        "clientMode": "destination",
        "region": region,
        "services": list(services),
    }
