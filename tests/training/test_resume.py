"""Killed and resumed, a run ends where an uninterrupted one does, to the last bit."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from holdfast_storage.layout import parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

EVERY = 4
STEPS = 16


@pytest.mark.parametrize(
    ("size", "killed", "when"),
    [(2, 0, "writing"), (4, 2, "between")],
    ids=["2 workers, the chief in mid-save", "4 workers, another between two saves"],
)
def test_a_killed_run_ends_bit_equal(worlds: Any, tmp_path: Path, size: int, killed: int, when: str) -> None:
    """A killed and resumed run ends bit-equal. Guards against other dropout masks, other input, and one worker's
    statistics on all."""
    arguments = {"steps": STEPS, "save_every": EVERY}
    world = worlds.get(size)
    uninterrupted = world.run("training.train", directory=str(tmp_path / "one"), **arguments)
    directory = tmp_path / "two"
    world.start("training.train", directory=str(directory), killed=killed, when=when, **arguments)
    assert world.workers[killed].wait(60.0) == -SIGKILL
    committed = read_run(open_store(str(directory)))
    assert committed is not None
    attempts = {a.prefix for f in directory.iterdir() if (a := parse_folder(f.name))}
    if when == "writing":
        assert len(attempts) == 2, "the kill did not hit the middle of the second save"
    assert [c.step for c in committed.checkpoints] == [EVERY] * (when == "writing") or [EVERY, 2 * EVERY]

    worlds.end(size)
    resumed = worlds.get(size).run("training.train", directory=str(directory), **arguments)
    newest = committed.checkpoints[-1]
    for before, after in zip(uninterrupted, resumed, strict=True):
        assert before["restored"] is None
        assert after["restored"] == str(directory / newest.prefix)
        assert after["first"] == newest.step
        assert after["losses"] == before["losses"][newest.step :]
        assert after["state"] == before["state"]

    # What must be every worker's own is, and nothing is empty, or the test proves nothing.
    assert all(all(r["state"].values()) for r in resumed)
    for what in ("statistics", "noise", "input"):
        assert len({str(r["state"][what]) for r in resumed}) == size, what
    for what in ("weights", "optimizer"):
        assert len({str(r["state"][what]) for r in resumed}) == 1, what
