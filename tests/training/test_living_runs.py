"""Others in the directory of a job that is training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.coordinator_process import coordinator

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


def contents(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def test_looking_disturbs_nothing(worlds: Any, tmp_path: Path) -> None:
    """Restoring from a living run disturbs nothing. Guards against a notebook that takes the lead from a job, whose
    next save fails."""
    run, job, reader = tmp_path / "run", worlds.get(2), worlds.get(1)
    job.run("jobs.begin", name="job", directory=str(run))
    prefix, _ = job.run("jobs.go_on", name="job")
    before = contents(run)
    (seen,) = reader.run("jobs.look", directory=str(run))
    assert contents(run) == before
    assert seen["latest"] == prefix
    assert seen["stock"] == seen["manager"]
    following = job.run("jobs.go_on", name="job")
    assert following == [following[0]] * 2
    assert Path(following[0]).name == "ckpt-2"
    assert reader.run("jobs.look", directory=str(run))[0]["latest"] == following[0]
    job.run("jobs.end", name="job")


@pytest.mark.parametrize("apart", [False, True], ids=["embedded", "one coordinator for both"])
def test_a_second_job_is_refused(worlds: Any, tmp_path: Path, apart: bool) -> None:
    """A second job on a living run is refused. Guards against two jobs that overwrite each other's checkpoints, and a
    first one that loses the run."""
    with coordinator(tmp_path, start=apart) as address:
        run, first, second = tmp_path / "run", worlds.get(2), worlds.get(1)
        options = {"directory": str(run), "coordinator": address}
        first.run("jobs.begin", name="job", **options)
        prefix, _ = first.run("jobs.go_on", name="job")

        assert second.run(
            "jobs.begin",
            name="restored",
            **options,
        ) == [prefix]
        before = contents(run)
        for _ in range(2):  # and stays refused
            (refusal,) = second.run("jobs.go_on", name="restored")
            assert refusal["type"] == "SaveFailed"
            assert "another training job is running on this directory" in refusal["message"]
            assert "worker-0, worker-1" in refusal["message"]
            assert refusal["seconds"] < 15
        assert contents(run) == before

        # The first goes on, and then what the second has restored is not the newest any more.
        following, _ = first.run("jobs.go_on", name="job")
        first.run("jobs.end", name="job")
        (refusal,) = second.run("jobs.go_on", name="restored")
        assert refusal["type"] == "Superseded"
        assert following.removeprefix(f"{run}/") in refusal["message"]
        second.run("jobs.end", name="restored")

        # Started again, it has the run for itself.
        assert second.run("jobs.begin", name="again", **options) == [following]
        (saved,) = second.run("jobs.go_on", name="again")
        second.run("jobs.end", name="again")
        state = read_run(open_store(str(run)))
        assert state is not None
        assert [str(run / c.prefix) for c in state.checkpoints] == [prefix, following, saved]
