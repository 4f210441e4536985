"""Entries of those who do not lead a run, as they come into its log."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import log_entry
from holdfast_storage.log import entries
from holdfast_storage.log.entries import decode, encode
from holdfast_storage.log.holding import NotHeld, hold
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, Lease, LogState, Pin, Tag
from holdfast_storage.store import Store
from holdfast_storage.store.objects.store import ObjectStore
from support.faulty_store import FaultyStore
from support.jumping_loop import JumpingLoop, running
from support.scripted_client import ScriptedClient
from support.stores import KINDS, new_store

RECORD = CheckpointRecord("ckpt-1.00000000.1/ckpt-1", 1, 1.0, manifest_crc32c=1)
STATE = LogState("run", checkpoints=(RECORD,))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = new_store(request.param, tmp_path)
    Log(store).publish(Entry(0, "import", "a", 1.0, STATE), 0.0)
    return store


def lease(reader: str, number: int) -> Lease:
    return Lease(RECORD.prefix, reader, 60.0, number)


def test_an_entry_of_somebody_else_changes_nothing_else(store: Store) -> None:
    """It holds the state of the entry before, and the pin. Guards against a pin that takes a commit back."""
    made = hold(Log(store), "pin", lambda state, _: state.pin(Pin(RECORD.prefix, 1.0, "why")), "note")
    assert made is not None
    assert (made.number, made.kind, made.note) == (1, "pin", "note")
    assert made.state == replace(STATE, pinned=(Pin(RECORD.prefix, 1.0, "why"),))
    assert Log(store).tail() == made


def test_nothing_to_record_is_no_entry(store: Store) -> None:
    """Without a change there is no entry. Guards against a log that grows while nothing happens."""
    found = hold(Log(store), "lease", lambda state, number: None, "")
    assert found is not None
    assert found.number == 0
    assert Log(store).tail() == found


def test_without_a_log_nobody_begins_one(tmp_path: Path) -> None:
    """Where there is no log, none is begun. Guards against a reader that makes a run of a directory of TensorFlow's."""
    store = new_store("posix", tmp_path)
    assert hold(Log(store), "lease", lambda state, number: state, "") is None
    assert Log(store).tail() is None


def test_all_readers_of_a_race_get_their_lease(store: Store) -> None:
    """Who finds the slot taken decides anew, on top of what stands there. Guards against one that undoes another."""
    readers = [f"reader-{n}" for n in range(8)]
    threads = [
        threading.Thread(
            target=lambda reader=reader: hold(
                Log(store), "lease", lambda state, number: state.lease(lease(reader, number)), ""
            )
        )
        for reader in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Log(store).tail()
    assert last is not None
    assert sorted(each.reader for each in last.state.leases) == readers
    assert [each.taken for each in last.state.leases] == list(range(1, 9))


def test_who_may_not_write_is_told(store: Store) -> None:
    """A refusal is an error, and nothing is there. Guards against a reader that believes in a lease that is none."""
    refusing = FaultyStore(store, {("create", 0): "refuse"})
    with pytest.raises(NotHeld):
        hold(Log(refusing), "lease", lambda state, number: state.lease(lease("r", number)), "")
    last = Log(store).tail()
    assert last is not None
    assert last.number == 0


def test_a_lost_reply_is_not_a_lost_lease(store: Store) -> None:
    """An entry whose reply was lost is found to stand there. Guards against a lease that is taken for none, and kept by
    nobody who would release it."""
    losing = FaultyStore(store, {("create", 1): "lose"})  # after the trial
    made = hold(Log(losing), "lease", lambda state, number: state.lease(lease("r", number)), "")
    assert made is not None
    assert made == Log(store).tail()


def test_a_lease_that_breaks_the_bounds_is_not_written(store: Store) -> None:
    """What nobody would read is not written. Guards against a reader that closes the run for ever."""
    with pytest.raises(NotHeld, match="nobody reads"):
        hold(Log(store), "lease", lambda state, number: state.lease(replace(lease("r", number), seconds=1e9)), "")
    with pytest.raises(NotHeld, match="nobody reads"):
        hold(Log(store), "pin", lambda state, number: state.pin(Pin("gone-1.00000000.1/gone-1", 1.0, "")), "")


@pytest.mark.parametrize("conditions", ["kept", "ignored", "unsupported"])
def test_without_an_atomic_create_nothing_is_added(conditions: str) -> None:
    """On a storage that only looks as if it had one, no entry is added, and none is overwritten, however it finds out.
    Guards against an evaluator that takes back a commit."""
    with running(JumpingLoop()) as loop:
        client = ScriptedClient(loop, conditions=conditions)
        data = encode(Entry(0, "import", "a", 1.0, STATE))
        client.objects[f"run/{log_entry(0)}"] = data
        log = Log(ObjectStore("s3://bucket/run", client, "run", 32 << 20))
        if conditions == "kept":
            made = hold(log, "lease", lambda state, number: state.lease(lease("r", number)), "")
            assert made == log.tail()
        else:
            with pytest.raises(NotHeld, match="no atomic create"):
                hold(log, "lease", lambda state, number: state.lease(lease("r", number)), "")
            assert client.objects == {f"run/{log_entry(0)}": data}


def test_entries_that_hold_something_are_refused_by_earlier_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have format 3; others keep theirs. Guards against an earlier version that drops a pin, and then deletes, and
    against one that is shut out although nothing is pinned."""
    plain = encode(Entry(3, "commit", "a", 1.0, STATE))
    held = [
        encode(Entry(3, "commit", "a", 1.0, STATE.pin(Pin(RECORD.prefix, 1.0, "")))),
        encode(Entry(3, "commit", "a", 1.0, STATE.lease(lease("r", 1)))),
        encode(Entry(3, "release", "a", 1.0, STATE)),
    ]
    assert b"pinned" not in plain
    monkeypatch.setattr(entries, "FORMAT", 2)
    assert decode(plain, "entry") is not None
    for each in held:
        with pytest.raises(InvalidRequest, match="newer Holdfast"):
            decode(each, "entry")


def test_entries_with_tags_are_refused_by_earlier_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have format 5, the one that takes the last tag away as well, and what follows has its own again. Guards
    against an earlier version that drops a tag and deletes what is served, and against one shut out for ever."""
    tagged = STATE.tag(Tag("production", RECORD.prefix, 1.0))
    named = [encode(Entry(3, kind, "a", 1.0, state)) for kind, state in (("commit", tagged), ("untag", STATE))]
    plain = encode(Entry(4, "commit", "a", 1.0, tagged.untag("production")))
    assert b"tags" not in plain
    decoded = decode(named[0], "entry")
    assert decoded.state == tagged
    monkeypatch.setattr(entries, "FORMAT", 4)
    assert decode(plain, "entry") is not None
    for each in named:
        with pytest.raises(InvalidRequest, match="newer Holdfast"):
            decode(each, "entry")
