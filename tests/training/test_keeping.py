"""`holdfast.keras.ModelCheckpoint` on several workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.keras_release import needs_right_metrics

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize("framework", [pytest.param("keras", marks=needs_right_metrics), "tf_keras"])
def test_the_chief_decides_what_is_the_best(worlds: Any, tmp_path: Path, framework: str) -> None:
    """All workers save what the chief finds better, and nothing else, in this process and the next, whatever they are
    told themselves. Guards against a worker that saves alone, for which all wait."""
    world = worlds.get(2, ours=framework == "keras")
    arguments = {"directory": str(tmp_path), "framework": framework}
    # Of each epoch: the chief's score, and the other's, which alone would be better in the second epoch.
    for told in world.run("keeping.keep_best", scores=[[0.5, 0.1], [0.4, 0.9], [0.6, 0.0]], **arguments):
        assert told == {"kept": ["1", "3"], "best": 0.6}
    for told in world.run("keeping.keep_best", scores=[[0.5, 0.9], [0.7, 0.1]], **arguments):
        assert told == {"kept": ["1", "3", "2"], "best": 0.7}


def test_the_chief_tells_the_time(worlds: Any, tmp_path: Path) -> None:
    """All workers save when the chief's clock says so. Guards against a worker that saves alone, by its own."""
    # When training begins, after each batch, and at the save.
    times = [[0.0, 4.0, 10.0, 10.0, 15.0, 19.0], [0.0, 0.0]]
    arguments = {"directory": str(tmp_path), "framework": "tf_keras", "times": times}
    assert worlds.get(2).run("keeping.keep_by_time", **arguments) == [["2"], ["2"]]
