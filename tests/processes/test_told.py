"""What a job in which something is missing writes to its terminal, where the program has set up no logging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.light_job import PROGRAMS, Start
from support.ports import free_address

pytestmark = pytest.mark.processes


def test_who_is_waited_for_is_told(start: Start, tmp_path: Path) -> None:
    """After 5 s each side says for whom it waits. Guards against ten silent minutes."""
    cluster = {"worker": [free_address(), free_address()]}
    chief, other = (
        start(
            PROGRAMS / "waiting.py",
            tmp_path / name,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index, name in enumerate(["run", "another"])
    )
    line = chief.expect("has been waiting")
    assert f"worker-0 has been waiting 5 s for all workers to join: waiting for worker-1 to join {tmp_path}/run" in line
    line = other.expect("has been waiting")
    assert "worker-1 has been waiting 5 s for all workers to join: the chief (worker-0) has not said" in line
    assert f"{tmp_path}/another/_holdfast/coordinator.json is not there" in line
    for child in (chief, other):
        assert child.expect("gave up")
        assert child.wait() == 0


def test_who_has_not_ended_is_told(start: Start, tmp_path: Path) -> None:
    """A chief whose program has ended says for whom its process stays. Guards against a silent minute at the end of a
    job."""
    cluster = {"worker": [free_address(), free_address()]}
    chief, other = (
        start(
            *(PROGRAMS / "waiting.py", tmp_path / "run", "stay" if index else "end"),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    )
    other.expect("went on")
    line = chief.expect("has been waiting")
    assert "5 s for the save in flight, and for the other workers to end: waiting for worker-1 to end" in line
    other.say("")
    assert chief.wait() == other.wait() == 0


def test_a_task_that_knows_no_cluster_is_told(start: Start, tmp_path: Path) -> None:
    """The second task of a Slurm step that nothing tells its cluster says so. Guards against tasks that each save alone
    in silence."""
    task = start(PROGRAMS / "waiting.py", tmp_path / "run", TF_CONFIG="", SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2")
    line = task.expect("this is process 1 of a Slurm job step (SLURM_PROCID), counted from 0")
    assert "pass cluster_resolver" in line
    task.expect("went on")
    assert task.wait() == 0
