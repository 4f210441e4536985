"""Jobs whose cluster no TF_CONFIG names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.ports import free_port
from support.training_world import TrainingWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[TrainingWorld]:
    """Two tasks of a Slurm job step on one node."""
    step = {
        "TF_CONFIG": "{}",
        "PORT_BASE": str(free_port(2)),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    world = TrainingWorld(2, tmp_path / "logs", [step | {"SLURM_PROCID": str(rank)} for rank in range(2)])
    yield world
    world.close()


def test_a_slurm_job_is_one_world(slurm: TrainingWorld, tmp_path: Path) -> None:
    """A Slurm job whose managers are made after the strategy's scope saves and restores as one world. Guards against
    tasks that each take themselves for a job of one worker, and whose saves are refused or overwrite each other."""
    run = tmp_path / "run"
    arguments = {"directory": str(run), "save_every": 2}
    first = slurm.run("training.train", steps=4, **arguments)
    second = slurm.run("training.train", steps=6, **arguments)
    state = read_run(open_store(str(run)))
    assert state is not None
    assert state.generation is not None
    assert [str(task) for task, _ in state.generation.members] == ["worker-0", "worker-1"]
    assert [record.step for record in state.checkpoints] == [2, 4, 6]
    for before, after in zip(first, second, strict=True):
        assert before["restored"] is None
        assert after["restored"] == str(run / state.checkpoints[1].prefix)
        assert after["first"] == 4
    assert first[0]["state"]["weights"] == first[1]["state"]["weights"]
    assert first[0]["state"]["input"] != first[1]["state"]["input"]
