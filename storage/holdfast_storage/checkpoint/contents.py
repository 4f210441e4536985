"""All tensors of a checkpoint, full or delta, part by part, for a reader that has not made the plan of its objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast_storage.bundle.index import Index, TensorEntry
from holdfast_storage.checkpoint.chain import Part, Stored, read_chain
from holdfast_storage.checkpoint.index import check_sizes, data_objects, read_index
from holdfast_storage.checkpoint.manifest import Manifest
from holdfast_storage.checkpoint.pieces import Progress, read_part
from holdfast_storage.lag import Wait
from holdfast_storage.layout import local_prefix
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor, and the parts in which it is stored."""

    dtype: int
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds."""

    store: Store
    record: CheckpointRecord
    manifest: Manifest | None  # None: TensorFlow wrote it
    tensors: Mapping[tuple[str, str], Tensor]  # by task and key; the task is empty for those that all have in common

    def read(self, part: Part, progress: Progress) -> memoryview:
        """Return the bytes of a part as they are now. All that is read is checked.

        Raises CheckpointAbsent, CheckpointDamaged or StorageError, which names the object.
        """
        return read_part(self.store, part, None, progress, Wait(0.0))


def read_contents(store: Store, record: CheckpointRecord) -> Contents:
    """Read manifests and indexes. Raises what `read_chain` raises, also if an object is shorter than they say."""
    chain = read_chain(store, record)
    manifest, index = chain.newest.manifest, chain.newest.index
    check_sizes(store, index, record.bundle)
    tensors = {("", key): tensor for key, tensor in _whole(index, chain.newest.objects).items()}
    for key, table in chain.tables.items():
        tensors["", key] = Tensor(table.entry.dtype, table.entry.shape, table.parts)
    for task in sorted(
        {each.task for each in manifest.objects if each.role == "local" and each.task} if manifest else ()
    ):
        prefix = local_prefix(record.folder, task)
        own = read_index(store, prefix, manifest)
        check_sizes(store, own, prefix)
        tensors |= {(str(task), key): tensor for key, tensor in _whole(own, data_objects(own, prefix)).items()}
    return Contents(store, record, manifest, tensors)


def _whole(index: Index, objects: Mapping[int, str]) -> dict[str, Tensor]:
    """Return the tensors of an index."""

    def stored(entry: TensorEntry) -> Stored:
        return Stored(objects[entry.shard], entry)

    return {
        key: Tensor(tensor.dtype, tensor.shape, tuple(Part(0, 0, e, stored(p), ()) for e, p in index.pieces(key)))
        for key, tensor in index.tensors.items()
    }
