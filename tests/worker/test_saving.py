"""What a worker makes of the answers to its save, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.place import ALONE
from holdfast.saving import Save, Terms
from holdfast.snapshot import OBJECT_GRAPH_KEY, Snapshot, SnapshotTensor
from holdfast_storage.errors import Superseded
from holdfast_storage.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store.posix import PosixStore

TERMS = Terms("ckpt", 1.0, 5, None, "refuse", False, False)
SNAPSHOT = Snapshot((), SnapshotTensor(OBJECT_GRAPH_KEY, 7, (), b"", encoded_crc32c=0))


class SupersededSession:
    """A session whose coordinator says that a newer job leads."""

    place = ALONE
    generation = "0123abcd"

    def progress(self, *_: Any) -> None:
        pass

    def vote(self, *_: Any) -> Any:
        raise Superseded("a newer leader has taken the run")


@pytest.mark.parametrize("committed", [True, False])
def test_superseded_is_no_failure_of_a_save_that_was_committed(tmp_path: Path, committed: bool) -> None:
    """The word of the commit is lost, another job takes the run, and a save that stands is told to have failed."""
    store = PosixStore(str(tmp_path))
    save = Save(SupersededSession(), store, TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)  # type: ignore[arg-type]
    state = LogState("run")
    if committed:
        state = state.commit(CheckpointRecord(save.prefix, 30, 1.0))
    Log(store).publish(Entry(0, "commit", "w.1", 1.0, state), 0.0)
    save.start()
    assert save.wait(10.0)
    assert isinstance(save.error, Superseded) is not committed
    assert (save.error is None) is committed
