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
    """At any instant an interrupt loses no save. Guards against a prefix that `save` returned and nobody commits, and a
    failing save after Ctrl-C."""
    found = result(start(PROGRAMS / "interrupted.py", tmp_path, ROUNDS, 1, patience=600.0))
    assert found["wrong"] == []
    assert found["found"]["final saves"] == ROUNDS
    figure("real interrupts of saves, restores and closes", ", ".join(f"{k}: {v}" for k, v in found["found"].items()))


@pytest.mark.tensorflow
def test_random_interrupts_with_tensorflow(start: Start, tmp_path: Path, figure: Figure) -> None:
    """The same holds with TensorFlow. Guards against interrupts between the parts of a snapshot or of a restore."""
    rounds = max(30, ROUNDS // 10)
    found = result(start(PROGRAMS / "interrupted.py", tmp_path, rounds, 1, "tensorflow", patience=600.0))
    assert found["wrong"] == []
    assert found["found"]["final saves"] == rounds
    figure("the same with TensorFlow", ", ".join(f"{k}: {v}" for k, v in found["found"].items()))


@pytest.mark.parametrize("moment", ["train", "wait", "save", "close", "thread", "late thread", "pool"])
def test_the_end_of_a_program(start: Start, tmp_path: Path, moment: str) -> None:
    """A program that ends by a handler or with living threads commits its last save. Guards against a lost save in
    flight, and a manager that silently can no longer save."""
    child = start(PROGRAMS / "ending.py", tmp_path / "run", moment)
    expected = json.loads(child.expect("expected ").removeprefix("expected "))
    assert child.wait() == (0 if moment in ("thread", "late thread", "pool") else 143)
    run = read_run(open_store(tmp_path / "run"))
    assert run is not None
    assert [record.step for record in run.checkpoints] == expected, "\n".join(child.output)
