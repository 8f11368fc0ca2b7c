"""Which bundled binary fits a system, told from its os-release; and a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel_agent.search import NoLocalproxyError, detect_distribution, find


@pytest.mark.parametrize(
    ("os_release", "raspberry_pi", "distribution"),
    [
        ('ID=ubuntu\nVERSION_ID="22.04"', False, "ubuntu"),
        ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"', False, "ubuntu"),
        ('ID="amzn"\nVERSION_ID="2"', False, "amzn2"),
        ('ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"', False, ""),
        ("ID=raspbian\nID_LIKE=debian", False, "raspberrypi"),
        ("ID=debian\nVERSION_ID=12", True, "raspberrypi"),
        ("ID=debian\nVERSION_ID=12", False, ""),
        ("ID=ubuntu", True, "ubuntu"),
        ("ID=alpine", False, ""),
        ("", False, ""),
        ("garbage\n=\nID", False, ""),
    ],
)
def test_detect_distribution(os_release: str, raspberry_pi: bool, distribution: str) -> None:
    assert detect_distribution(os_release, raspberry_pi) == distribution


@pytest.mark.parametrize("times", [1, 2])
def test_a_trial_that_is_told_to_stop_has_another_chance(tmp_path: Path, times: int) -> None:
    """Its SIGTERM may be meant for the whole component, which then ends by its own and in order."""
    tried = tmp_path / "tried"
    program = tmp_path / "localproxy"
    program.write_text(
        f"#!/bin/sh\necho >> {tried}\n[ $(wc -l < {tried}) -le {times} ] && kill -TERM $$\n"
        "echo --destination-app\n"
    )
    program.chmod(0o755)

    def search() -> bool:
        found = find(str(program), "auto", tmp_path, tmp_path, lambda _group, _runs: None)
        return found.localproxy.command == (str(program),)

    if times == 1:
        assert search()
    else:
        with pytest.raises(NoLocalproxyError, match="ended with -15"):
            search()
    assert len(tried.read_text()) == 2
