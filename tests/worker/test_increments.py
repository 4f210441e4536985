"""What one save hands on to the next: which save is full, what a delta holds, and what it becomes on its base."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast
from holdfast.saving.digest import spec_digest, tensor_crcs
from holdfast.saving.increments import Changes, Increments
from holdfast.saving.plan import Plan, Spec, plan
from holdfast.saving.shares import Share, plan_shares
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.saving.tables import FEWEST_ROWS, tables
from holdfast.saving.write import size_of, write_objects
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.index import write_index
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store.posix import PosixStore
from support.deltas import merged, touched
from support.light_worker import FLOAT, state

FOLDER = "ckpt-3.0badcafe.1"
PREFIX = f"{FOLDER}/ckpt-3"
BASE = "ckpt-2.0badcafe.1/ckpt-2"
HALF, STRING = 19, 7
SPEC = b"specs"


def tensor(key: str, shape: tuple[int, ...], dtype: int = FLOAT, item: int = 4) -> SnapshotTensor:
    size = int(np.prod(shape)) * item
    data = np.random.default_rng(len(key)).integers(0, 256, size, np.uint8).data
    return SnapshotTensor(key, dtype, shape, data, guarded=True)


def snapshot(tensors: Sequence[SnapshotTensor]) -> Snapshot:
    return Snapshot(tuple(sorted(tensors, key=lambda t: t.key.encode())), state().object_graph)


def two_tables() -> Snapshot:
    """Two tables, one of which TensorFlow does not read in slices, and what is no table."""
    return snapshot(
        [
            tensor("table", (20_000, 16)),
            tensor("slot/odd", (30_000, 3, 7), HALF, 2),
            tensor("bias", (50_000,)),
            tensor("kernel", (100, 500)),
            tensor("small", (10, 3)),
        ]
    )


class Worker:
    """One worker that saves without a coordinator."""

    def __init__(self, number: int, full_every: int = 100) -> None:
        self.number = number
        self.increments = Increments(holdfast.Incremental(full_every=full_every))

    def changes(self, saved: Snapshot, made: Plan) -> Changes:
        digest = spec_digest(saved.specs)
        found = tables(saved.specs, made)
        base = self.increments.base(digest)
        return self.increments.changes(base, digest, saved, plan=made, worker=self.number, tables=found)

    def save(self, saved: Snapshot, made: Plan) -> None:
        self.increments.committed(BASE, self.changes(saved, made))


def written(store: PosixStore, saved: Snapshot, workers: Sequence[Worker], by_chief: Sequence[int] = ()) -> int:
    """Write a delta, and return its bytes."""
    made = plan(saved.specs, len(workers), by_chief)
    prefix = layout.delta_prefix(PREFIX)
    records, size = [], 0
    for worker in workers:
        changes = worker.changes(saved, made)
        assert changes.base == BASE
        part = write_objects(
            store, prefix, made, worker.number, saved, crcs=tensor_crcs(saved.tensors), changes=changes
        )
        assert size_of(made.parts[worker.number], saved, changes) == sum(stored.size for stored in part.objects) - (
            len(saved.object_graph.data) if worker.number == 0 else 0
        )
        records += [(key, entry.SerializeToString()) for key, entry in part.entries]
        for stored in part.objects:
            data = store.read(f"{FOLDER}/{stored.name}")
            assert (len(data), crc32c(data)) == (stored.size, stored.crc32c)
        size += sum(stored.size for stored in part.objects)
        worker.increments.committed(PREFIX, changes)
    store.write(layout.index_object(prefix), [write_index(made.num_shards, records)])
    return size


def numbers(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, count - 1), max_size=30).map(lambda each: sorted(set(each)))


@settings(max_examples=25, deadline=None)
@given(workers=st.integers(1, 4), table=numbers(20_000), odd=numbers(30_000))
def test_a_delta_on_its_base_is_the_state(
    workers: int, table: list[int], odd: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Base and delta together are the state that was saved, and the delta has the rows that have changed and no other.
    Guards against a restore of what never was, and against deltas that save nothing."""
    store = PosixStore(str(tmp_path_factory.mktemp("run")))
    before = two_tables()
    after = touched(before, {"table": table, "slot/odd": odd, "small": [3]})
    crew = [Worker(number) for number in range(workers)]
    for worker in crew:
        worker.save(before, plan(before.specs, workers))
    size = written(store, after, crew)
    assert merged(store, PREFIX, before) == {each.key: bytes(each.data) for each in after.tensors}
    whole = sum(len(each.data) for each in after.tensors if each.key not in ("table", "slot/odd"))
    assert size == whole + len(after.object_graph.data) + len(table) * (8 + 64) + len(odd) * (8 + 42)
    # Nothing is left over for the next one.
    made = plan(after.specs, workers)
    assert all(not len(rows) for worker in crew for rows in worker.changes(after, made).rows.values())


