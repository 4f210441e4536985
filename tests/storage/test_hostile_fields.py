"""Entries, pages, manifests and indexes that nobody writes, under checksums that hold: each is refused, by name."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given

from holdfast.restoring.contents import Contents
from holdfast_storage import layout
from holdfast_storage.checkpoint.index import read_index
from holdfast_storage.checkpoint.manifest import LARGEST, read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from holdfast_storage.layout import log_entry
from holdfast_storage.log.entries import LARGEST_ENTRY, decode, encode
from holdfast_storage.log.log import Log, NotPublished
from holdfast_storage.records import CheckpointRecord, Entry
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store
from support.hostile import (
    ENTRIES,
    ENTRY,
    FOLDER,
    INDEXES,
    MANIFESTS,
    PREFIX,
    WORKER,
    Change,
    IndexChange,
    write_run,
)
from support.written import ENTRIES as WRITTEN


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "run")


def test_a_sound_run(store: Store) -> None:
    """The run in which the rows change something is sound. Guards against rows that are refused for another reason."""
    write_run(store)
    state = read_run(store)
    assert state is not None
    manifest = read_manifest(store, state.checkpoints[0])
    assert set(read_index(store, PREFIX, manifest).tensors) == {
        "kernel/.ATTRIBUTES/VARIABLE_VALUE",
        layout.OBJECT_GRAPH_KEY,
    }
    assert verify_checkpoint(store, state.checkpoints[0]).verdict == "good"


@pytest.mark.parametrize(("change", "told"), ENTRIES.values(), ids=ENTRIES)
def test_entries(store: Store, change: Change, told: str) -> None:
    """An entry with an impossible field is damage that names it. Guards against whatever is made of the field: a
    traceback at every restart, a folder of somebody else that is deleted, an address that is called."""
    write_run(store, entry=change)
    with pytest.raises(CheckpointDamaged, match=told) as raised:
        Log(store).tail()
    assert len(str(raised.value)) < 1000
    assert raised.value.object


@pytest.mark.parametrize(("change", "told"), MANIFESTS.values(), ids=MANIFESTS)
def test_manifests(store: Store, change: Change, told: str) -> None:
    """A manifest with an impossible field is damage that names it, for every reader alike. Guards against a worker and
    the coordinator that disagree about a checkpoint, so that no restore goes on."""
    write_run(store, manifest=change)
    state = read_run(store)
    assert state is not None
    with pytest.raises(CheckpointDamaged, match=told):
        read_index(store, PREFIX, read_manifest(store, state.checkpoints[0]))
    report = verify_checkpoint(store, state.checkpoints[0])
    assert report.verdict == "damaged"
    with pytest.raises(CheckpointDamaged, match=told):
        report.raise_if_bad()


@pytest.mark.parametrize(("change", "told"), INDEXES.values(), ids=INDEXES)
def test_indexes(store: Store, change: IndexChange, told: str) -> None:
    """An index that leads to what is not there is damage. Guards against `verify` that finds a checkpoint good with
    which TensorFlow asks for terabytes or reads beyond the end."""
    write_run(store, index=change)
    state = read_run(store)
    assert state is not None
    report = verify_checkpoint(store, state.checkpoints[0])
    assert report.verdict == "damaged"
    with pytest.raises(CheckpointDamaged, match=told):
        report.raise_if_bad()


@pytest.mark.parametrize("size", [1 << 45, 1 << 60, (1 << 63) - 1])
def test_sizes_that_nothing_stands_behind(store: Store, size: int) -> None:
    """An object that is smaller than its manifest says is absent, after little work. Guards against a list of 2^34
    parts to be read, in a coordinator that serves others as well."""

    def change(fields: dict[str, object]) -> dict[str, object]:
        objects = fields["objects"]
        assert isinstance(objects, list)
        return fields | {"objects": [objects[0] | {"size": size}, objects[1]]}

    write_run(store, manifest=change)
    state = read_run(store)
    assert state is not None
    begun = time.process_time()
    tracemalloc.start()
    try:
        report = verify_checkpoint(store, state.checkpoints[0])
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 5.0
    assert report.verdict == "absent"
    assert [problem.object for problem in report.problems] == [f"{FOLDER}/ckpt-1.data-00000-of-00001"]


@pytest.mark.parametrize("row", ["beyond the end", "gigabytes", "terabytes", "offset 2^60"])
def test_a_stock_index_beyond_its_data(store: Store, row: str) -> None:
    """An index of TensorFlow's that leads beyond its data is absent data, before anything is read. Guards against a
    worker that takes memory for it."""
    write_run(store, index=INDEXES[row][0])
    for name in (layout.index_object("ckpt-1"), layout.data_object("ckpt-1", 0, 1)):
        store.write(name, [store.read(f"{FOLDER}/{name}")])
    record = CheckpointRecord("ckpt-1", 1, 0.0, stock=True)
    report = verify_checkpoint(store, record)
    assert (report.verdict, report.size) == ("absent", 0)
    with pytest.raises(CheckpointAbsent, match="before its contents do"):
        Contents.of(store, record, WORKER, [WORKER])


@pytest.mark.parametrize(
    ("name", "largest"),
    [(log_entry(1), LARGEST_ENTRY), (layout.manifest_object(FOLDER), LARGEST), (layout.index_object(PREFIX), 1000)],
)
def test_giants_are_not_read(store: Store, name: str, largest: int) -> None:
    """An object that is larger than any of its kind is damage, and is not read. Guards against a file of terabytes,
    which takes no space on a disk, in place of an entry."""
    write_run(store)
    path = Path(store.url, name)
    path.touch()
    with open(path, "r+b") as file:
        file.truncate(1 << 42)
    tracemalloc.start()
    if name == log_entry(1):
        with pytest.raises(CheckpointDamaged, match=f"more than {largest:,} bytes"):
            Log(store).tail()
    else:
        state = read_run(store)
        assert state is not None
        assert verify_checkpoint(store, state.checkpoints[0]).verdict == "damaged"
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_lies_beyond_a_hole_is_no_part_of_the_log(store: Store) -> None:
    """A name far beyond the log's end does not hide the log. Guards against one stray file with which a run looks
    empty, and is begun anew."""
    write_run(store)
    Path(store.url, log_entry(999)).write_bytes(b"x")
    last = Log(store).tail()
    assert last is not None
    assert last.number == 0


@given(WRITTEN)
def test_whatever_is_written_can_be_read(written: Entry) -> None:
    """What can be written can be read. Guards against an entry with which a coordinator closes its own run for ever."""
    assert decode(encode(written), "entry") == written


def test_what_cannot_be_read_is_not_written(store: Store) -> None:
    """An entry that nobody could read is not published. Guards against a member's name, or a clock, with which a
    coordinator closes its own run for ever."""
    outcome = Log(store).publish(Entry(0, "lead", "w\n", ENTRY.time, ENTRY.state), 1.0)
    assert isinstance(outcome, NotPublished)
    assert "write_id" in outcome.reason
    assert not store.list()
    assert json.loads(encode(ENTRY))
