"""What readers and coordinators find in a run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import Base, Manifest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import log_entry
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from holdfast_storage.run_directory import import_state, orphans, read_run
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store
from support.faulty_store import FaultyStore
from support.passing_store import PassingStore
from support.stores import KINDS, new_store

T = TypeVar("T")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


def put(store: Store, number: int, time: float, generation: str = "0000000a") -> bytes:
    """A folder of ours, with a manifest."""
    folder = f"ckpt-{number}.{generation}.{number}"
    data = Manifest(f"{folder}/ckpt-{number}", number, time, generation, (Task("worker", 0),), ()).to_bytes()
    store.write(f"{folder}/manifest.json", [data])
    return data


def test_an_empty_directory(store: Store) -> None:
    """An empty directory is a new run. Guards against a new run that looks like one that has lost everything."""
    assert read_run(store) is None
    assert import_state(store, "id") == LogState("id")


def test_the_log_decides(store: Store) -> None:
    """The log decides what is committed. Guards against restoring a folder that was never committed, because it is
    there."""
    put(store, 1, 1.0)
    state = LogState("id")
    Log(store).publish(Entry(0, "lead", "w", 1.0, state), 0)
    assert read_run(store) == state


def test_a_log_that_is_begun_while_one_looks(store: Store) -> None:
    """A log that appears meanwhile decides. Guards against the manifest of a save in flight, taken for a checkpoint of
    a copied run."""
    state = LogState("id")

    class Begun(PassingStore):
        def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
            if (verb, name) == ("list", "") and not store.list():
                Log(store).publish(Entry(0, "lead", "w", 1.0, state), 0)
                put(store, 1, 1.0)
            return effect()

    assert read_run(Begun(store)) == state


def test_a_copy_without_its_log(store: Store) -> None:
    """A copy without its log has its checkpoints in order. Guards against a copied run in which nothing is found, or
    the newest is chosen by number or by name."""
    data = put(store, 9, 2.0)
    put(store, 10, 1.0, "0000000b")
    store.write("ckpt-11.0000000a.11/ckpt-11.index", [b"an attempt that never came to its manifest"])
    store.write("notes/manifest.json", [b"{}"])
    state = read_run(store)
    assert state is not None
    assert [(r.prefix, r.step, r.time, r.stock) for r in state.checkpoints] == [
        ("ckpt-10.0000000b.10/ckpt-10", 10, 1.0, False),
        ("ckpt-9.0000000a.9/ckpt-9", 9, 2.0, False),
    ]
    assert state.checkpoints[1].manifest_crc32c == crc32c(data)
    assert import_state(store, "id").run_id == "id"


def put_delta(store: Store, number: int, on: int, data: bytes) -> bytes:
    """A folder of a delta, on one with this manifest."""
    prefixes = [f"ckpt-{n}.0000000a.{n}/ckpt-{n}" for n in (on, number)]
    base, world = Base(prefixes[0], crc32c(data)), (Task("worker", 0),)
    manifest = Manifest(prefixes[1], number, float(number), "0000000a", world, (), base=base).to_bytes()
    store.write(f"ckpt-{number}.0000000a.{number}/manifest.json", [manifest])
    return manifest


def test_a_copy_of_a_delta_without_its_base(store: Store) -> None:
    """In a copy without a log, a delta counts if the very checkpoint is there on which it was saved, and is damaged
    otherwise. Guards against rows that are put into another checkpoint of that name."""
    full = put(store, 1, 1.0)
    first = put_delta(store, 2, 1, full)
    put_delta(store, 3, 2, first)
    put_delta(store, 5, 4, full)  # which was not copied
    put_delta(store, 6, 1, full + b" ")  # another one had this name
    state = import_state(store, "id")
    assert [record.step for record in state.restorable] == [1, 2, 3]
    assert [bool(record.base) for record in state.checkpoints] == [False, True, True, True, True]
    Log(store).publish(Entry(0, "import", "w", 1.0, state), 0)
    assert read_run(store) == state
    assert b"ckpt-2" not in state_file.to_bytes(state)


def test_a_copy_is_in_the_order_of_the_state_file(store: Store) -> None:
    """A copy has the order of its state file. Guards against a copy that goes on from another checkpoint than stock
    TensorFlow, because a clock was set back between two saves."""
    for number, time in ((1, 7200.0), (2, 7201.0), (3, 3600.0)):
        put(store, number, time)
    state = read_run(store)
    assert state is not None
    assert [record.step for record in state.checkpoints] == [1, 2, 3]
    store.replace("checkpoint", state_file.to_bytes(state.restored(state.checkpoints[0].prefix)))
    state = read_run(store)
    assert state is not None
    assert [record.step for record in state.checkpoints] == [2, 3, 1]


def test_stock_checkpoints_and_ours(store: Store) -> None:
    """Stock checkpoints come before ours in a continued run. Guards against a run that TensorFlow began and Holdfast
    continued, whose beginning counts as the newest."""
    put(store, 3, 5.0)
    for number in (1, 2):
        store.write(f"ckpt-{number}.index", [b"x"])
    state = import_state(store, "id")
    assert [r.prefix for r in state.checkpoints] == ["ckpt-1", "ckpt-2", "ckpt-3.0000000a.3/ckpt-3"]
    assert [r.stock for r in state.checkpoints] == [True, True, False]


def test_a_copy_whose_manifests_are_all_damaged_is_not_empty(store: Store) -> None:
    """A copy with only damaged manifests is not empty. Guards against training that starts from scratch over the
    remains of its checkpoints."""
    store.write("ckpt-7.0000000a.1/manifest.json", [b"{"])
    state = read_run(store)
    assert state is not None
    assert [r.step for r in state.checkpoints] == [7]
    assert state.restorable == ()


@pytest.mark.parametrize("fault", [("list", 0), ("read", 0), ("list", 1), ("read", 1)])
def test_an_unreadable_directory_is_not_empty(store: Store, fault: tuple[str, int]) -> None:
    """An unreadable directory is an error. Guards against training that starts from scratch because the storage did not
    answer for a moment."""
    put(store, 1, 1.0)
    with pytest.raises(StorageError):
        read_run(FaultyStore(store, {fault: "fail"}))


class TestOrphans:
    """What earlier generations left behind. `0000000a` leads first, `0000000c` last."""

    def run(self, store: Store, saves: int = 9) -> Entry:
        """Each generation commits every save but its third and its last; two checkpoints are kept."""
        state, number = LogState("id"), -1

        def add(following: LogState, kind: str = "commit") -> None:
            nonlocal state, number
            state, number = following, number + 1
            Log(store).publish(Entry(number, kind, f"w{number}", 0.0, state), 0)  # type: ignore[arg-type]

        for generation in ("0000000a", "0000000b", "0000000c"):
            add(state.lead(Leader(generation, "", ""), Generation(generation, ())), "lead")
            for ordinal in range(1, saves + 1):
                folder = f"ckpt-{ordinal}.{generation}.{ordinal}"
                store.write(f"{folder}/manifest.json", [b"{}"])
                if ordinal in (3, saves):
                    continue
                add(state.commit(CheckpointRecord(f"{folder}/ckpt-{ordinal}", ordinal, 0.0)))
                if len(state.checkpoints) > 2:
                    add(state.retire((state.checkpoints[0].prefix,), (), None), "retire")
        return Entry(number, "commit", f"w{number}", 0.0, state)

    def test_what_was_never_committed_is_found(self, store: Store) -> None:
        """Orphans are found, and only they. Guards against failed saves of years that fill the disk, and deleting a
        checkpoint that somebody has copied back."""
        last = self.run(store)
        there = {name for name in store.list() if name.startswith("ckpt-")}
        assert len(there) == 3 * 9, "also those that were retired, as a person would copy them back"
        found = orphans(store, last)
        assert sorted(found) == [f"ckpt-{n}.0000000{g}.{n}" for n in (3, 9) for g in "ab"]
        assert orphans(store, Entry(last.number, "retire", "w", 0.0, last.state.discard(found))) == ()

    def test_what_never_led_here_is_not_ours_to_judge(self, store: Store) -> None:
        """Folders of generations that never led here are left alone. Guards against deleting a checkpoint of another
        run, or a part of it that is still being copied."""
        last = self.run(store)
        before = orphans(store, last)
        for name in (
            "ckpt-3.0badcafe.3/manifest.json",
            "ckpt-4.0badcafe.4/ckpt-4.index",
            "0000000a/x",
            "a-3.0000000a/x",
        ):
            store.write(name, [b""])
        assert orphans(store, last) == before

    def test_only_after_the_reign(self, store: Store) -> None:
        """Only generations that lead no more have orphans. Guards against deleting the save that is being written, or
        one that a restarted coordinator will finish."""
        last = self.run(store)
        state = last.state.lead(Leader("successor", "", ""), Generation("0000000c", ()))
        found = orphans(store, Entry(last.number + 1, "lead", "w", 0.0, state))
        assert not [folder for folder in found if "0000000c" in folder]

    def test_a_log_that_cannot_be_read_condemns_nothing(self, store: Store) -> None:
        """If a log entry cannot be read, nothing is an orphan. Guards against deleting a checkpoint that was copied
        back, because the entry that knows it does not answer."""
        last = self.run(store)
        faulty = FaultyStore(store, {("read", 0): "fail"})
        with pytest.raises(StorageError):
            orphans(faulty, last)

    def test_an_entry_that_has_rotted_condemns_nothing(self, store: Store) -> None:
        """If a log entry has rotted, nothing is an orphan. Guards against the same, for good."""
        last = self.run(store)
        for number in range(last.number):
            store.replace(log_entry(number), b"x}}\n")
        with pytest.raises(CheckpointDamaged):
            orphans(store, last)