def test_many_rows_are_written_in_parts(tmp_path: Path) -> None:
    """A delta of more rows than are gathered at once is whole. Guards against parts left out or taken twice."""
    before = snapshot([tensor("table", (300_000, 16))])
    after = touched(before, {"table": range(1, 300_000, 2)})
    worker = Worker(0)
    worker.save(before, plan(before.specs, 1))
    written(PosixStore(str(tmp_path)), after, [worker])
    assert merged(PosixStore(str(tmp_path)), PREFIX, before)["table"] == bytes(after.tensors[0].data)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Spec("embedding", FLOAT, (100_000, 16), 6_400_000), True),
        (Spec("a bias", FLOAT, (1_600_000,), 6_400_000), False),
        (Spec("a dense kernel", FLOAT, (FEWEST_ROWS - 1, 2048), (FEWEST_ROWS - 1) * 8192), False),
        (Spec("small", FLOAT, (10_000, 8), 320_000), False),
        (Spec("long rows", FLOAT, (10_000, 8_000), 320_000_000), False),
        (Spec("names", STRING, (100_000, 16), 6_400_000, encoded=True), False),
        (Spec("nothing", FLOAT, (0, 16), 0), False),
    ],
    ids=lambda each: each.key if isinstance(each, Spec) else "",
)
def test_tables_are_found(spec: Spec, expected: bool) -> None:
    """Large tables, and only these, are saved by rows. Guards against digests of what is never saved by rows."""
    assert tables([spec], plan([spec], 2)) == (frozenset([0]) if expected else frozenset())


def test_every_worker_finds_its_own_pieces() -> None:
    """All workers find the same tables, and each keeps digests of its own pieces alone. Guards against a memory that
    grows with the world."""
    saved = two_tables()
    made = plan(saved.specs, 3)
    seen = [Worker(number).changes(saved, made).seen.digests for number in range(3)]
    assert sum(len(rows) for each in seen for rows in each.values()) == 20_000 + 30_000
    assert len({place for each in seen for place in each}) == sum(len(each) for each in seen)


def test_which_save_is_full() -> None:
    """The first save is full, and every `full_every`-th; after what is not known alike, the next. Guards against a
    delta on what is not the last commit of all workers."""
    saved = two_tables()
    made, worker = plan(saved.specs, 1), Worker(0, full_every=3)
    bases = []
    for number in range(7):
        changes = worker.changes(saved, made)
        bases.append(changes.base)
        worker.increments.committed(f"commit-{number}", changes)
    assert bases == ["", "commit-0", "commit-1", "", "commit-3", "commit-4", ""]
    worker.increments.forget()
    assert worker.changes(saved, made).base == ""


def test_other_tensors_or_another_plan_make_a_save_full() -> None:
    """If what is saved or who writes it changes, the save is full. Guards against rows that fit nothing, and pieces
    that nobody has written."""
    saved = two_tables()
    worker = Worker(0)
    worker.save(saved, plan(saved.specs, 2))
    assert worker.changes(saved, plan(saved.specs, 2)).base == BASE
    assert worker.increments.base(spec_digest(two_tables().specs[1:])) == ""
    moved = worker.changes(saved, plan(saved.specs, 2, by_chief=[4]))
    assert (moved.base, moved.tables, moved.rows) == ("", frozenset(), {})


