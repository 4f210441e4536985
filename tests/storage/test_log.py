"""The log: its bytes, its tail, and the outcomes of publishing an entry."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest, StorageError
from holdfast_storage.layout import LOG_FOLDER, log_entry
from holdfast_storage.log.entries import FORMAT, decode, encode
from holdfast_storage.log.log import Log, LostRace, NotPublished, Published, Unknown
from holdfast_storage.records import CheckpointRecord, Entry, EntryKind, LogState
from holdfast_storage.store.base import Store
from support.faulty_store import Fault, FaultyStore
from support.stores import KINDS, new_store
from support.written import ENTRIES


def entry(number: int, write_id: str = "mine") -> Entry:
    record = CheckpointRecord(f"ckpt-{number}.00000000.0/ckpt-{number}", number, 1.0, manifest_crc32c=number)
    return Entry(number, "commit", write_id, 1.0, LogState("run", checkpoints=(record,)), "a note")


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def __init__(self, store: FaultyStore | None = None, land_at: float = float("inf")) -> None:
        self._store, self._land_at = store, land_at

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._store is not None and self.now >= self._land_at:
            self._store.land()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


@given(ENTRIES)
def test_entries_read_back(written: Entry) -> None:
    """Any entry decodes to what was encoded. Guards against a field of the state that the log forgets, and that no
    coordinator knows after a restart."""
    assert decode(encode(written), "entry") == written


@given(ENTRIES, st.data())
def test_a_torn_entry_is_not_there(written: Entry, data: st.DataObject) -> None:
    """An entry that is cut off counts as not there. Guards against half an entry, left by a crash without hard links,
    that is taken for a state or for damage."""
    whole = encode(written)
    assert decode(whole[: data.draw(st.integers(0, len(whole) - 1))], "entry") is None


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found(bit: int) -> None:
    """Every flipped bit of an entry is found. Guards against a state that is read from a faulty disk."""
    whole = encode(entry(3))
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        if position >= len(whole) - 3:  # it then looks torn
            assert decode(bytes(damaged), "entry") is None
        else:
            with pytest.raises(CheckpointDamaged):
                decode(bytes(damaged), "entry")


def test_entries_are_plain_json() -> None:
    """An entry is plain JSON. Guards against a log that people cannot read with the tools they have."""
    fields = json.loads(encode(entry(3)))
    assert fields["entry"]["checkpoints"][0]["step"] == 3
    assert len(encode(entry(3))) < 400


def resealed(**changes: object) -> bytes:
    """An entry with other fields and the right checksum."""
    inner = json.dumps(json.loads(encode(entry(3)))["entry"] | changes).encode()
    return b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)


def test_unknown_fields_are_ignored() -> None:
    """Unknown fields are ignored. Guards against a run that an older Holdfast cannot read after a field was added."""
    assert decode(resealed(novelty=1), "entry") == entry(3)


def test_a_newer_format_is_refused() -> None:
    """A newer format is refused by name. Guards against a newer log that is half understood, and checkpoints that are
    deleted because of it."""
    with pytest.raises(InvalidRequest, match="newer Holdfast"):
        decode(resealed(format=FORMAT + 1), "entry")


def delta(number: int, on: int) -> CheckpointRecord:
    return CheckpointRecord(f"ckpt-{number}.00000000.{number}/ckpt-{number}", number, 1.0, base=full(on).prefix)


def full(number: int) -> CheckpointRecord:
    return CheckpointRecord(f"ckpt-{number}.00000000.{number}/ckpt-{number}", number, 1.0)


def test_a_log_with_deltas_has_a_format_of_its_own() -> None:
    """An entry with a delta has a format that an earlier Holdfast refuses, and one without has the format of before.
    Guards against a part that an earlier version restores as a whole, and a run that it cannot read for no reason."""
    with_delta = replace(entry(3), state=LogState("run", checkpoints=(full(1), delta(2, 1))))
    assert json.loads(encode(with_delta))["entry"]["format"] == 4
    assert decode(encode(with_delta), "entry") == with_delta
    assert json.loads(encode(entry(3)))["entry"]["format"] == 1


def test_what_people_say_of_a_run_has_a_format_of_its_own() -> None:
    """An entry that rolls a run back, removes something of it or moves it, and each one later that must not forget it,
    has a format that an earlier Holdfast refuses. Guards against an earlier version that commits on top of what was
    rolled back, or where the run is no more, and against one that is shut out because something was removed once."""

    def format_of(kind: EntryKind, state: LogState) -> int:
        written = replace(entry(3), kind=kind, state=state)
        assert decode(encode(written), "entry") == written
        return int(json.loads(encode(written))["entry"]["format"])

    state = LogState("run", checkpoints=(full(1), full(2), full(3)))
    said: dict[EntryKind, LogState] = {
        "rollback": state.rollback(full(1).prefix, 3),
        "remove": state.remove(full(1).prefix),
        "move": state.move("s3://bucket/run"),
    }
    for kind, after in said.items():
        assert format_of(kind, after) == FORMAT == 5
        assert format_of("commit", after) == (1 if kind == "remove" else 5)


@pytest.mark.parametrize(
    ("live", "damaged", "wrong"),
    [
        ((full(1), delta(3, 2)), (), "without the checkpoint that it needs"),
        ((full(1), delta(3, 2)), (full(3).prefix,), ""),
        ((delta(3, 2), full(2)), (), ""),
        ((full(3), delta(2, 3)), (), "no earlier save of the generation"),
        ((delta(2, 2),), (), "no earlier save of the generation"),
        ((full(1), replace(delta(2, 1), base="ckpt-1.0000000b.1/ckpt-1")), (), "no earlier save of the generation"),
        ((CheckpointRecord("ckpt-1", 1, 1.0, stock=True, base=full(1).prefix), full(1)), (), "no earlier save"),
    ],
)
def test_no_delta_is_without_what_it_needs(
    live: tuple[CheckpointRecord, ...], damaged: tuple[str, ...], wrong: str
) -> None:
    """An entry in which a delta lacks its base, or has one that it cannot have, is neither written nor read. Guards
    against a log of which nobody can tell what it takes to restore it, and a chain with a circle."""
    written = replace(entry(3), state=LogState("run", checkpoints=live, damaged=damaged))
    if not wrong:
        assert decode(encode(written), "entry") == written
        return
    with pytest.raises(ValueError, match=wrong):
        encode(written)
    shown = [
        {"prefix": each.prefix, "step": each.step, "time": each.time, "stock": each.stock}
        | ({"base": each.base} if each.base else {})
        for each in live
    ]
    with pytest.raises(CheckpointDamaged, match=wrong):
        decode(resealed(format=FORMAT, checkpoints=shown), "entry")


@pytest.mark.parametrize("changes", [{"kind": "other"}, {"checkpoints": 1}, {"leader": {"id": "x"}}, {"format": "x"}])
def test_a_nonsense_entry_is_damage(changes: dict[str, object]) -> None:
    """An entry of nonsense under a good checksum is damage. Guards against a traceback out of the parser."""
    with pytest.raises(CheckpointDamaged):
        decode(resealed(**changes), "entry")


def test_an_empty_log_has_no_tail(store: Store) -> None:
    """An empty log has no tail. Guards against a new run that is taken for an unreadable one."""
    assert Log(store).tail() is None
    assert Log(store).read(0) is None


def test_the_tail_is_the_last_entry(store: Store) -> None:
    """The tail is the last entry. Guards against an entry that is overlooked at the end of the log."""
    log = Log(store)
    for number in range(12):
        assert log.publish(entry(number), 0) == Published()
        assert log.tail() == entry(number)
    assert log.tail(hint=0) == log.tail(hint=11) == entry(11)
    assert log.read(7) == entry(7)


def test_a_listing_that_lags_behind_is_only_slower(store: Store) -> None:
    """A listing that lags costs requests, not correctness. Guards against a tail that is not the last, and so a fork of
    the log, on object stores and NFS."""

    class Stale(FaultyStore):
        shown = 0

        def list(self, folder: str = "", start: str = "") -> list[str]:
            return [name for name in super().list(folder)[: self.shown] if name.startswith(start)]

    stale = Stale(store)
    for number in range(5):
        Log(stale).publish(entry(number), 0)
    for stale.shown in range(6):
        assert Log(stale).tail() == entry(4)


def long_log(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> Log:
    """A log in a folder, too long to be written entry by entry: only the last ones say anything."""
    monkeypatch.setattr("holdfast_storage.log.log.BLOCK_DIGITS", 1)
    for number in range(count):
        assert Log(store).publish(entry(number), 0) == Published()
    return Log(store)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 19, 20, 21, 39, 40, 41, 75, 160])
def test_the_tail_of_a_long_log(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The tail of a long log is found in any block. Guards against a bisection that ends a block too early, and a fork
    of the log."""
    assert long_log(store, monkeypatch, count).tail() == entry(count - 1)


