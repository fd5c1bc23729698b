"""Processes beside the services."""

import subprocess
import sys

import pytest

BEHIND = """import os
before = os.nice(0)
from loop2p.runtime.side import stand_behind
stand_behind()
print(before, os.nice(0))"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no niceness")
def test_a_companion_stands_behind_the_services_of_its_machine() -> None:
    said = subprocess.run([sys.executable, "-c", BEHIND], capture_output=True, text=True, check=True).stdout
    before, now = map(int, said.split())
    assert now == min(before + 10, 19)
    assert now > before or before == 19
