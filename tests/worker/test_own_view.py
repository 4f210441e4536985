"""What a worker sees of a run by itself, on a mount that shows late what others have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.restoring.own_view import OwnView
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent
from holdfast_storage.lag import LAG, Wait
from holdfast_storage.layout import log_entry
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import Entry, LogState
from holdfast_storage.store.posix import PosixStore
from support.committed import commit_run
from support.lagging import Clock, LaggingStore


@pytest.mark.parametrize("late", [0.5 * LAG, 2 * LAG])
def test_an_entry_that_is_seen_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    """A checkpoint whose entry is shown late is waited for, as long as a mount may lag and no longer. Guards against a
    good checkpoint that is disbelieved because of a cache, and a wait without end."""
    run = commit_run(PosixStore(str(tmp_path)), [7, 8], [Task("worker", 0)])
    clock = Clock.installed(monkeypatch)
    view = OwnView(LaggingStore(str(tmp_path), clock, {log_entry(1): clock.now + late}), known=2)
    assert view.entries == 2, "what it was told of, the coordinator must see again"
    first, second = run.checkpoints
    assert view.find(first.prefix, Wait()) == first
    assert clock.pauses == 0
    if late < LAG:
        assert view.find(second.prefix, Wait()) == second
    else:
        with pytest.raises(CheckpointAbsent, match=f"does not show {second.prefix}"):
            view.find(second.prefix, Wait())
    assert clock.now == pytest.approx(1000.0 + min(late, LAG), abs=2.0)


def test_a_log_that_begins_meanwhile(tmp_path: Path) -> None:
    """What another job commits since the beginning of a restore was not there to restore. Guards against a worker that
    steps aside alone because a coordinator has told the truth a moment ago."""
    store = PosixStore(str(tmp_path / "run"))
    view = OwnView(store, known=0)
    assert not view.has_checkpoints()
    before = LogState("run")
    after = commit_run(PosixStore(str(tmp_path / "other")), [7], [Task("worker", 0)])
    for number, state in enumerate((before, after)):
        assert Log(store).publish(Entry(number, "commit", f"x.{number}", 1.0, state), 0.0) == Published()
    assert not view.has_checkpoints()
    assert OwnView(store, known=0).has_checkpoints()
    assert view.find(after.checkpoints[0].prefix, Wait(0.0)) == after.checkpoints[0]
