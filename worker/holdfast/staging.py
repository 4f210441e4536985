"""What a restore reads, read and verified beforehand, and laid out so that TensorFlow's own reader takes it.

TensorFlow restores some variables long after `restore` has returned: those that are created later. By then retention
may have deleted the checkpoint, and on an object store there are no files that TensorFlow could open at all. So it
reads a *staging bundle*: a small folder with an index and, under the names of the data files, symbolic links to file
descriptors that this process holds open. They are the checkpoint's own files, where it lies in a file system, else
nameless files, in memory if there is enough, that it was read into. So a kill leaves nothing but a few kilobytes.

Where the world is the one that saved, the staged index gives this worker's own value of each worker-local tensor in
place of the chief's. See docs/design/004-restore.md.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.memory import available
from holdfast.snapshot import OBJECT_GRAPH_KEY, OWN_SUFFIX
from holdfast_storage.bundle.index import Index, write_index
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import data_object, index_object, local_prefix
from holdfast_storage.manifest import Manifest, read_manifest
from holdfast_storage.records import CheckpointRecord, Task
from holdfast_storage.store.base import Store
from holdfast_storage.store.posix import PosixStore
from holdfast_storage.verify import verify_checkpoint, verify_size

log = logging.getLogger("holdfast")

_REPLICA = "/.REPLICA/"
_SHARE = 0.8
"""Of the free memory, that a checkpoint may take. The first save after it needs as much once more, at times."""

_MAIN, _LOCAL = "checkpoint", "local"  # names of the two bundles in the staging folder


class Staged:
    """A verified checkpoint that TensorFlow can read until `close()`, whatever becomes of the original.

    Attributes:
        record: the checkpoint.
        manifest: its manifest; None for a stock one.
        prefix: what to give to `tf.train.Checkpoint.restore`: a local path.
        local_prefix: the same of what is this worker's own; None if there is nothing, or if the world is another.
        has_per_worker: whether `per_worker` objects can be restored from `local_prefix`.
        replicas: checkpoint keys of variables whose local replicas have values of their own in `local_prefix`, and how
            many each.
        world_matches: whether the checkpoint was saved by the tasks that there are now.
    """

    def __init__(
        self, record: CheckpointRecord, manifest: Manifest | None, world_matches: bool, held: _Held, local: Index | None
    ) -> None:
        self.record = record
        self.manifest = manifest
        self.world_matches = world_matches
        self.prefix = str(held.folder / _MAIN)
        self.local_prefix = None if local is None else str(held.folder / _LOCAL)
        self.has_per_worker = local is not None and OBJECT_GRAPH_KEY in local.tensors
        self.replicas = _replicas(local)
        self._close = weakref.finalize(self, held.close)

    def close(self) -> None:
        """Let go of it. A variable that is created afterwards cannot be restored from it any more."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def stage(
    store: Store,
    record: CheckpointRecord,
    *,
    task: Task,
    world: Sequence[Task],
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> Staged:
    """Read and verify everything that a worker needs of a checkpoint: the common part and its own.

    Args:
        store: the run directory.
        record: the checkpoint, as the log has it.
        task: the worker.
        world: all workers there are now. If the checkpoint was saved by the same ones, each gets back its own values.
        progress: told the bytes of each chunk read, from several threads.
        threads: reading at a time; default: as many as suit the store.

    What lies on no local file system is read into memory; where that is short, into nameless files in the folder for
    temporary files (`TMPDIR`).

    Raises:
        CheckpointDamaged: an object is missing or not what was committed.
        StorageError: the storage did not answer, or there is no room for what is read.
        InvalidRequest: a newer Holdfast or TensorFlow wrote it.
    """
    manifest = None if record.stock else read_manifest(store, record)
    world_matches = manifest is not None and set(manifest.world) == set(world)
    bundles = {_MAIN: record.prefix}
    objects = None
    if manifest is not None:
        own = [each.name for each in manifest.objects if each.role == "local" and each.task == task and world_matches]
        objects = [*(each.name for each in manifest.objects if each.role in ("data", "index")), *own]
        if own:
            bundles[_LOCAL] = local_prefix(record.folder, task)
    held = _Held(store, 0 if isinstance(store, PosixStore) else _size(store, record, manifest, objects))
    try:
        if isinstance(store, PosixStore):
            # Before they are verified, so that nobody can delete them between the two.
            held.open_existing(f"{record.folder}/{name}" for name in objects or ())
        report = verify_checkpoint(store, record, objects=objects, progress=progress, sink=held.sink, threads=threads)
        report.raise_if_bad()
        indexes = {name: held.parse_index(prefix) for name, prefix in bundles.items()}
        main, local = indexes[_MAIN], indexes.get(_LOCAL)
        objects_of = _objects(main, record.prefix)
        if local is None:
            held.link(_MAIN, main, objects_of)
        else:
            own_objects = _objects(local, bundles[_LOCAL])
            after = {main.num_shards + shard: name for shard, name in own_objects.items()}
            held.link(_MAIN, _overlaid(main, local, record), objects_of | after)
            held.link(_LOCAL, local, own_objects)
        return Staged(record, manifest, world_matches, held, local)
    except BaseException:
        held.close()
        raise


