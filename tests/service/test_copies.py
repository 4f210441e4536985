"""Copies of a run directory that are made while its job saves as fast as it can."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.cli import main
from holdfast.restoring.staging import Staged
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.layout import STATE_FILE, parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator
from support.light_worker import World, all_join, outcomes, until

COPIES = 8


def copied(run: Path, copy: Path) -> None:
    """As docs/guarantees.md says: no log, TensorFlow's file, then the folders, the newest first."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.copy(run / STATE_FILE, copy)
    folders = [folder for folder in run.iterdir() if parse_folder(folder.name)]
    for folder in sorted(folders, key=lambda folder: int(folder.name.rpartition(".")[2]), reverse=True):
        # What was removed in the middle is an old one.
        with suppress(shutil.Error, FileNotFoundError):
            shutil.copytree(folder, copy / folder.name)


def newest_is_whole(store: Store) -> bool:
    """What `holdfast verify` looks at."""
    run = read_run(store)
    return bool(run and run.restorable) and verify_checkpoint(store, run.restorable[-1]).verdict == "good"


def copied_by_command(run: Path, copy: Path) -> None:
    """By `holdfast cp`, again until nothing was removed right before it got its lease."""
    arguments = ["cp", str(run), str(copy)]
    until(lambda: CliRunner().invoke(main, arguments).exit_code == 0)
    found = read_run(open_store(copy))
    assert found
    assert all(verify_checkpoint(open_store(copy), record).verdict == "good" for record in found.checkpoints)


@pytest.mark.parametrize("how", [copied, copied_by_command])
def test_every_copy_of_a_living_run_restores(
    store: Store, coordinator: Coordinator, world: World, tmp_path: Path, how: Callable[[Path, Path], None]
) -> None:
    """Every copy of a living run that follows the recipe, or that the command has made, restores. Guards against a copy
    whose log names checkpoints that are not in it."""
    (worker,) = workers = world(1, coordinator, max_to_keep=2)
    all_join(workers)
    assert worker.restore() is None
    end, told = threading.Event(), [0]

    def train() -> None:
        while not end.is_set():
            assert outcomes([worker.save(told[0] + 1)]) == [None]
            told[0] += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for number in range(COPIES):
            until(lambda: told[0] >= 3)
            path = tmp_path / f"copy-{number}"
            before = told[0]
            how(Path(store.url), path)
            while not newest_is_whole(open_store(path)):
                before = told[0]
                how(Path(store.url), path)
            (reader,) = readers = world(1, coordinator, store=open_store(path))
            all_join(readers)
            restored = reader.restore()
            assert isinstance(restored, Staged)
            assert before - 1 <= restored.record.step <= told[0] + 1
            restored.close()
            # It is a run of its own, and goes on.
            assert outcomes([reader.save(restored.record.step + 1)]) == [None]
            reader.close()
    finally:
        end.set()
        trainer.join()
