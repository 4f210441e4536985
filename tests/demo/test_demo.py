"""The demo as a whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGTERM

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.tensorflow]

HOLDFAST = [sys.executable, "-m", "holdfast.cli"]


@pytest.mark.parametrize("demo_of", [["demo", "--workers", "2"], ["demo-ps"]])
def test_a_demo_ends_bit_equal(tmp_path: Path, demo_of: list[str]) -> None:
    """A run that loses a worker, or a parameter server, in the middle of a save ends bit-equal. Guards against losing a
    bit of weights, optimizer, random generators or input position."""
    demo = tmp_path / "demo"
    command = [*HOLDFAST, *demo_of, "--directory", str(demo)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Verdict: BIT-EQUAL" in result.stdout
    assert "DIFFERS" not in result.stdout
    assert (demo / "loss.png").read_bytes().startswith(b"\x89PNG")
    for run in ("interrupted", "uninterrupted"):
        verified = subprocess.run(
            [*HOLDFAST, "verify", str(demo / run), "--json"], capture_output=True, text=True, timeout=60, check=True
        )
        assert json.loads(verified.stdout)["checkpoints"][-1]["step"] == 240


def test_sigterm_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGTERM leaves nothing running. Guards against three trainings that stay on the machine when a CI job runs into
    its limit."""
    command = [*HOLDFAST, "demo", "--directory", str(tmp_path / "demo"), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if "2 workers start" in line:
                break
        pids = [int(pid) for pids in re.findall(r"pids? ([\d, ]+)", told) for pid in pids.split(",")]
        assert len(pids) == 3, told
        demo.send_signal(SIGTERM)
        rest = demo.stdout.read()
    assert demo.returncode == 1
    assert "Traceback" not in rest
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
