"""The built-in localproxy as a process: its command line."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from standins.proxy_process import SOURCES

CONNECTED = "\\[info\\] Successfully established websocket connection"


def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run that ends by itself."""

    async def go() -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", "localproxy", *arguments),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    return asyncio.run(go())


def test_misuse_is_one_line_and_exit_2() -> None:
    token = "an-access-token"
    for arguments in ([], ["-d", "22"], ["--nonsense"], ["-d", "22", "-r", "X"], ["-d", "x", "-r", "eu"]):
        code, out, err = run(*arguments, AWSIOT_TUNNEL_ACCESS_TOKEN=token)
        assert code == 2
        assert out == ""
        assert re.fullmatch("localproxy: .+\n", err)
        assert token not in err


def test_help_and_version() -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for option in ("--destination-client-type", "--client-token", "--capath", "-y", "-i"):
        assert option in out
    code, out, err = run("-V")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"Running AWS IoT Secure Tunneling Local Proxy version: \S+ \(built-in\)\n", out)


def test_a_token_on_the_command_line_is_warned_about(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    code, _, err = run("-t", "a-token", "-d", "22", "-e", "localhost:9", "-c", str(empty))
    assert code == 1
    assert "[warning] A token is on the command line" in err
    assert "a-token" not in err
