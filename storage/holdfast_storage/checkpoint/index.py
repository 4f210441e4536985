"""The index of a stored checkpoint, checked against its manifest, and the objects to which it leads."""

from __future__ import annotations

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.index import Index
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from holdfast_storage.layout import data_object, index_object
from holdfast_storage.store.base import Store


def read_index(store: Store, prefix: str, manifest: Manifest | None = None) -> Index:
    """Read the index of a bundle, and check it against the manifest if there is one.

    Raises CheckpointAbsent if it is missing or cut, CheckpointDamaged if it is wrong, StorageError if it cannot be
    read.
    """
    name = index_object(prefix)
    full = f"{store.url}/{name}"
    try:
        data = store.read(name)
    except FileNotFoundError as error:
        raise CheckpointAbsent(f"{full} is missing", object=full) from error
    if manifest is not None:
        folder = manifest.prefix.rpartition("/")[0]
        committed = next((each for each in manifest.objects if f"{folder}/{each.name}" == name), None)
        if committed is None:
            raise CheckpointDamaged(f"{full} is not in the manifest", object=full)
        if len(data) < committed.size:
            raise CheckpointAbsent(f"{full} {short(len(data), committed)}", object=full)
        if (found := crc32c(data)) != committed.crc32c:
            told = f"has CRC32C {found:08x}, and {committed.crc32c:08x} was committed"
            raise CheckpointDamaged(f"{full} {told}", object=full)
    try:
        return Index.parse(data)
    except CheckpointDamaged as error:
        raise CheckpointDamaged(f"{full}: {error}", object=full) from error


def data_objects(index: Index, prefix: str) -> dict[int, str]:
    """Return the objects that hold a bundle's bytes, by shard. The index's number of shards is not trusted."""
    used = {entry.shard for entry in index.stored}
    return {shard: data_object(prefix, shard, index.num_shards) for shard in used}


def stored_size(index: Index) -> int:
    """Return the bytes of all tensors of a bundle."""
    return sum(entry.size for entry in index.stored)


def short(found: int, committed: ObjectRecord) -> str:
    """Say in words how the size of an object differs from what was committed."""
    return f"has {found} bytes, and {committed.size} were committed"
