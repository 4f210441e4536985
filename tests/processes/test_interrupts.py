"""Ctrl-C and signal handlers in real processes, at random instants and at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.child import Child
from support.figures import Figure
from support.light_job import PROGRAMS, Start

pytestmark = pytest.mark.processes

ROUNDS = int(os.environ.get("HOLDFAST_TEST_INTERRUPTS", "200"))


def result(child: Child) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(child.expect("told {").removeprefix("told "))
    assert child.wait() == 0
    return found


def test_random_interrupts(start: Start, tmp_path: Path, figure: Figure) -> None:
    """A prefix that `save` had returned was never committed, or the save that people make after Ctrl-C failed."""
    found = result(start(PROGRAMS / "interrupted.py", tmp_path, ROUNDS, 1, patience=600.0))
    assert found["wrong"] == []
    assert found["found"]["final saves"] == ROUNDS
    figure("real interrupts of saves, restores and closes", ", ".join(f"{k}: {v}" for k, v in found["found"].items()))


@pytest.mark.tensorflow
def test_random_interrupts_with_tensorflow(start: Start, tmp_path: Path, figure: Figure) -> None:
    """The same where taking a snapshot and applying what was restored is TensorFlow's work, between parts of which they
    come."""
    rounds = max(30, ROUNDS // 10)
    found = result(start(PROGRAMS / "interrupted.py", tmp_path, rounds, 1, "tensorflow", patience=600.0))
    assert found["wrong"] == []
    assert found["found"]["final saves"] == rounds
    figure("the same with TensorFlow", ", ".join(f"{k}: {v}" for k, v in found["found"].items()))


@pytest.mark.parametrize("moment", ["train", "wait", "save", "close", "thread", "late thread", "pool"])
def test_the_end_of_a_program(start: Start, tmp_path: Path, moment: str) -> None:
    """A SIGTERM handler that exits, or training in a thread that outlives the main one: the save in flight was lost, or
    nothing could be saved any more, and nobody said so."""
    child = start(PROGRAMS / "ending.py", tmp_path / "run", moment)
    expected = json.loads(child.expect("expected ").removeprefix("expected "))
    assert child.wait() == (0 if moment in ("thread", "late thread", "pool") else 143)
    run = read_run(open_store(tmp_path / "run"))
    assert run is not None
    assert [record.step for record in run.checkpoints] == expected, "\n".join(child.output)
