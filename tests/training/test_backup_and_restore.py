"""`holdfast.keras.BackupAndRestore` on several workers. What one process can show is in tests/worker."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from support.keras_release import needs_right_metrics

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize("framework", [pytest.param("keras", marks=needs_right_metrics), "tf_keras"])
def test_a_fit_that_is_killed_and_told_to_go_away_ends_bit_equal(worlds: Any, tmp_path: Path, framework: str) -> None:
    """A fit on two workers, killed in mid-epoch and later told that a host goes away, ends as one that never stopped:
    weights, statistics of batch normalisation, optimizer and history. Guards against workers that go on at different
    batches, or with another's values."""
    ours = framework == "keras"
    whole = worlds.get(2, ours).run("backup.fit", directory=str(tmp_path / "whole"), framework=framework)
    what = {"directory": str(tmp_path / "cut"), "framework": framework}
    world = worlds.get(2, ours)
    world.start("backup.fit", killed_at=7, **what)
    assert world.workers[1].wait(60.0) == -SIGKILL
    worlds.end(2)
    told = worlds.get(2, ours).run("backup.fit", notice_at=3, **what)
    ended = worlds.get(2, ours).run("backup.fit", **what)

    for before, middle, after in zip(whole, told, ended, strict=True):
        assert middle["code"] == 143
        trained = middle["batches"] + after["batches"]
        assert trained == before["batches"][-len(trained) :]
        assert after["history"] == before["history"]
        assert list(after["state"].values()) == list(before["state"].values())  # names count a process's models
    assert told[0]["batches"] == told[1]["batches"]