def test_digests_are_those_of_the_last_commit() -> None:
    """What a save has seen counts once it is committed. Guards against rows that were written by a save which failed,
    and that no delta has."""
    before = two_tables()
    made, worker = plan(before.specs, 1), Worker(0)
    worker.save(before, made)
    after = touched(before, {"table": [7]})
    assert [len(rows) for rows in worker.changes(after, made).rows.values()].count(1) == 1
    # That one was not committed, and nobody has said so yet: the row is still new.
    again = worker.changes(after, made)
    assert sorted(number for rows in again.rows.values() for number in rows) == [7]


def test_a_table_of_which_all_changes_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """If most rows of a table change at each save, a line says so, once. Guards against incremental saves that are
    larger than full ones, for ever, and nobody knows."""
    caplog.set_level(logging.WARNING, "holdfast")
    saved, worker = two_tables(), Worker(0)
    made = plan(saved.specs, 1)
    worker.save(saved, made)
    for number in range(4):
        saved = touched(saved, {"table": range(number % 2, 20_000), "slot/odd": [number]})
        worker.save(saved, made)
        assert len(caplog.records) == (number >= 1)
    assert "most rows of table change" in caplog.text


@pytest.mark.parametrize("full_every", [0, 1, 1_001, 2.5, True, "3", None])
def test_what_cannot_be_meant_is_refused(full_every: object) -> None:
    """A policy that cannot work is refused when it is made. Guards against a run that finds out at its second save."""
    with pytest.raises(InvalidRequest, match=r"full_every is .*: it must be a whole number from 2 to 1,000"):
        holdfast.Incremental(full_every=full_every)  # type: ignore[arg-type]


def test_a_policy_comes_from_a_configuration_file_too() -> None:
    """Any number counts, and a policy shows as it is written. Guards against refusing what has only one meaning."""
    assert repr(holdfast.Incremental(full_every=20.0)) == "holdfast.Incremental(full_every=20)"  # type: ignore[arg-type]


def part(key: str, rows: tuple[int, int], width: int = 16) -> Share:
    begin, end = rows
    spec = Spec(key, FLOAT, (end - begin, width), 4 * width * (end - begin))
    return Share(spec, ((begin, end - begin), (0, width)))


def test_a_table_in_parts_is_judged_as_a_whole() -> None:
    """Of what lies on several servers, all have rows or none has, however small the parts. Guards against a delta with
    a table half of which is there whole."""
    whole = Share(Spec("whole", FLOAT, (20_000, 16), 1_280_000), None)
    small = Share(Spec("small", FLOAT, (10, 16), 640), None)
    wide = [Share(Spec("wide", FLOAT, (20_000, 8), 640_000), ((0, 20_000), (8 * n, 8))) for n in range(2)]
    shares = plan_shares(
        [
            [small],
            [part("table", (0, 19_500)), part("tiny", (0, 10)), wide[0]],
            [part("table", (19_500, 20_000)), part("tiny", (10, 20)), whole, wide[1]],
        ]
    )
    assert shares.tables == [frozenset(), frozenset([0]), frozenset([0, 2])]


def test_another_variable_of_the_same_size_is_another_plan() -> None:
    """A plan of what servers hold is known by keys and dtypes, too. Guards against a server that writes a new variable
    under the key of an old one, and against rows compared with those of another table."""
    digests = {
        plan_shares([[], [Share(Spec(key, dtype, (5, 5), 100), None)]]).digest
        for key, dtype in (("old", FLOAT), ("new", FLOAT), ("old", 3))
    }
    assert len(digests) == 3


def test_there_is_no_second_copy_of_a_table(tmp_path: Path) -> None:
    """To find and write all rows of a table takes a small part of its memory, and what stays is 8 bytes a row. Guards
    against servers that are bought for their tables, and die of their saves."""
    saved = snapshot([tensor("table", (256_000, 64))])  # 64 MB
    made, worker, store = plan(saved.specs, 1), Worker(0), PosixStore(str(tmp_path))
    worker.save(saved, made)
    saved = touched(saved, {"table": range(256_000)})
    tracemalloc.start()
    try:
        changes = worker.changes(saved, made)
        write_objects(store, layout.delta_prefix(PREFIX), made, 0, saved, crcs=(0,), changes=changes)
        worker.increments.committed(PREFIX, changes)
        _, peak = tracemalloc.get_traced_memory()
        del changes
        gc.collect()
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert now < 8 * 256_000 * 1.2
