"""Notice for one worker of a `tf.distribute` job: all save at one step, end, and go on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

STEPS = 60


def test_a_preempted_run_ends_bit_equal(worlds: Any, tmp_path: Path) -> None:
    """SIGTERM in a step of one of two workers: both save at one step, end with 143, and end bit-equal when they are
    started again. Guards against the signal that MultiWorkerMirroredStrategy takes for itself, and against steps that
    are repeated or left out."""
    world = worlds.get(2)
    uninterrupted = world.run("preempted.train", directory=str(tmp_path / "one"), steps=STEPS)
    directory = str(tmp_path / "two")
    preempted = world.run("preempted.train", directory=directory, steps=STEPS, notice_at=10)
    (step,) = preempted[0]["saved"]
    assert [worker["saved"] for worker in preempted] == [[step], [step]]
    assert [worker["code"] for worker in preempted] == [143, 143]
    assert 10 <= step < STEPS
    resumed = world.run("preempted.train", directory=directory, steps=STEPS)
    for before, cut, after in zip(uninterrupted, preempted, resumed, strict=True):
        assert (before["code"], after["code"], after["first"]) == (0, 0, step)
        assert cut["losses"] + after["losses"] == before["losses"]
        assert after["state"] == before["state"]