def test_a_long_log_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log is not listed as a whole. Guards against 200 requests, one after the other, to find the last of
    200,000 entries."""
    store = FaultyStore(new_store("posix", tmp_path))
    long_log(store, monkeypatch, 155)
    store.calls.clear()
    assert Log(store).tail() == entry(154)
    assert [verb for verb, _ in store.calls].count("list") == 2
    assert len(store.calls) < 14
    store.calls.clear()
    long_log(store, monkeypatch, 0)
    assert Log(store).tail(hint=154) == entry(154)
    assert len(store.calls) == 2
    store.calls.clear()
    assert Log(store).tail(hint=3) == entry(154)
    assert len(store.calls) < 40, "not one after the other"


@pytest.mark.parametrize("denied", [{20}, {40}, {80}, {40, 50}, {20, 40, 80}, {70, 80}])
def test_a_mount_that_denies_what_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: set[int]
) -> None:
    """The tail is at least what a full listing shows, even if a mount denies names that it was asked for too early.
    Guards against an old tail on a host that has looked for an entry before it was made."""

    class Denying(FaultyStore):
        def size(self, name: str) -> int | None:
            return None if name in {log_entry(number) for number in denied} else super().size(name)

    store = Denying(new_store("posix", tmp_path))
    assert long_log(store, monkeypatch, 95).tail() == entry(94)


def test_a_list_of_a_long_log_that_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact names find the tail if the listing shows nothing. Guards against a list that lags far behind."""

    class Blind(FaultyStore):
        def list(self, folder: str = "", start: str = "") -> list[str]:
            return super().list(folder, start) if start == "00000000000" else []

    assert long_log(Blind(new_store("posix", tmp_path)), monkeypatch, 57).tail() == entry(56)


