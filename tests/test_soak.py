"""The short path of benchmarks/soak.py: nothing is lost, and nothing ends otherwise than documented."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc")
def test_the_short_soak_ends_well():
    # a process of its own, for it forks, and one that has threads must not
    ended = subprocess.run([sys.executable, str(SOAK), "--quick"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
