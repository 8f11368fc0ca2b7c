"""Which of the requirements an interpreter finds. Run in that interpreter, it tells install.py in JSON.

pip could tell as well, but an image may have the packages and no pip.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from pathlib import Path
from typing import Any

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+) *\(?(?P<bounds>[^;)]*)")
_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def requirements() -> list[str]:
    """The lines of requirements.txt, without comments."""
    text = (Path(__file__).resolve().parent.parent / "requirements.txt").read_text()
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def installed() -> dict[str, Any]:
    """Version and place of each requirement and what it requires; what is missing; whether there is a pip."""
    from importlib import metadata, util  # slow to import, and install.py only needs the requirements

    found: dict[str, tuple[str, str]] = {}
    missing: list[str] = []
    wanted = requirements()
    for requirement in wanted:
        match = _REQUIREMENT.match(requirement)
        if match is None or match["name"] in found:
            continue
        try:
            package = metadata.distribution(match["name"])
        except metadata.PackageNotFoundError:
            package = None
        if package is None or not satisfies(package.version, match["bounds"]):
            missing.append(requirement)
        else:
            # The folder with the metadata has the version in its name: an update makes it vanish.
            path = getattr(package, "_path", package.locate_file(""))
            found[match["name"]] = (package.version, str(path))
            # What has a condition (an extra, another platform) is left to the proof.
            wanted += [required for required in package.requires or [] if ";" not in required]
    return {"found": found, "missing": missing, "has_pip": util.find_spec("pip") is not None}


def satisfies(version: str, bounds: str) -> bool:
    """Whether a released ``version`` is within bounds such as ``>=1.22,<2``; where in doubt, pip is asked."""
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<) *([0-9.]+)", bound)
        if match is None or not re.fullmatch(r"[0-9.]+", version):
            return False
        if not _COMPARE[match[1]](release(version), release(match[2])):
            return False
    return True


def release(version: str) -> list[int]:
    numbers = [int(number) for number in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()  # 1.0 is 1
    return numbers


if __name__ == "__main__":
    sys.stdout.write(json.dumps(installed()))