def test_files_that_are_no_entries_are_passed_over(store: Store) -> None:
    """Other files in the log's folder are ignored. Guards against a user's file that stops the run."""
    Log(store).publish(entry(0), 0)
    store.write(f"{LOG_FOLDER}/notes.txt", [b"x"])
    assert Log(store).tail() == entry(0)


def test_a_torn_entry_at_the_end_is_not_the_tail(store: Store) -> None:
    """An entry at the end that is cut off is not the tail. Guards against a crash in the middle of an entry, without
    hard links, that makes the run unreadable."""
    Log(store).publish(entry(0), 0)
    store.write(log_entry(1), [encode(entry(1))[:50]])
    assert Log(store).tail() == entry(0)
    assert Log(store).tail(hint=0) == entry(0)


def test_a_damaged_tail_is_an_error(store: Store) -> None:
    """A damaged last entry is an error. Guards against a last commit that is silently forgotten because its entry has
    rotted."""
    Log(store).publish(entry(0), 0)
    damaged = bytearray(encode(entry(1)))
    damaged[40] ^= 1
    store.write(log_entry(1), [damaged])
    with pytest.raises(CheckpointDamaged, match=log_entry(1)):
        Log(store).tail()


def test_an_entry_in_another_slot_is_damage(store: Store) -> None:
    """An entry under another entry's name is damage. Guards against an entry that was copied to where it does not
    belong."""
    store.write(log_entry(0), [encode(entry(1))])
    with pytest.raises(CheckpointDamaged, match="holds entry 1"):
        Log(store).tail()


def test_an_unreadable_log_is_not_an_empty_one(store: Store) -> None:
    """An unreadable log is an error, not an empty log. Guards against a fresh start of a run whose storage did not
    answer for a moment."""
    Log(store).publish(entry(0), 0)
    for verb in ("list", "read"):
        with pytest.raises(StorageError):
            Log(FaultyStore(store, {(verb, 0): "fail"})).tail()


def test_the_loser_is_told_who_won(store: Store) -> None:
    """The loser of a slot gets the winner's entry. Guards against a coordinator that does not learn that it was
    superseded."""
    assert Log(store).publish(entry(0, "theirs"), 0) == Published()
    assert Log(store).publish(entry(0), 10) == LostRace(entry(0, "theirs"))


