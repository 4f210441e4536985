"""What lies in a bundle, and what ought to, tensor by tensor."""

from __future__ import annotations

from holdfast.saving.snapshot import Snapshot
from holdfast_storage.bundle.index import Index
from holdfast_storage.layout import data_object, index_object
from holdfast_storage.store import Store


def stored(store: Store, prefix: str) -> dict[str, bytes]:
    """Every tensor of a bundle, put together from its pieces."""
    index = Index.parse(store.read(index_object(prefix)))
    values = {}
    for key, entry in index.tensors.items():
        pieces = []
        for _, piece in sorted(index.pieces(key), key=lambda piece: piece[0] or ()):
            buffer = bytearray(piece.size)
            store.read_into(data_object(prefix, piece.shard, index.num_shards), piece.offset, memoryview(buffer))
            pieces.append(buffer)
        values[key] = b"".join(pieces)
        assert entry.key == key
    return values


def expected(snapshot: Snapshot) -> dict[str, bytes]:
    return {t.key: bytes(t.data) for t in (*snapshot.tensors, snapshot.object_graph)}
