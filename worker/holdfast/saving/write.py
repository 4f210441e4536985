"""Writes one worker's part of a checkpoint, straight from the buffers of the snapshot.

Only small tensors are copied: they are joined to runs of up to a MiB. Only slices are read twice, since their checksums
are not known yet. The CRC32C of an object is combined from those of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.saving.plan import DataObject, Piece, Plan
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

Progress = Callable[[int], None]
"""Receives the number of bytes handed to the storage, from several threads. An error in it ends the write."""

_CHUNK = 8 << 20  # handed to the storage at once
_SMALL = 256 << 10  # smaller runs are joined with their neighbours
_JOIN = 1 << 20

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


def write_objects(
    store: Store,
    prefix: str,
    plan: Plan,
    worker: int,
    snapshot: Snapshot,
    *,
    crcs: Sequence[int],
    threads: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Make one worker's data objects durable.

    Args:
        store: the run directory.
        prefix: the attempt's prefix, relative to the run directory.
        plan: the plan for the specs of this snapshot. `worker` is the number of the part to write; 0 is the chief's.
        snapshot: the state.
        crcs: the unmasked CRC32C of each tensor.
        threads: how many objects to write at a time. Default: what suits the store.
        progress: see `Progress`.

    Raises:
        StorageError: an object could not be made durable. Others may have been; they are part of no commit.
    """

    def write(item: DataObject) -> tuple[StoredObject, list[_Record]]:
        runs, records = _assembled(item, plan, snapshot, crcs)
        name = layout.data_object(prefix, item.shard, plan.num_shards)
        return _store(store, name, _folder(prefix), runs, role="data", progress=progress), records

    written = in_parallel(write, plan.parts[worker].objects, threads or store.parallel)
    entries = [record for _, records in written for record in records]
    if worker == 0:
        for position, slices in plan.sliced.items():
            tensor = snapshot.tensors[position]
            entries.append(header_record(tensor.key, tensor.dtype, tensor.shape, slices))
    return Written(tuple(stored for stored, _ in written), tuple(entries))


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


def _assembled(
    item: DataObject, plan: Plan, snapshot: Snapshot, crcs: Sequence[int]
) -> tuple[list[_Run], list[_Record]]:
    """Return the bytes of an object and its index entries."""
    runs: list[_Run] = []
    records: list[_Record] = []
    for piece in item.pieces:
        run, record = _piece(piece, item.shard, snapshot.tensors[piece.position], crcs[piece.position])
        runs.append(run)
        records.append(record)
    if item.shard == 0:
        offset = item.size
        encoded = [(t, crc) for t, crc in zip(snapshot.tensors, crcs, strict=True) if t.encoded]
        graph = snapshot.object_graph
        for tensor, crc in [*encoded, (graph, crc32c(graph.data))]:
            runs.append(_Run(tensor.data, crc))
            records.append(_whole(tensor, item.shard, offset, crc))
            offset += len(tensor.data)
    return runs, records


def _piece(piece: Piece, shard: int, tensor: SnapshotTensor, crc: int) -> tuple[_Run, _Record]:
    if piece.extents is None:
        return _Run(tensor.data, crc), _whole(tensor, shard, piece.offset, crc)
    data = tensor.data[piece.begin : piece.end]
    crc = crc32c(data)
    record = slice_record(
        tensor.key,
        tensor.dtype,
        piece.extents,
        shard=shard,
        offset=piece.offset,
        size=len(data),
        crc32c=mask(crc),
    )
    return _Run(data, crc), record


def _whole(tensor: SnapshotTensor, shard: int, offset: int, crc: int) -> _Record:
    return full_record(
        tensor.key,
        tensor.dtype,
        tensor.shape,
        shard=shard,
        offset=offset,
        size=len(tensor.data),
        # The checksum of an encoding is not that of its bytes.
        crc32c=mask(crc) if tensor.encoded_crc32c is None else tensor.encoded_crc32c,
    )


def _folder(prefix: str) -> str:
    return prefix.rpartition("/")[0]


def _store(
    store: Store, name: str, folder: str, runs: Sequence[_Run], *, role: str, progress: Progress | None
) -> StoredObject:
    size = store.write(name, _chunks(runs, progress))
    return StoredObject(name=name.removeprefix(f"{folder}/"), size=size, crc32c=_joined_crc(runs), role=role)


def _chunks(runs: Sequence[_Run], progress: Progress | None) -> Iterator[memoryview | bytes]:
    for chunk in _joined(runs):
        yield chunk
        if progress is not None:
            progress(len(chunk))


def _joined(runs: Sequence[_Run]) -> Iterator[memoryview | bytes]:
    """Yield the bytes of all runs, small ones joined, large ones in parts."""
    small: list[memoryview | bytes] = []
    size = 0
    for run in runs:
        if len(run.data) < _SMALL:
            small.append(run.data)
            size += len(run.data)
        if size >= _JOIN or (small and len(run.data) >= _SMALL):
            yield b"".join(small)
            small, size = [], 0
        if len(run.data) >= _SMALL:
            for start in range(0, len(run.data), _CHUNK):
                yield run.data[start : start + _CHUNK]
    if small:
        yield b"".join(small)


def _joined_crc(runs: Sequence[_Run]) -> int:
    crc = 0
    for run in runs:
        # For a small run, reading it again is faster than the arithmetic.
        crc = crc32c(run.data, crc) if len(run.data) < _SMALL else combine(crc, run.crc32c, len(run.data))
    return crc
