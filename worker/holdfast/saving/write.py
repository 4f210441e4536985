"""Writes one worker's part of a checkpoint, straight from the buffers of the snapshot.

Only small tensors are copied: they are joined to runs of up to a MiB. Only slices are read twice, since their checksums
are not known yet. The CRC32C of an object is combined from those of its tensors. The rows of a table that have changed,
if it is saved by rows, are gathered a MiB at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.saving.plan import DataObject, Part, Piece, Plan, row_size
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_protos.v1.coordinator_pb2 import StoredObject
from holdfast_storage import layout
from holdfast_storage.bundle.crc import combine, crc32c, mask
from holdfast_storage.bundle.index import full_record, header_record, slice_record, write_index
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import LOCAL_SUFFIX
from holdfast_storage.parallel import in_parallel
from holdfast_storage.store.base import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from holdfast.saving.increments import Changes

Progress = Callable[[int], None]
"""Receives the number of bytes handed to the storage, from several threads. An error in it ends the write."""

_CHUNK = 8 << 20  # handed to the storage at once
_SMALL = 256 << 10  # smaller runs are joined with their neighbours
_JOIN = 1 << 20

_INT64 = 9  # tensorflow.DataType
_NUMBER = 8  # bytes of a row's number

_Record = tuple[bytes, BundleEntry]


@dataclass(frozen=True, slots=True)
class Written:
    """What a worker reports after writing."""

    objects: tuple[StoredObject, ...]
    entries: tuple[tuple[bytes, BundleEntry], ...]  # for the stock index: table key and record


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of bytes of an object, back to back with the run before."""

    data: memoryview | bytes
    crc32c: int  # not masked

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[memoryview | bytes]:
        for start in range(0, len(self.data), _CHUNK):
            yield self.data[start : start + _CHUNK]

    def follow(self, crc: int) -> int:
        """Return the checksum of what has the checksum `crc` with this run behind it."""
        # For a small run, reading it again is faster than the arithmetic.
        return crc32c(self.data, crc) if self.size < _SMALL else combine(crc, self.crc32c, self.size)


@dataclass(slots=True, eq=False)
class _Rows:
    """A run that is gathered from the rows of a table while it is written, so that there is no second copy of them."""

    table: memoryview | bytes  # whole rows
    row: int  # bytes
    numbers: NDArray[np.int64]  # of the rows, in `table`
    record: _Record  # gets its checksum when all is written
    crc32c: int = 0

    @property
    def size(self) -> int:
        return len(self.numbers) * self.row

    def chunks(self) -> Iterator[memoryview | bytes]:
        from holdfast.saving.rows import table

        rows, step = table(self.table, self.row), _JOIN // self.row
        for start in range(0, len(self.numbers), step):
            chunk = rows[self.numbers[start : start + step]].data.cast("B")
            self.crc32c = crc32c(chunk, self.crc32c)
            yield chunk
        self.record[1].crc32c = mask(self.crc32c)

    def follow(self, crc: int) -> int:
        return combine(crc, self.crc32c, self.size)


