"""The machine's side of the log, without the machine."""

from __future__ import annotations

from dataclasses import replace

from holdfast_coordinator.core.events import Appended, LogRead
from holdfast_coordinator.core.intents import Commit
from holdfast_coordinator.core.ledger import Ledger
from holdfast_coordinator.core.messages import Now
from holdfast_coordinator.core.waits import Nobody
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState

NOW = Now(0.0, 0.0)


def test_an_entry_of_a_copy_of_this_process_ends_it() -> None:
    """The entry of a copy of this process ends its lead. Guards against two processes restored from one machine's
    memory that both lead the run."""
    ledger = Ledger("me")
    state = LogState("run").lead(Leader("me", "", ""), Generation("0123abcd", ()))
    ledger.read(Nobody())
    assert ledger.begin_reading()
    ledger.was_read(LogRead(Entry(4, "lead", "me.0", 0.0, state)))
    record = CheckpointRecord("ckpt-1.0123abcd.1/ckpt-1", 1, 1.0)
    ledger.append(Commit(generation="0123abcd", note="", record=record))
    intent = ledger.next()
    assert intent
    append = ledger.begin(intent, state.commit(record), NOW)
    other = replace(append.entry, state=state.commit(replace(record, manifest_crc32c=7)))
    ledger.was_appended(Appended(append.entry, taken_by=other))
    ended, failure = ledger.made.popleft()
    assert ended is intent
    assert isinstance(failure, Failure)
    assert failure.kind == Kind.SUPERSEDED
    assert ledger.next() is None, "nothing more is created"
