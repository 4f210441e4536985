"""What is in a checkpoint: tensors whose bytes follow from the job that saved it, the step, and the key."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import Index
from holdfast_storage.cluster import Task
from holdfast_storage.layout import OBJECT_GRAPH_KEY, data_object, index_object, parse_piece
from holdfast_storage.records import CheckpointRecord

FLOAT, STRING = 1, 7  # tensorflow.DataType
SHARED = {
    "model/bias": (5,),
    "model/kernel": (12, 5),
    "model/none": (0, 3),
    "model/table": (30, 2),
    "optimizer/m": (31,),
}
OWN = "statistics/mean"  # differs between workers
SHAPES = {**SHARED, OWN: (6,)}
TABLE = "model/table"  # of which some rows change seldom


def _content(salt: str, key: str) -> bytes:
    if key == TABLE:
        life, _, step = salt.rpartition("/")
        moments = (f"{life}/{int(step) // (10 * (1 + row % 4))}/{key}/{row}" for row in range(SHAPES[key][0]))
        return b"".join(hashlib.shake_128(moment.encode()).digest(4 * SHAPES[key][1]) for moment in moments)
    return hashlib.shake_128(f"{salt}/{key}".encode()).digest(4 * prod(SHAPES[key]))


def expected(salt: str, task: Task) -> dict[str, bytes]:
    """Return what a worker has at the moment that `salt` names."""
    return {**{key: _content(salt, key) for key in SHARED}, OWN: _content(f"{salt}/{task}", OWN)}


def snapshot(salt: str, task: Task, *, diverges: bool, collective: bool) -> Snapshot:
    """A worker's state. diverges: a weight is not what it is on the others."""
    values = expected(salt, task)
    if diverges:
        values["model/kernel"] = bytes([values["model/kernel"][0] ^ 1]) + values["model/kernel"][1:]
        values["optimizer/m"] = values["optimizer/m"][:-1] + bytes([values["optimizer/m"][-1] ^ 1])
    tensors = (
        SnapshotTensor(key, FLOAT, SHAPES[key], memoryview(value), guarded=key != OWN) for key, value in values.items()
    )
    return Snapshot(tuple(tensors), GRAPH, collective=collective)


def _graph() -> SnapshotTensor:
    text = b"an object graph"
    data = bytes([len(text)]) + struct.pack("<I", mask(crc32c(struct.pack("<I", len(text))))) + text
    return SnapshotTensor(OBJECT_GRAPH_KEY, STRING, (), data, encoded_crc32c=entry_crc32c(STRING, (), [data]))


GRAPH = _graph()


def read_file(path: str) -> bytes:
    """All of it, also where a link leads to a descriptor, whose position it does not move."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def read_bundle(prefix: str, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """All tensors of a bundle, by TensorFlow's rules. Sliced ones are cut into rows, in order, by the plan."""
    index = Index.parse(read(index_object(prefix)))
    shards: dict[int, bytes] = {}

    def stored(entry: Any) -> bytes:
        if entry.shard not in shards:
            shards[entry.shard] = read(data_object(prefix, entry.shard, index.num_shards))
        data = shards[entry.shard][entry.offset : entry.offset + entry.size]
        assert len(data) == entry.size
        return data

    return {
        key: b"".join(stored(index.slices[key, extents]) for extents in entry.slices) if entry.slices else stored(entry)
        for key, entry in index.tensors.items()
    }


def read_chain(chain: Sequence[CheckpointRecord], read: Callable[[str], bytes]) -> dict[str, bytes]:
    """All tensors of a checkpoint, and what it needs before it: each delta's rows in the place of those before."""
    values: dict[str, bytes] = {}
    for record in chain:
        found = read_bundle(record.bundle, read)
        for key, value in found.items():
            piece = parse_piece(key)
            if piece is None:
                values[key] = value
            elif key == piece.rows:
                length, numbers = 4 * prod(SHAPES[piece.key][1:]), struct.unpack(f"<{len(value) // 8}q", value)
                table = bytearray(values[piece.key])
                for place, number in enumerate(numbers):
                    row = found[piece.values][place * length : (place + 1) * length]
                    table[number * length : (number + 1) * length] = row
                values[piece.key] = bytes(table)
    return values
