"""Makes the virtual environment ``venv/`` in the current folder. Run by install.sh; standard library only.

The environment is made by hand: it is no more than a folder with a pyvenv.cfg and a link to the interpreter.
That needs neither the venv module nor ensurepip, which some systems leave out. It sees the system's packages:
what is there already is not installed again. Packages come from ``wheels/`` beside ``src`` if that is
enough, else from the package index. It is built beside the old one; ``venv`` is a symbolic link, replaced in
one step at the very end. So there is never half an environment, whatever happens on the way.
"""

from __future__ import annotations

import sys

try:
    import errno
    import fcntl
    import json
    import os
    import shutil
    import subprocess
    import time
    from pathlib import Path
    from typing import Any, NoReturn

    from installed import requirements
except ImportError as error:  # such as Debian's python3-minimal, or an image of hand-picked modules
    sys.exit(
        f"ERROR {sys.executable} lacks a part of its standard library ({error}): apt-get install python3"
    )

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "wheels"
VENV = Path("venv")
PYTHON = Path("bin/python3")  # in an environment
MADE_FROM = Path("made-from.json")  # in an environment; written last, when it is complete
NO_ROOM = os.strerror(errno.ENOSPC)
# A wheel of pip runs as it is. It would use distutils with Python 3.9, which Debian packages by itself.
RUN_WHEEL = (
    "import runpy, sys, sysconfig; sysconfig._PIP_USE_SYSCONFIG = True; sys.path[0] = sys.argv.pop(1); "
    "runpy.run_module('pip', run_name='__main__')"
)
PROGRAM = "import tunnel_agent.agent, tunnel_agent.nucleus, localproxy.__main__"


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return 0 if is_current() else 1
    try:
        with Path("install.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("waiting for another installation to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not made_by_another():
                try:
                    make(lock.fileno())
                finally:
                    remove_leftovers()  # above all where the disk is full
    except OSError as error:
        fail(f"the virtual environment cannot be made in {Path.cwd()}: {error}")
    return 0


def fail(message: str) -> NoReturn:
    if NO_ROOM in message:
        message += f"; the file system of {Path.cwd()} needs about 50 MB free"
    sys.exit(f"ERROR {message}")


def tell(message: str) -> None:
    sys.stdout.write(f"INFO {message}\n")
    sys.stdout.flush()


# Whether there is anything to do.


def made_from() -> dict[str, Any]:
    """What an environment is made from, but for the system's packages."""
    return {
        "python": list(sys.version_info[:2]),
        "requirements": requirements(),
        "wheels": sorted(wheel.name for wheel in WHEELS.glob("*.whl")),
    }


def is_current() -> bool:
    """Whether ``venv``, whose interpreter runs this, still is what would be made now."""
    try:
        made = json.loads((VENV / MADE_FROM).read_text())
    except (OSError, ValueError):
        return False
    wanted = made_from()
    if not wanted["wheels"]:  # an environment that was made from wheels serves as well where there are none
        made["wheels"] = []
    return all(Path(path).exists() for path in made.pop("system")) and bool(made == wanted)


def made_by_another() -> bool:
    """Whether another launch has made the environment while this one waited for the lock."""
    check = [str(VENV / PYTHON), "-EsSB", __file__, "--check"]
    try:
        return subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False  # there is none, or its interpreter is gone


# Making it.


def make(lock: int) -> None:
    started = time.monotonic()
    # Resolved: python3 may come to mean another version, python3.11 can only vanish, which is seen.
    base = Path(sys.executable).resolve()
    version = "{}.{}.{}".format(*sys.version_info)
    remove_leftovers()
    new = Path("venv-b" if VENV.resolve().name == "venv-a" else "venv-a")
    (new / "bin").mkdir(parents=True)
    (new / PYTHON).symlink_to(base)
    (new / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = true\nversion = {version}\n"
    )
    # /tmp may be small, full or not ours.
    temporary = (new / "tmp").resolve()
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)

    found = look_into(new)
    if found["missing"]:
        tell(f"installing {', '.join(found['missing'])} for Python {version} ({base})")
        install(new, found["has_pip"], lock)
        found = look_into(new)
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    proof = run([str(new / PYTHON), "-B", "-c", PROGRAM])
    if proof.returncode != 0:
        fail(f"the packages do not work with Python {version} ({base}): {last_line(proof)}")

    shutil.rmtree(temporary)
    system = [path for _, path in found["found"].values() if new.resolve() not in Path(path).parents]
    (new / MADE_FROM).write_text(json.dumps({**made_from(), "system": system}))
    os.sync()  # a power cut after the replacement must not leave empty files behind
    if not VENV.is_symlink() and VENV.exists():
        VENV.rename("venv-old")  # not one of ours
    link = Path("venv-link")
    link.symlink_to(new)
    link.replace(VENV)
    # Leaves the program and its packages compiled where main.py looks, so that the first start is a fast one.
    shutil.rmtree("pycache", ignore_errors=True)
    run([str(VENV / PYTHON), "-X", f"pycache_prefix={Path('pycache').resolve()}", "-c", PROGRAM])
    versions = ", ".join(f"{name} {version}" for name, (version, _) in found["found"].items())
    tell(f"virtual environment ready after {time.monotonic() - started:.1f} s: {versions}")


