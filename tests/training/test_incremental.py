"""Incremental saves of a real training, killed and resumed."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


def kinds(directory: Path) -> list[tuple[int, str]]:
    """Of each checkpoint, step and kind; a delta has a small part of the bytes that a full one has."""
    store = open_store(str(directory))
    run = read_run(store)
    assert run is not None
    whole = read_manifest(store, run.checkpoints[0]).size
    for record in run.checkpoints:
        assert read_manifest(store, record).size < whole / 5 if record.base else not record.base
    return [(record.step, "delta" if record.base else "full") for record in run.checkpoints]


def test_an_incremental_run_that_is_killed_ends_bit_equal(worlds: Any, tmp_path: Path) -> None:
    """A run that saves deltas, is killed while one is written, and resumed from one, ends bit-equal. Guards against a
    row, or a row of an optimizer's slot, that no delta has."""
    arguments = {"steps": 14, "save_every": 2, "full_every": 4}
    one, two = tmp_path / "one", tmp_path / "two"
    uninterrupted = worlds.get(2).run("embeddings.train", directory=str(one), **arguments)
    assert kinds(one) == [(step, "full" if step in (2, 10) else "delta") for step in range(2, 15, 2)]
    world = worlds.get(2)
    world.start("embeddings.train", directory=str(two), killed=1, at=8, **arguments)
    assert world.workers[1].wait(60.0) == -SIGKILL
    worlds.end(2)
    assert kinds(two) == [(2, "full"), (4, "delta"), (6, "delta")]

    resumed = worlds.get(2).run("embeddings.train", directory=str(two), **arguments)
    assert kinds(two) == [(2, "full"), (4, "delta"), (6, "delta"), (8, "full"), *((s, "delta") for s in (10, 12, 14))]
    for before, after in zip(uninterrupted, resumed, strict=True):
        assert (before["restored"], before["first"], after["first"]) == (None, 0, 6)
        assert after["state"] == before["state"]
