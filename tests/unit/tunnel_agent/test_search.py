"""Which bundled binary fits a system, told from its os-release."""

from __future__ import annotations

import pytest

from tunnel_agent.search import detect_distribution


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
