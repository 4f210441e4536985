"""Keras's own `fit` under a distribution strategy. Custom loops over Keras 3 are in test_resume.py.

Under several workers, Keras 3 trains with the strategy of `holdfast.keras`.
"""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from support.keras_release import needs_right_metrics

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize(
    ("size", "framework", "mirrored"),
    [
        pytest.param(2, "keras", False, marks=needs_right_metrics),
        (2, "tf_keras", False),
        (1, "keras", True),
        (1, "tf_keras", True),
    ],
    ids=["keras, 2 workers", "tf_keras, 2 workers", "keras, MirroredStrategy", "tf_keras, MirroredStrategy"],
)
def test_fit_goes_on_bit_equal(worlds: Any, tmp_path: Path, size: int, framework: str, mirrored: bool) -> None:
    """`fit` after a restore goes on bit-equal. Guards against other statistics or other dropout masks."""
    ours = framework == "keras" and not mirrored
    world = (worlds.fresh if mirrored else worlds.get)(size, ours)
    workers = world.run("fitting.fit", directory=str(tmp_path), framework=framework, mirrored=mirrored)
    assert len(workers) == size
    for worker in workers:
        assert Path(worker["prefix"]).name == "ckpt-2"
        assert list(worker["restored"].values()) == list(worker["saved"].values())
        assert worker["resumed"][0] == worker["went_on"][0]
        assert list(worker["resumed"][1].values()) == list(worker["went_on"][1].values())


@needs_right_metrics
def test_a_killed_fit_ends_bit_equal(worlds: Any, tmp_path: Path) -> None:
    """With a worker killed in mid-epoch, `fit` of Keras 3 ends as if it had not been. Guards against metrics (sums over
    the workers) and statistics (each worker's own) that come back as those of another."""
    uninterrupted = worlds.get(2, ours=True).run("fitting.go_on", directory=str(tmp_path / "one"), epochs=4)
    directory = str(tmp_path / "two")
    world = worlds.get(2, ours=True)
    world.start("fitting.go_on", directory=directory, epochs=3, killed=1)
    assert world.workers[1].wait(60.0) == -SIGKILL

    worlds.end(2)
    resumed = worlds.get(2, ours=True).run("fitting.go_on", directory=directory, epochs=4)
    for before, after in zip(uninterrupted, resumed, strict=True):
        assert after["first"] == 2
        assert after["told"] == before["told"][2:]
        # Not by name: in names, Keras counts the models of a process.
        assert list(after["state"].values()) == list(before["state"].values())
    # What must be every worker's own is, or the test proves nothing.
    assert resumed[0]["state"] != resumed[1]["state"]