def write_objects(
    store: Store,
    prefix: str,
    plan: Plan,
    worker: int,
    snapshot: Snapshot,
    *,
    crcs: Sequence[int] | None,
    changes: Changes | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Make one worker's data objects durable.

    Args:
        store: the run directory.
        prefix: the attempt's prefix, relative to the run directory.
        plan: the plan for the specs of this snapshot. `worker` is the number of the part to write; 0 is the chief's.
        snapshot: the state.
        crcs: the unmasked CRC32C of each tensor, where the vote has needed them.
        changes: of a delta: what is written by rows. The prefix is then that of its bundle.
        threads: how many objects to write at a time. Default: what suits the store.
        progress: see `Progress`.

    Raises:
        StorageError: an object could not be made durable. Others may have been; they are part of no commit.
    """

    def write(item: DataObject) -> tuple[StoredObject, list[_Record]]:
        runs, records = _assembled(item, snapshot, crcs, changes)
        name = layout.data_object(prefix, item.shard, plan.num_shards)
        return _store(store, name, _folder(prefix), runs, role="data", progress=progress), records

    written = in_parallel(write, plan.parts[worker].objects, threads or store.parallel)
    entries = [record for _, records in written for record in records]
    if worker == 0:
        tables = changes.tables if changes is not None else ()
        for position, slices in ((p, s) for p, s in plan.sliced.items() if p not in tables):
            tensor = snapshot.tensors[position]
            entries.append(header_record(tensor.key, tensor.dtype, tensor.shape, slices))
    return Written(tuple(stored for stored, _ in written), tuple(entries))


def size_of(part: Part, snapshot: Snapshot, changes: Changes | None) -> int:
    """Return the bytes of all pieces that a worker writes of its part."""

    def size(piece: Piece) -> int:
        if changes is None or piece.position not in changes.tables:
            return piece.end - piece.begin
        row = row_size(snapshot.tensors[piece.position].spec)
        return len(changes.rows[piece.position, piece.begin]) * (_NUMBER + row)

    return sum(size(piece) for item in part.objects for piece in item.pieces)


def worker_local_tensors(
    snapshot: Snapshot, worker_local: Iterable[int], per_worker: Snapshot | None = None
) -> list[SnapshotTensor]:
    """Return this worker's own tensors: worker-local values, replicas, and its `per_worker` objects.

    Raises InvalidRequest if `per_worker` holds a distributed variable.
    """
    tensors = [replace(t, key=t.key + LOCAL_SUFFIX) for t in (snapshot.tensors[position] for position in worker_local)]
    tensors += snapshot.replicas
    if per_worker is not None:
        if per_worker.replicas:
            key = per_worker.replicas[0].key
            raise InvalidRequest(
                f"per_worker holds a distributed variable ({key}): give it to the checkpoint itself, which keeps every"
                " worker's values",
                object=key,
            )
        tensors += [*per_worker.tensors, per_worker.object_graph]
    return tensors


def write_worker_local(
    store: Store, folder: str, task: Task, tensors: Sequence[SnapshotTensor], *, progress: Progress | None = None
) -> tuple[StoredObject, ...]:
    """Make a worker's own bundle durable, a stock checkpoint with its index. Does nothing without tensors.

    Raises StorageError if it cannot be made durable.
    """
    if not tensors:
        return ()
    runs, records, offset = [], [], 0
    for tensor in tensors:
        crc = crc32c(tensor.data)
        runs.append(_Run(tensor.data, crc))
        records.append(_whole(tensor, 0, offset, crc))
        offset += len(tensor.data)
    prefix = layout.local_prefix(folder, task)
    data = _store(store, layout.data_object(prefix, 0, 1), folder, runs, role="local", progress=progress)
    table = write_index(1, [(key, entry.SerializeToString()) for key, entry in records])
    index = _store(
        store, layout.index_object(prefix), folder, [_Run(table, crc32c(table))], role="local", progress=progress
    )
    return (data, index)


def write_assets(store: Store, folder: str, assets: Mapping[str, bytes]) -> tuple[StoredObject, ...]:
    """Make small files of a checkpoint durable, which have names relative to its folder.

    Raises StorageError if one cannot be made durable.
    """
    runs = {name: [_Run(data, crc32c(data))] for name, data in assets.items()}
    return tuple(
        _store(store, f"{folder}/{name}", folder, run, role="asset", progress=None) for name, run in runs.items()
    )


def _assembled(
    item: DataObject, snapshot: Snapshot, crcs: Sequence[int] | None, changes: Changes | None
) -> tuple[list[_Run | _Rows], list[_Record]]:
    """Return the bytes of an object and its index entries."""
    runs: list[_Run | _Rows] = []
    records: list[_Record] = []
    offset = 0

    def add(*parts: tuple[_Run | _Rows, _Record]) -> None:
        nonlocal offset
        for run, record in parts:
            runs.append(run)
            records.append(record)
            offset += run.size

    for piece in item.pieces:
        tensor = snapshot.tensors[piece.position]
        if changes is not None and piece.position in changes.tables:
            add(*_rows(piece, item.shard, offset, tensor, changes.rows[piece.position, piece.begin]))
        else:
            crc = None if crcs is None else crcs[piece.position]
            add(_piece(piece, item.shard, offset, tensor, crc))
    if item.shard == 0:
        for tensor in [*(t for t in snapshot.tensors if t.encoded), snapshot.object_graph]:
            crc = crc32c(tensor.data)
            add((_Run(tensor.data, crc), _whole(tensor, item.shard, offset, crc)))
    return runs, records


def _piece(piece: Piece, shard: int, offset: int, tensor: SnapshotTensor, crc: int | None) -> tuple[_Run, _Record]:
    if piece.extents is None:
        crc = crc32c(tensor.data) if crc is None else crc
        return _Run(tensor.data, crc), _whole(tensor, shard, offset, crc)
    data = tensor.data[piece.begin : piece.end]
    crc = crc32c(data)
    record = slice_record(
        tensor.key,
        tensor.dtype,
        piece.extents,
        shard=shard,
        offset=offset,
        size=len(data),
        crc32c=mask(crc),
    )
    return _Run(data, crc), record


def _rows(
    piece: Piece, shard: int, offset: int, tensor: SnapshotTensor, changed: NDArray[np.int64]
) -> Iterator[tuple[_Run | _Rows, _Record]]:
    """Yield what a delta has of a piece of a table: the numbers of the rows that have changed, and these rows."""
    row, count = row_size(tensor.spec), len(changed)
    names = layout.Piece(tensor.key, piece.first_row)
    data = (changed + piece.first_row).data.cast("B") if count else b""
    crc = crc32c(data)
    size = len(data)
    yield (
        _Run(data, crc),
        full_record(names.rows, _INT64, (count,), shard=shard, offset=offset, size=size, crc32c=mask(crc)),
    )
    shape = (count, *tensor.shape[1:])
    record = full_record(
        names.values, tensor.dtype, shape, shard=shard, offset=offset + size, size=count * row, crc32c=0
    )
    yield _Rows(tensor.data[piece.begin : piece.end], row, changed, record), record


def _whole(tensor: SnapshotTensor, shard: int, offset: int, crc: int) -> _Record:
    # The checksum of an encoding is not that of its bytes.
    crc = mask(crc) if tensor.encoded_crc32c is None else tensor.encoded_crc32c
    if tensor.extents is not None:
        return slice_record(
            tensor.key, tensor.dtype, tensor.extents, shard=shard, offset=offset, size=len(tensor.data), crc32c=crc
        )
    return full_record(
        tensor.key,
        tensor.dtype,
        tensor.shape,
        shard=shard,
        offset=offset,
        size=len(tensor.data),
        crc32c=crc,
    )


def _folder(prefix: str) -> str:
    return prefix.rpartition("/")[0]


def _store(
    store: Store, name: str, folder: str, runs: Sequence[_Run | _Rows], *, role: str, progress: Progress | None
) -> StoredObject:
    size = store.write(name, _chunks(runs, progress))
    return StoredObject(name=name.removeprefix(f"{folder}/"), size=size, crc32c=_joined_crc(runs), role=role)


def _chunks(runs: Sequence[_Run | _Rows], progress: Progress | None) -> Iterator[memoryview | bytes]:
    for chunk in _joined(runs):
        yield chunk
        if progress is not None:
            progress(len(chunk))


def _joined(runs: Sequence[_Run | _Rows]) -> Iterator[memoryview | bytes]:
    """Yield the bytes of all runs, small ones joined, large ones in parts."""
    small: list[memoryview | bytes] = []
    size = 0
    for run in runs:
        if run.size < _SMALL:
            small += run.chunks()
            size += run.size
        if size >= _JOIN or (small and run.size >= _SMALL):
            yield b"".join(small)
            small, size = [], 0
        if run.size >= _SMALL:
            yield from run.chunks()
    if small:
        yield b"".join(small)


def _joined_crc(runs: Sequence[_Run | _Rows]) -> int:
    crc = 0
    for run in runs:
        crc = run.follow(crc)
    return crc