def test_one_of_eight_publishers_wins(store: Store) -> None:
    """Exactly one of eight publishers wins a slot. Guards against two that believe they have won, or none."""
    start = threading.Barrier(8)
    outcomes: dict[int, object] = {}

    def publish(who: int) -> None:
        start.wait()
        outcomes[who] = Log(store).publish(entry(0, str(who)), 10)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (who for who in outcomes if outcomes[who] == Published())
    assert all(outcomes[who] == LostRace(entry(0, str(winner))) for who in outcomes if who != winner)


CASES: list[tuple[dict[tuple[str, int], Fault], object]] = [
    ({}, Published()),
    ({("create", 0): "lose"}, Published()),
    ({("create", 0): "fail"}, Published()),
    ({("create", 0): "lose", ("read", 0): "fail"}, Published()),
    ({("create", 0): "lose", ("read", 0): "fail", ("create", 1): "refuse"}, Published()),
    ({("create", 0): "fail", ("create", 1): "fail", ("create", 2): "lose"}, Published()),
    ({("create", 0): "delay", ("create", 1): "fail"}, Published()),
    ({("create", 0): "refuse"}, NotPublished("")),
    ({("create", n): "fail" for n in range(99)}, Unknown("")),
    ({("create", n): "delay" for n in range(99)}, Unknown("")),
    ({("create", 0): "delay", **{("create", n): "refuse" for n in range(1, 99)}}, Unknown("")),
    ({("create", 0): "lose", **{("read", n): "fail" for n in range(99)}}, Unknown("")),
]


@pytest.mark.parametrize(("faults", "expected"), CASES)
def test_outcomes_of_a_storage_that_fails(
    store: Store, faults: dict[tuple[str, int], Fault], expected: Published | NotPublished | Unknown
) -> None:
    """Each outcome of `publish` is what the storage has really done. Guards against a success reported as a failure, a
    failure as a success, or something unknown as either."""
    faulty, clock = FaultyStore(store, faults), Clock()
    outcome = Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0), 10)
    assert type(outcome) is type(expected)
    assert clock.now <= 10
    if isinstance(outcome, Published):
        assert Log(store).read(0) == entry(0)
    else:
        assert log_entry(0) in outcome.reason  # type: ignore[union-attr]
    if isinstance(outcome, NotPublished):
        faulty.land()
        assert Log(store).read(0) is None
    assert {name for _, name in faulty.calls} == {log_entry(0)}, "only that slot is ever tried"


def test_a_request_that_lands_late_is_still_ours(store: Store) -> None:
    """A request that lands late counts as published. Guards against a 404 taken for an answer: the PUT arrives
    afterwards, and a commit that was reported as failed stands."""
    faulty = FaultyStore(store, {("create", n): "delay" for n in range(3)})
    clock = Clock(faulty, land_at=0.01)
    assert Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0), 10) == Published()


def test_a_slot_that_cannot_be_read_is_unknown(store: Store) -> None:
    """A slot that is taken and cannot be read is an unknown outcome. Guards against a race that is reported as lost to
    nobody, because of an unfinished entry."""
    store.write(log_entry(0), [b"{"])
    clock = Clock()
    outcome = Log(store, clock=clock, sleep=clock.sleep).publish(entry(0), 5)
    assert isinstance(outcome, Unknown)
    assert "cannot be read" in outcome.reason
    assert clock.now == 5


def test_an_unknown_is_settled_by_another_entry_in_the_slot(store: Store) -> None:
    """Another entry in the slot settles an unknown outcome. Guards against a request that lands after its failure was
    reported."""
    faulty, clock = FaultyStore(store, {("create", n): "delay" for n in range(99)}), Clock()
    assert isinstance(Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0), 1), Unknown)
    abort = replace(entry(0, "abort"), kind="abort")
    assert Log(store).publish(abort, 1) == Published()
    faulty.land()
    assert Log(store).read(0) == abort


def test_an_entry_of_a_copy_of_this_process_is_not_ours(tmp_path: Path) -> None:
    """An entry is ours only if all of it is what we wrote. Guards against two processes restored from one machine's
    memory that take each other's entries for their own, and report commits that they have not made."""
    log = Log(new_store("posix", tmp_path))
    theirs = replace(entry(0), time=2.0)
    assert log.publish(theirs, 0.0) == Published()
    assert log.publish(entry(0), 0.0) == LostRace(theirs)
    assert log.publish(theirs, 0.0) == Published(), "a lost reply"
