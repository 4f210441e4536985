"""The processes of the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL

import pytest

from holdfast.demo.processes import Fleet, Process, ProcessFailed, wait_until

pytestmark = pytest.mark.processes


def idle(tmp_path: Path, name: str = "idle") -> Process:
    """A process that does nothing until it is ended."""
    arguments = ["0", "--bind", "127.0.0.1"]
    return Process(name, "http.server", arguments, tmp_path / f"{name}.log", {"PYTHONUNBUFFERED": "1"})


def gone(pid: int) -> bool:
    """Whether no process of this pid runs (one that only waits to be collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_leaving_the_fleet_ends_everything(tmp_path: Path) -> None:
    """Leaving the fleet ends all processes. Guards against a failed demo whose workers take two cores for hours."""
    processes: list[Process] = []

    def fail() -> None:
        with Fleet(tmp_path) as fleet:
            processes.append(fleet.start_coordinator(tmp_path)[0])
            processes.extend(fleet.start_cluster({"worker": 2}, "run", "holdfast.demo.training", ["--no"], {}))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(processes) == 3
    assert all(gone(process.pid) for process in processes)


def test_a_killed_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL of the demo ends its processes. Guards against processes that nobody knows."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from holdfast.demo.processes import Process\n"
        "arguments, log = ['0', '--bind', '127.0.0.1'], Path(sys.argv[1])\n"
        "child = Process('child', 'http.server', arguments, log, {'PYTHONUNBUFFERED': '1'})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        log = tmp_path / "log"
        deadline = time.monotonic() + 30
        while "Serving" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(parent.pid, SIGKILL)
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(child)


def test_waiting_ends_with_the_log_of_what_failed(tmp_path: Path) -> None:
    """Waiting ends at once if a process fails, and shows its log. Guards against waiting until the deadline, without
    the reason."""
    good = idle(tmp_path)
    bad = Process("bad", "http.server", ["no-port"], tmp_path / "bad.log", {})
    try:
        with pytest.raises(ProcessFailed, match="bad failed") as failure:
            wait_until(lambda: False, [good, bad], 30.0, "nothing")
    finally:
        good.end()
        bad.end()
    assert "invalid int value" in str(failure.value)
    assert "idle" not in str(failure.value)


def test_waiting_has_a_deadline(tmp_path: Path) -> None:
    """Waiting has a deadline, and shows the end of every log. Guards against a demo that hangs."""
    process = idle(tmp_path)
    try:
        with pytest.raises(ProcessFailed, match="were not enough") as failure:
            wait_until(lambda: False, [process], 0.2, "a miracle")
    finally:
        process.end()
    assert "a miracle" in str(failure.value)
    assert f"idle (pid {process.pid}) is running" in str(failure.value)
