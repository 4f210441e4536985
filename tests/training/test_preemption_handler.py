"""TensorFlow's own `PreemptionCheckpointHandler` with Holdfast's manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.training_world import TrainingWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


def test_all_workers_save_the_step_that_the_handler_names(tmp_path: Path) -> None:
    """SIGTERM on one of two workers: both save the same step, once, and both go on from it. Guards against a manager
    that the handler takes for something else, and an end without a save."""
    lives = []
    for number, preempted_at in enumerate((5, 0)):
        world = TrainingWorld(2, tmp_path / f"logs-{number}")
        try:
            arguments = {"directory": str(tmp_path / "run"), "steps": 60, "preempted_at": preempted_at}
            lives.append(world.run("handled.train", **arguments))
        finally:
            world.close()
    first, second = lives
    assert first[0] == first[1]
    assert first[0]["saves"] == 1
    assert 5 <= first[0]["value"] < 60
    assert second[0] == second[1] == {"restored": first[0]["value"], "value": 60.0, "saves": 1}
