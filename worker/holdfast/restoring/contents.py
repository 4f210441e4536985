"""The parts of a checkpoint that one worker needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast_storage.bundle.index import Index
from holdfast_storage.checkpoint.chain import Table, read_chain
from holdfast_storage.checkpoint.index import check_sizes, data_objects, read_index, stored_size
from holdfast_storage.checkpoint.manifest import Manifest, read_manifest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.layout import LOCAL_SUFFIX, index_object, local_prefix, replicated_key
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

MAIN, LOCAL = "checkpoint", "local"
"""The names of the two bundles in the staging folder."""

MERGED = "merged"
"""The object in which the tensors are that a delta has by rows. It is made here: a run directory has none."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as TensorFlow will see it."""

    index: Index
    objects: Mapping[int, str]  # by shard, relative to the run directory; only those that hold something


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of a checkpoint that a worker needs."""

    manifest: Manifest | None  # None for a stock one
    world_matches: bool
    bundles: Mapping[str, Bundle]  # by name in the staging folder
    local: Index | None  # of the worker's own bundle
    sizes: Mapping[str, int] | None  # of the objects that hold the data; None for a stock checkpoint, which has no list
    tables: Mapping[str, Table] = field(default_factory=dict)  # the tensors of `MERGED`, by key

    @classmethod
    def of(cls, store: Store, record: CheckpointRecord, task: Task, world: Sequence[Task]) -> Contents:
        if record.stock:
            index = read_index(store, record.prefix)
            check_sizes(store, index, record.prefix)
            return cls(None, False, {MAIN: Bundle(index, data_objects(index, record.prefix))}, None, None)
        manifest = read_manifest(store, record)
        world_matches = set(manifest.world) == set(world)
        own = [each for each in manifest.objects if each.role == "local" and each.task == task and world_matches]
        data = [each for each in manifest.objects if each.role == "data"]
        if manifest.base is None:
            main, tables = read_index(store, record.prefix, manifest), dict[str, Table]()
            objects = data_objects(main, record.prefix)
        else:
            chain = read_chain(store, record)
            main, tables = chain.merged(), dict(chain.tables)
            objects = {**chain.newest.objects, main.num_shards - 1: MERGED}
        local, bundles = None, {MAIN: Bundle(main, objects)}
        if own:
            prefix = local_prefix(record.folder, task)
            local = read_index(store, prefix, manifest)
            bundles[LOCAL] = Bundle(local, data_objects(local, prefix))
            after = {main.num_shards + shard: name for shard, name in bundles[LOCAL].objects.items()}
            bundles[MAIN] = Bundle(_overlaid(main, local, record), {**objects, **after})
            data += [each for each in own if index_object(prefix) != f"{record.folder}/{each.name}"]
        sizes = {f"{record.folder}/{each.name}": each.size for each in data}
        overlaid = bundles[MAIN].index.tensors
        tables = {key: table for key, table in tables.items() if overlaid[key] is main.tensors[key]}
        return cls(manifest, world_matches, bundles, local, sizes, tables)

    @property
    def replicas(self) -> Mapping[str, int]:
        """The checkpoint keys of variables whose local replicas have their own values, and how many each."""
        counts: dict[str, int] = {}
        for key in self.local.tensors if self.local is not None else ():
            if stock := replicated_key(key):
                counts[stock] = counts.get(stock, 0) + 1
        return counts

    @property
    def size(self) -> int:
        """The bytes of the data."""
        stored = stored_size(self.bundles[MAIN].index) if self.sizes is None else sum(self.sizes.values())
        return stored + sum(table.size for table in self.tables.values())


def _overlaid(main: Index, local: Index, record: CheckpointRecord) -> Index:
    """Return the main index with the worker's own values under the stock keys, in shards after the main ones."""
    own = {
        key.removesuffix(LOCAL_SUFFIX): replace(
            entry, key=key.removesuffix(LOCAL_SUFFIX), shard=main.num_shards + entry.shard
        )
        for key, entry in local.tensors.items()
        if key.endswith(LOCAL_SUFFIX)
    }
    for key in own.keys() - main.tensors.keys():
        raise CheckpointDamaged(f"Checkpoint {record.prefix} has only a worker-local value of {key}", object=key)
    slices = {(key, extents): entry for (key, extents), entry in main.slices.items() if key not in own}
    return Index(main.num_shards + local.num_shards, {**main.tensors, **own}, slices)