def remove_leftovers() -> None:
    for leftover in Path().glob("venv-*"):
        if leftover.is_symlink():
            leftover.unlink()
        elif leftover.resolve() != VENV.resolve():
            shutil.rmtree(leftover)


def run(command: list[str], lock: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep its output; with ``lock`` it holds that for as long as it runs."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[] if lock is None else [lock],
    )


def last_line(failed: subprocess.CompletedProcess[str]) -> str:
    """The line of a failed program's output that says why: its last error, or else its last."""
    lines = [line.strip() for line in failed.stdout.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    return (errors or lines or [f"exit code {failed.returncode}"])[-1].replace("ERROR: ", "pip: ", 1)


def install(new: Path, has_pip: bool, lock: int) -> None:
    """Have pip install what is missing, without the index where ``wheels/`` is enough."""
    command = [*find_pip(new, has_pip), "install", "-qq", "--no-input", "--no-cache-dir", "--prefer-binary"]
    # A pip.conf may ask for --user, which an environment refuses. Each try takes 15 s behind a firewall that
    # drops packets, so two more have to do.
    command += ["--no-user", "--retries", "2", "--no-compile", "--disable-pip-version-check"]
    command += ["-r", str(ROOT / "requirements.txt"), "--find-links", str(WHEELS)]
    if made_from()["wheels"]:
        outcome = run([*command, "--no-index"], lock)
        if outcome.returncode == 0:
            return
        if NO_ROOM in outcome.stdout:
            fail(last_line(outcome))
        tell("wheels/ is not enough for this machine: asking the package index too")
    outcome = run(command, lock)
    if outcome.returncode != 0:
        target = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {os.uname().machine}"
        advice = f"; let the device reach a package index, or ship wheels/ for {target}"
        fail(last_line(outcome) + (advice if NO_ROOM not in outcome.stdout else ""))


def find_pip(new: Path, has_pip: bool) -> list[str]:
    """The command of the pip in ``wheels/``, or else the system's, or else ensurepip's."""
    python = str(new / PYTHON)
    for wheel in sorted(WHEELS.glob("pip-*.whl"), reverse=True):
        return [python, "-c", RUN_WHEEL, str(wheel)]
    if not has_pip and run([python, "-m", "ensurepip"]).returncode != 0:
        fail(
            f"{Path(sys.executable).resolve()} has no pip to install the requirements with: "
            "apt-get install python3-pip, or ship wheels/"
        )
    return [python, "-m", "pip"]


def look_into(environment: Path) -> dict[str, Any]:
    """What installed.py tells of an environment."""
    outcome = run([str(environment / PYTHON), str(ROOT / "src/installed.py")])
    if outcome.returncode != 0:
        fail(f"{Path(sys.executable).resolve()} cannot tell what is installed: {last_line(outcome)}")
    answer: dict[str, Any] = json.loads(outcome.stdout)
    return answer


if __name__ == "__main__":
    sys.exit(main())
