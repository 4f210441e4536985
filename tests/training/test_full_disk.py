"""A real file system that is full in the middle of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_storage.store import open_store
from support.light_worker import committed
from support.small_disk import PAGE, small_disk
from support.stores import PlainFileSystem
from support.training_world import TrainingWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


def test_training_goes_on_without_the_save(tmp_path: Path) -> None:
    """Training goes on without a save that a full disk has failed. Guards against a job that ends, an error that nobody
    hears of, and half a checkpoint for stock readers."""
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        run, store = str(disk.path / "run"), open_store(f"{PlainFileSystem.protocol}://{disk.outside}/run")
        job, reader = TrainingWorld(2, tmp_path / "job", disk=disk), TrainingWorld(1, tmp_path / "reader", disk=disk)
        try:
            job.run("jobs.begin", name="job", directory=run)
            saved = [job.run("jobs.go_on", name="job")[0]]
            for left in (0, 3):
                disk.fill(leave=left * PAGE)
                failures = job.run("jobs.go_on", name="job")
                failed = f"{run}/ckpt-{int(saved[-1].rpartition('-')[2]) + 1}."
                for failure in failures:
                    assert failure["type"] == "SaveFailed"
                    assert "No space left on device" in failure["message"]
                    assert "nothing of it is visible" in failure["message"]
                    assert failure["phase"] == "write"
                    assert failure["object"].startswith(failed)
                    assert ".data-" in failure["object"]
                    assert failure["workers"]
                    assert failure["workers"][0] in failure["message"]
                    assert failure["message"] == failures[0]["message"]
                assert [f"{run}/{record.prefix}" for record in committed(store)] == saved
                assert reader.run("jobs.look", directory=run)[0]["latest"] == saved[-1]

                disk.empty()
                prefixes = job.run("jobs.go_on", name="job")
                assert prefixes == [prefixes[0]] * 2
                saved.append(prefixes[0])
                assert [f"{run}/{record.prefix}" for record in committed(store)] == saved
                assert reader.run("jobs.look", directory=run)[0]["latest"] == saved[-1]
            job.run("jobs.end", name="job")
        finally:
            job.close()
            reader.close()