def _objects(index: Index, prefix: str) -> dict[int, str]:
    """The data objects that an index leads to, by shard."""
    return {shard: data_object(prefix, shard, index.num_shards) for shard in _used(index)}


def _used(index: Index) -> set[int]:
    """The shards that something lies in. How many there are said to be is not believed."""
    return {entry.shard for entry in (*index.tensors.values(), *index.slices.values()) if not entry.slices}


def _size(store: Store, record: CheckpointRecord, manifest: Manifest | None, objects: Sequence[str] | None) -> int:
    """About the bytes that will be read."""
    if manifest is None:
        return verify_size(store, record)
    return sum(each.size for each in manifest.objects if each.name in (objects or ()))


def _overlaid(main: Index, local: Index, record: CheckpointRecord) -> Index:
    """The main index, with the worker's own values, in shards that come after the main ones, under the stock keys."""
    own = {
        key.removesuffix(OWN_SUFFIX): replace(
            entry, key=key.removesuffix(OWN_SUFFIX), shard=main.num_shards + entry.shard
        )
        for key, entry in local.tensors.items()
        if key.endswith(OWN_SUFFIX)
    }
    for key in own.keys() - main.tensors.keys():
        raise CheckpointDamaged(f"Checkpoint {record.prefix} has a worker's own value of {key} alone", object=key)
    slices = {(key, extents): entry for (key, extents), entry in main.slices.items() if key not in own}
    return Index(main.num_shards + local.num_shards, {**main.tensors, **own}, slices)


def _replicas(local: Index | None) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for key in local.tensors if local is not None else ():
        stock, found, _ = key.rpartition(_REPLICA)
        if found:
            counts[stock] = counts.get(stock, 0) + 1
    return counts


class _Held:
    """Objects that are held open, and the folder that leads TensorFlow to them."""

    def __init__(self, store: Store, size: int) -> None:
        """size: bytes that will be read, about."""
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-"))
        self.sink = None if isinstance(store, PosixStore) else self._copy
        self._store = store
        self._process = os.getpid()
        self._descriptors: dict[str, int] = {}  # by name of the object, relative to the run directory
        self._lock = threading.Lock()
        self._in_memory = size <= available() * _SHARE
        if not self._in_memory:
            log.warning("%d MiB of memory are not free: the checkpoint goes to %s", size >> 20, tempfile.gettempdir())

    def open_existing(self, names: Iterable[str]) -> None:
        """Open objects in a file system. What is missing is for the verification to judge."""
        for name in names:
            with suppress(FileNotFoundError):
                self._descriptor(name)

    def parse_index(self, prefix: str) -> Index:
        """The index of a bundle that has been verified."""
        descriptor = self._descriptor(index_object(prefix))
        return Index.parse(os.pread(descriptor, os.fstat(descriptor).st_size, 0))

    def link(self, name: str, index: Index, objects: Mapping[int, str]) -> None:
        """Make a bundle of an index and the objects that are its shards, by number."""
        for shard in _used(index):
            target = f"/dev/fd/{self._descriptor(objects[shard])}"
            os.symlink(target, data_object(str(self.folder / name), shard, index.num_shards))
        records = ((key, entry.SerializeToString()) for key, entry in index.records())
        Path(index_object(str(self.folder / name))).write_bytes(write_index(index.num_shards, records))

    def close(self) -> None:
        if os.getpid() == self._process:  # a forked process has descriptors of its own, but the folder is its parent's
            shutil.rmtree(self.folder, ignore_errors=True)
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _copy(self, name: str, offset: int, chunk: memoryview) -> None:
        """Take in what the verification reads."""
        descriptor = self._descriptor(name)
        try:
            while chunk:
                written = os.pwrite(descriptor, chunk, offset)
                chunk, offset = chunk[written:], offset + written
        except OSError as error:
            raise StorageError(
                f"Could not keep what was read of {self._store.url}/{name} in {self._place()}: {error.strerror}",
                object=name,
            ) from error

    def _place(self) -> str:
        return "memory" if self._in_memory else f"{tempfile.gettempdir()} (TMPDIR chooses another folder)"

    def _descriptor(self, name: str) -> int:
        with self._lock:
            if name not in self._descriptors:
                if isinstance(self._store, PosixStore):
                    self._descriptors[name] = self._store.open(name)
                elif self._in_memory:
                    self._descriptors[name] = os.memfd_create(f"holdfast {name}"[:200], os.MFD_CLOEXEC)
                else:
                    with tempfile.TemporaryFile() as file:
                        self._descriptors[name] = os.dup(file.fileno())
            return self._descriptors[name]
