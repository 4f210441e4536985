"""What the environment says of who has started a process, as launchers of several processes and of one leave it."""

from __future__ import annotations

import os

import pytest

from holdfast.session.launcher import launched_by, warn_of_launcher

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}

SEVERAL = {
    "a Slurm job step": SLURM | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"},
    "Open MPI's mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    "an MPI launcher": {"PMI_SIZE": "2", "PMI_RANK": "1"},
    "horovodrun": {"HOROVOD_SIZE": "2", "HOROVOD_RANK": "1"},
    "torchrun": {"WORLD_SIZE": "2", "RANK": "1"},
    "an indexed Job of Kubernetes": {"JOB_COMPLETION_INDEX": "1"},
}

ONE = {
    "nothing": {},
    "a shell in an allocation": SLURM | {"SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0"},
    "a step of one task": SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    "a job array": SLURM | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    "one process of mpirun": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    "rank 0, which may save for all": {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "0"},
    "one process of torchrun": {"WORLD_SIZE": "1", "RANK": "0"},
    "a rank that is something else": {"RANK": "16"},
    "not a number": {"WORLD_SIZE": "two", "RANK": "one", "JOB_COMPLETION_INDEX": "²"},
    "the first pod": {"JOB_COMPLETION_INDEX": "0"},
}


@pytest.mark.parametrize("launcher", SEVERAL)
def test_one_of_several(launcher: str) -> None:
    """Whoever is not the first of several is known by it. Guards against the tasks of a job that each save alone, in
    silence."""
    rank = next(name for name in SEVERAL[launcher] if "RANK" in name or "PROCID" in name or "INDEX" in name)
    assert launched_by(SEVERAL[launcher]) == f"process 1 of {launcher} ({rank})"


@pytest.mark.parametrize("what", ONE)
def test_one_alone(what: str) -> None:
    """Sizes that a single process sees are no sign. Guards against a warning in each notebook of a Slurm allocation."""
    assert launched_by(ONE[what]) == ""


def test_the_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The warning says what to pass; without a sign there is none. Guards against a warning nobody can act on."""
    for name in {name for environment in [*SEVERAL.values(), *ONE.values()] for name in environment}:
        monkeypatch.delenv(name, raising=False)
    warn_of_launcher()
    assert caplog.records == []
    for name, value in SEVERAL["a Slurm job step"].items():
        monkeypatch.setitem(os.environ, name, value)
    warn_of_launcher()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pass cluster_resolver" in caplog.text
