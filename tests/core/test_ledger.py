"""The machine's side of the log, without the machine."""

from __future__ import annotations

from dataclasses import replace

from holdfast_coordinator.core.effects import Append, Effect
from holdfast_coordinator.core.events import Appended, LogRead
from holdfast_coordinator.core.ledger import Intent, Ledger
from holdfast_coordinator.core.messages import Failure, Now
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState

NOW = Now(0.0, 0.0)


def test_an_entry_of_a_copy_of_this_process_ends_it() -> None:
    """Restored twice from one checkpoint of its machine, a coordinator goes on in both: one that finds the other's
    entry in its slot built the next on top, and both led the run."""
    effects: list[Effect] = []
    ended: list[Entry | Failure] = []
    ledger = Ledger("me", effects.append)
    state = LogState("run").lead(Leader("me", "", ""), Generation("0123abcd", ()))
    ledger.read(lambda failure: None)
    ledger.was_read(LogRead(Entry(4, "lead", "me.0", 0.0, state)))
    record = CheckpointRecord("ckpt-1.0123abcd.1/ckpt-1", 1, 1.0)
    ledger.append(Intent("commit", lambda s: s.commit(record), ended.append, "0123abcd"), NOW)
    append = effects[-1]
    assert isinstance(append, Append)
    other = replace(append.entry, state=state.commit(replace(record, manifest_crc32c=7)))
    ledger.was_appended(Appended(append.entry, taken_by=other), NOW)
    assert isinstance(ended[0], Failure)
    assert ended[0].kind == "superseded"
    assert effects[-1] is append, "nothing more is created"
