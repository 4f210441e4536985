"""After a kill, the input goes on where the state was saved."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

EPOCH = 12
"""Steps of one: 48 elements, of which 2 replicas have 2 each."""


@pytest.mark.parametrize(
    ("size", "killed", "at"),
    [(1, 0, 7), (2, 1, 14)],
    ids=["two replicas of one worker, in the first epoch", "two workers, in the second epoch"],
)
def test_each_element_counts_once_an_epoch(worlds: Any, tmp_path: Path, size: int, killed: int, at: int) -> None:
    """Killed between two saves and resumed, two epochs train with each element twice, in the order of an uninterrupted
    run. Guards against batches that are skipped or trained twice after a restart."""
    arguments = {"directory": str(tmp_path / "run"), "steps": 2 * EPOCH, "save_every": 4}
    uninterrupted = worlds.fresh(size).run("counting.count", **arguments | {"directory": str(tmp_path / "calm")})
    world = worlds.fresh(size)
    world.start("counting.count", killed=killed, at=at, **arguments)
    assert world.workers[killed].wait(60.0) == -SIGKILL
    resumed = worlds.fresh(size).run("counting.count", **arguments)
    saved = at // 4 * 4
    for before, after in zip(uninterrupted, resumed, strict=True):
        assert before["counts"] == after["counts"] == [2] * 48
        assert after["seen"] == before["seen"][saved:]
    assert len({str(told["seen"]) for told in resumed}) == size
