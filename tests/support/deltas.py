"""States of which some rows change, and what a delta makes of the state before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import Index
from holdfast_storage.store import Store


def touched(before: Snapshot, rows: Mapping[str, Sequence[int]]) -> Snapshot:
    """The state with a byte of these rows changed."""

    def touch(each: SnapshotTensor) -> SnapshotTensor:
        if each.key not in rows:
            return each
        data = np.array(np.frombuffer(each.data, np.uint8)).reshape(each.shape[0], -1)
        for row in rows[each.key]:
            data[row, row % data.shape[1]] ^= 1
        return replace(each, data=data.reshape(-1).data)

    return replace(before, tensors=tuple(touch(each) for each in before.tensors))


def merged(store: Store, prefix: str, base: Snapshot) -> dict[str, bytes]:
    """Apply a delta to the state that it is on, by nothing but what is documented of its format. By key."""
    prefix = layout.delta_prefix(prefix)
    index = Index.parse(store.read(layout.index_object(prefix)))
    shards = [store.read(layout.data_object(prefix, shard, index.num_shards)) for shard in range(index.num_shards)]

    def data(key: str) -> bytes:
        for _, entry in index.pieces(key):
            part = shards[entry.shard][entry.offset : entry.offset + entry.size]
            assert mask(crc32c(part)) == entry.crc32c
        return b"".join(shards[e.shard][e.offset : e.offset + e.size] for _, e in index.pieces(key))

    found = {}
    for each in base.tensors:
        pieces = [p for p in map(layout.parse_piece, index.tensors) if p is not None and p.key == each.key]
        if each.key in index.tensors:
            assert not pieces
            found[each.key] = data(each.key)
            continue
        value = np.array(np.frombuffer(each.data, np.uint8)).reshape(each.shape[0], -1)
        assert {0} <= {piece.start for piece in pieces}
        for piece in {piece.start: piece for piece in pieces}.values():
            rows = np.frombuffer(data(piece.rows), np.int64)
            assert (np.diff(rows) > 0).all()
            assert (rows >= piece.start).all()
            entry = index.tensors[piece.values]
            assert (entry.dtype, entry.shape) == (each.dtype, (len(rows), *each.shape[1:]))
            value[rows] = np.frombuffer(data(piece.values), np.uint8).reshape(len(rows), value.shape[1])
        found[each.key] = value.tobytes()
    return found
