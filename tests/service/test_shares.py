"""What a member may report: objects and index entries of its own, and together what was voted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from holdfast.saving.save import Save
from holdfast_coordinator import shares
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import layout
from holdfast_storage.bundle.crc import mask
from holdfast_storage.bundle.index import full_record, header_record, slice_record
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest, SaveFailed
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.light_worker import World, all_join, committed, outcomes
from support.reporting import counted

ME = Task("worker", 1)
FLOAT, STRING = 1, 7


def data(shard: int, of: int = 3) -> pb.StoredObject:
    return pb.StoredObject(name=f"ckpt-10.data-{shard:05d}-of-{of:05d}", role="data", size=8)


def entries(*records: tuple[bytes, Any]) -> list[pb.IndexEntry]:
    return [pb.IndexEntry(key=key, record=entry.SerializeToString()) for key, entry in records]


def whole(key: str, crc: int = 0, *, shard: int = 1, dtype: int = FLOAT) -> tuple[bytes, Any]:
    return full_record(key, dtype, (1,), shard=shard, offset=0, size=4, crc32c=mask(crc))


def test_what_is_a_members_own() -> None:
    """Shards of this checkpoint, and its own bundle. Guards against a check that refuses what is right."""
    own = [pb.StoredObject(name=f"local/worker-1.{end}", role="local") for end in ("index", "data-00000-of-00001")]
    shares.check_objects(ME, "ckpt-10", 3, [data(0), data(2), *own])


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("ckpt-10.data-00003-of-00003", "data"),
        ("ckpt-10.data-00001-of-00004", "data"),
        ("ckpt-10.data-1-of-3", "data"),
        ("ckpt-10.data-00001-of-00003", "local"),
        ("ckpt-11.data-00001-of-00003", "data"),
        ("local/../ckpt-10.data-00001-of-00003", "data"),
        ("ckpt-10.index", "data"),
        ("ckpt-10.index", "index"),
        ("manifest.json", "data"),
        ("local/worker-0.index", "local"),
        ("local/worker-1.index", "data"),
        ("local/worker-1.data-00001-of-00002", "local"),
        ("local/worker-1/x", "local"),
        ("assets/vocabulary.txt", "asset"),
        ("checkpoint", "data"),
        ("", ""),
    ],
)
def test_what_is_not(name: str, role: str) -> None:
    """It is refused by the member's name. Guards against a worker that puts its bytes in the place of another's."""
    with pytest.raises(InvalidRequest, match="worker-1 reports") as caught:
        shares.check_objects(ME, "ckpt-10", 3, [data(1), pb.StoredObject(name=name, role=role)])
    assert caught.value.workers == ("worker-1",)


def test_entries_in_another_members_data() -> None:
    """Entries lie in what the same report names. Guards against a worker that says what another one's bytes are."""
    sliced = [header_record("s", FLOAT, (4,), [((0, 2),), ((2, 2),)])]
    sliced += [slice_record("s", FLOAT, ((0, 2),), shard=1, offset=0, size=8, crc32c=0)]
    shares.check_entries(ME, [data(1)], entries(*sliced, whole("a")))
    with pytest.raises(InvalidRequest, match="reports 'a' in shard 0, which it has not written"):
        shares.check_entries(ME, [data(1)], entries(whole("a", shard=0)))
    with pytest.raises(InvalidRequest, match="in a form that cannot be read"):
        shares.check_entries(ME, [data(1)], [pb.IndexEntry(key=b"a", record=b"\xff\xff")])


@pytest.mark.parametrize(
    ("reported", "wrong"),
    [
        ([whole("a", 1), whole("b", 2)], ""),
        ([whole("b", 2), whole("a", 1)], ""),
        ([whole("a", 1), whole("b", 9, dtype=STRING)], ""),  # its checksum is that of an encoding
        ([whole("a", 1), header_record("b", FLOAT, (4,), [((0, 4),)])], ""),  # its slices have their own
        ([whole("a", 1), whole("b", 2), whole("_CHECKPOINTABLE_OBJECT_GRAPH", 5, dtype=STRING)], ""),
        ([whole("a", 1)], "voted for 2 tensors, and 1 were"),
        ([whole("a", 1), whole("b", 2), whole("c", 3)], "voted for 2 tensors, and 3 were"),
        ([whole("a", 1), whole("b", 3)], "another value of 'b'"),
        ([whole("a", 2), whole("b", 1)], "another value of 'a'"),
    ],
)
def test_reports_that_are_what_was_voted_for(reported: Iterable[tuple[bytes, Any]], wrong: str) -> None:
    """As many tensors, with these values. Guards against a commit that lacks a part, or holds another value than all
    workers have agreed on."""
    voted = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
    found = shares.check_entries(ME, [data(1)], entries(*reported))
    if not wrong:
        shares.check_vote(ME, voted, found)
        return
    with pytest.raises(InvalidRequest, match=wrong):
        shares.check_vote(ME, voted, found)


TABLE = layout.Piece("t", 0), layout.Piece("t", 500)


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ([key for piece in TABLE for key in (piece.rows, piece.values)], ""),
        ([TABLE[0].rows, TABLE[0].values, TABLE[1].rows], "its rows without values"),
        ([TABLE[0].rows, TABLE[1].values], "its rows without values"),
        ([TABLE[0].rows, TABLE[0].values, "t"], "as a whole"),
    ],
)
def test_pieces_of_a_delta_are_one_tensor(keys: list[str], wrong: str) -> None:
    """All pieces of a tensor count as that tensor, whose value was voted for, if each is complete. Guards against a
    delta that lacks the values of some rows, and one that every vote refuses."""
    found = shares.check_entries(ME, [data(1)], entries(whole("a", 1), *map(whole, keys)))
    if not wrong:
        assert shares.whole_tensors(ME, found) == {b"a": 1, b"t": None}
        return
    with pytest.raises(InvalidRequest, match=wrong):
        shares.whole_tensors(ME, found)


def _without_entries(chunks: list[pb.ReportChunk]) -> None:
    for chunk in chunks:
        del chunk.entries[:]


def _of_the_chief(chunks: list[pb.ReportChunk]) -> None:
    chunks[1].objects[0].name = "ckpt-2.data-00000-of-00002"


def _in_the_chiefs(chunks: list[pb.ReportChunk]) -> None:
    key, entry = whole("model/small-0", shard=0)
    chunks[1].entries.add(key=key, record=entry.SerializeToString())


@pytest.mark.parametrize("lie", [_without_entries, _of_the_chief, _in_the_chiefs])
def test_a_false_report_commits_nothing(
    world: World,
    coordinator: Coordinator,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[list[pb.ReportChunk]], None],
) -> None:
    """All are told who has reported it, and the next save commits. Guards against a damaged checkpoint that is told as
    committed."""
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    report = Save._report

    def lying(self: Save, *arguments: Any) -> list[pb.ReportChunk]:
        chunks = report(self, *arguments)
        if self.session.this_task.task == ME:
            lie(chunks)
        return counted(chunks)

    with monkeypatch.context() as patch:
        patch.setattr(Save, "_report", lying)
        for error in outcomes([worker.save(2) for worker in workers]):
            assert isinstance(error, SaveFailed)
            assert error.workers or "worker" in str(error)
    run = read_run(store)
    assert run is not None
    assert [record.step for record in run.checkpoints] == [1]
    assert outcomes([worker.save(3) for worker in workers]) == [None, None]
    assert [record.step for record in committed(store)] == [1, 3]
