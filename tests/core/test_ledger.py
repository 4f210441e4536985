"""The machine's side of the log, without the machine."""

from __future__ import annotations

from dataclasses import replace

from holdfast_coordinator.core.effects import Append
from holdfast_coordinator.core.events import Appended, LogRead
from holdfast_coordinator.core.intents import Commit
from holdfast_coordinator.core.ledger import Ledger
from holdfast_coordinator.core.messages import Go, Now, SaveOutcome
from holdfast_coordinator.core.waits import Nobody
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from support.cluster import Cluster

NOW = Now(0.0, 0.0)


def test_an_entry_of_a_copy_of_this_process_ends_it() -> None:
    """Restored twice from one checkpoint of its machine, a coordinator goes on in both: one that finds the other's
    entry in its slot built the next on top, and both led the run."""
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


def test_who_was_slower_to_take_a_job_over_does_not_take_it_from_the_faster() -> None:
    """Of two successors, the slower one does not take the job from the faster one. Guards against a successor that
    finds the other's lead entry, takes the next slot, and commits a report of a save that was told to have failed."""
    cluster = Cluster()
    first = cluster.coordinator()
    (worker,) = cluster.world(first, 1)
    assert isinstance(first.ask(worker.vote(1)), Go)
    slower, faster = cluster.coordinator(), cluster.coordinator()
    slower.ask(worker.rejoin())
    kept = slower.call(worker.report(1))
    slower.carry_out()
    slower.deliver()  # it has read the log, and is about to take the lead
    faster.ask(worker.rejoin())
    told = faster.call(worker.report(1))
    while not told.answers:
        commits = isinstance(faster.pending[0], Append) and faster.pending[0].entry.kind == "commit"
        faster.carry_out(0, "bad" if commits else "good")
        faster.deliver()
    assert isinstance(told.answer, SaveOutcome)
    assert not told.answer.committed
    slower.run()
    assert isinstance(kept.answer, Failure)
    assert kept.answer.kind == Kind.UNKNOWN_GENERATION, "the worker may ask again, and is told what became of its save"
    assert not cluster.has_committed(worker.caller.generation, 1)
