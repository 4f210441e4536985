"""The index of a stored checkpoint, checked against its manifest, and the objects to which it leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.dtypes import itemsize
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import LARGEST, Index, InvalidIndex, TensorEntry
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from holdfast_storage.layout import data_object, index_object
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole


def read_index(store: Store, prefix: str, manifest: Manifest | None = None) -> Index:
    """Read the index of a bundle. If there is a manifest, all that the index leads to lies in the objects there.

    Raises CheckpointAbsent if it is missing or cut, CheckpointDamaged if it is wrong, StorageError if it cannot be
    read. Without a manifest, see `check_sizes`.
    """
    name = index_object(prefix)
    full = f"{store.url}/{name}"
    committed = None
    if manifest is not None and (committed := _objects(manifest).get(name)) is None:
        raise CheckpointDamaged(f"{full} is not in the manifest", object=full)
    try:
        data = read_whole(store, name, LARGEST if committed is None else min(LARGEST, committed.size))
    except FileNotFoundError as error:
        raise CheckpointAbsent(f"{full} is missing", object=full) from error
    if committed is not None:
        if len(data) < committed.size:
            raise CheckpointAbsent(f"{full} {short(len(data), committed)}", object=full)
        if (found := crc32c(data)) != committed.crc32c:
            told = f"has CRC32C {found:08x}, and {committed.crc32c:08x} was committed"
            raise CheckpointDamaged(f"{full} {told}", object=full)
    try:
        index = Index.parse(data)
        ends = index.ends()
        if manifest is not None:
            index.check_whole()
            _check_ends(ends, data_objects(index, prefix), _objects(manifest))
    except (CheckpointDamaged, InvalidIndex) as error:
        raise CheckpointDamaged(f"{full}: {error}", object=full) from error
    return index


def check_sizes(store: Store, index: Index, prefix: str) -> None:
    """Check that all that an index leads to is there, as far as sizes tell.

    Raises CheckpointAbsent if an object is missing or cut, StorageError if the storage does not answer.
    """
    ends = index.ends()
    for shard, name in data_objects(index, prefix).items():
        if told := too_short(store, name, ends[shard]):
            raise CheckpointAbsent(f"{store.url}/{name} {told}", object=name)


def too_short(store: Store, name: str, end: int) -> str:
    """Say in words how an object is shorter than `end` bytes; empty if it is not."""
    found = store.size(name)
    if found is None:
        return "is missing"
    return f"ends at byte {found}, before its contents do" if found < end else ""


def check_encoded(index: Index, read: Callable[[TensorEntry], Iterable[memoryview]]) -> None:
    """Check the tensors whose bytes say how long their elements are. TensorFlow takes memory for what they say.

    read: yields the bytes of an entry. Raises CheckpointDamaged, and what `read` raises.
    """
    for entry in index.stored:
        if itemsize(entry.dtype) is not None:
            continue
        try:
            found = entry_crc32c(entry.dtype, entry.shape, read(entry))
        except CheckpointDamaged as error:
            raise type(error)(f"{entry.key}: {error}", object=entry.key) from error
        if found != entry.crc32c:
            raise CheckpointDamaged(f"{entry.key} is not what its entry in the index says", object=entry.key)


def _objects(manifest: Manifest) -> dict[str, ObjectRecord]:
    """Return the objects of a manifest, by name relative to the run directory."""
    folder = manifest.prefix.rpartition("/")[0]
    return {f"{folder}/{each.name}": each for each in manifest.objects}


def _check_ends(ends: Mapping[int, int], names: Mapping[int, str], objects: Mapping[str, ObjectRecord]) -> None:
    for shard, end in ends.items():
        if (each := objects.get(names[shard])) is None:
            raise CheckpointDamaged(f"it leads to {names[shard]}, which is not in the manifest")
        if end > each.size:
            raise CheckpointDamaged(f"it leads to byte {end} of {names[shard]}, which has {each.size}")


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
