"""Each kind of program under each strategy: saved, killed, resumed, bit-equal. docs/migration.md has the table."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

STRATEGIES = {"none": 1, "one device": 1, "mirrored": 1, "multi-worker": 2}
"""How many processes each takes."""

PROGRAMS = [("loop", "keras"), ("loop", "tf_keras"), ("orbit", "tf_keras"), ("fit", "keras"), ("fit", "tf_keras")]
STEPS, KILLED_AT = 12, 10


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_program_ends_bit_equal(worlds: Any, tmp_path: Path, strategy: str, program: tuple[str, str]) -> None:
    """A program that is killed and started again ends where an uninterrupted one does, to the last bit. Guards against
    a strategy, a framework or a loop of which something is lost in silence."""
    size = STRATEGIES[strategy]
    what = {"strategy": strategy, "program": program[0], "framework": program[1], "steps": STEPS}
    ours = program == ("fit", "keras") and size > 1
    whole = worlds.fresh(size, ours).run("matrix.train", directory=str(tmp_path / "whole"), **what)
    world = worlds.fresh(size, ours)
    world.start("matrix.train", directory=str(tmp_path / "run"), killed_at=KILLED_AT, **what)
    assert [worker.wait(60.0) for worker in world.workers] == [-SIGKILL] * size
    resumed = worlds.fresh(size, ours).run("matrix.train", directory=str(tmp_path / "run"), **what)
    for before, after in zip(whole, resumed, strict=True):
        assert before["first"] == 0
        assert 4 <= after["first"] < KILLED_AT  # when the kill came, one save had been committed, and another begun
        assert after["values"] == before["values"]
        assert len(after["values"]) > 10
