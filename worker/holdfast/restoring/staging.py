"""Reads and verifies everything that a restore needs, and stages it for TensorFlow's own restore.

TensorFlow restores some variables long after `restore` has returned: those that are created later. By then retention
may have deleted the checkpoint, and on an object store there are no files that TensorFlow could open at all. So it gets
a *staging bundle*: a small folder with an index and, under the names of the data files, symbolic links to file
descriptors that this process holds open. These are the checkpoint's own files if it is in a local file system, and
otherwise nameless files with what was read, in memory if there is enough. A kill leaves only a few kilobytes.

If there is memory for them, large tensors are read into TensorFlow's own memory instead of files (`large_tensors`).

If the world is the one that saved, the staged index has this worker's own value of each worker-local tensor in place of
the chief's. See docs/design/004-restore.md.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from holdfast.restoring.contents import LOCAL, MAIN, MERGED, Bundle, Contents
from holdfast.restoring.free_memory import available
from holdfast.restoring.parts import Parts, Value
from holdfast.restoring.wants import Want
from holdfast.scratch import make_folder, remove_folder
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import Index, TensorEntry, write_index
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.checkpoint.chain import Part
from holdfast_storage.checkpoint.index import check_encoded
from holdfast_storage.checkpoint.pieces import read_part
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, StorageError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import OBJECT_GRAPH_KEY, data_object, index_object
from holdfast_storage.logger import logger
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

if TYPE_CHECKING:  # they import TensorFlow
    from holdfast.restoring.fit import Fit
    from holdfast.restoring.large_tensors import Values

log = logger("holdfast")

_SHARE = 0.8
"""The share of free memory that a checkpoint may take. The first save after it may need as much again."""

_CHUNK = 8 << 20
_FEW = 2  # threads that merge when memory is short


class Held(Protocol):
    """What a staged checkpoint keeps."""

    folder: Path
    """Where TensorFlow finds it."""

    def settle(self) -> None:
        """Release what nobody needs any more."""

    def close(self) -> None:
        """Release everything."""


class Staged:
    """A verified checkpoint that TensorFlow can read until `close()`, whatever becomes of the original.

    Attributes:
        record: the checkpoint.
        manifest: its manifest; None for a stock one.
        prefix: the local path for `tf.train.Checkpoint.restore`.
        local_prefix: the same for this worker's own bundle; None if there is none, or if the world is another one.
        has_per_worker: whether `per_worker` objects can be restored from `local_prefix`.
        replicas: the keys of variables whose local replicas have their own values in `local_prefix`, and the number of
            each one's replicas.
        world_matches: whether the tasks of this world saved the checkpoint.
        is_spent: tells whether everything in the checkpoint has found its object.
        fits: how the checkpoint fits the objects that it was given to.
    """

    def __init__(self, record: CheckpointRecord, contents: Contents, held: Held) -> None:
        local = contents.local
        self.record = record
        self.manifest = contents.manifest
        self.world_matches = contents.world_matches
        self.prefix = str(held.folder / MAIN)
        self.local_prefix = None if local is None else str(held.folder / LOCAL)
        self.has_per_worker = local is not None and OBJECT_GRAPH_KEY in local.tensors
        self.replicas = contents.replicas
        self.is_spent: Callable[[], bool] = lambda: False
        self.fits: list[Fit] = []
        self._held = held
        self._close = weakref.finalize(self, held.close)

    def tidy(self) -> None:
        """Release, after a restore, what nobody needs any more or can read from the checkpoint's own files."""
        if self.is_spent():
            self.close()
        else:
            self._held.settle()

    def close(self) -> None:
        """Release everything. Variables that are created after this cannot be restored any more."""
        self._close()

    def __enter__(self) -> Staged:
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
    values: type[Values] | None = None,
    wait: Wait | None = None,
) -> Staged:
    """Read and verify everything that a worker needs of a checkpoint: the common part and its own bundle.

    Args:
        store: the run directory.
        record: the checkpoint, as the log has it.
        task: the worker.
        world: all workers of this world. If the same ones saved the checkpoint, each gets back its own values.
        progress: receives the size of each chunk read, from several threads.
        threads: the number of threads that read. Default: what suits the store.
        values: holds large tensors in TensorFlow's memory. None: they are in files, like the others.
        wait: how to wait for absent objects. None: not at all.

    Without a local file system, data is read into memory or, if that is short, into nameless files in the folder for
    temporary files (`TMPDIR`).

    Raises:
        CheckpointDamaged: an object is not what was committed.
        CheckpointAbsent: an object is missing or cut, and no byte is known to be wrong.
        StorageError: the storage did not answer, or there is no room for what is read.
        InvalidRequest: a newer Holdfast or TensorFlow wrote the checkpoint.
    """
    wait = wait or Wait(0.0)
    contents = _contents(store, record, task, world, wait)
    held = _Held(store, contents.size)
    try:
        if store.local:
            # They are opened before they are verified, so that nobody can delete them in between.
            missing = held.open_existing(contents.sizes or ())
            while missing and wait.again(f"{store.url}/{missing[0]} is missing"):
                missing = held.open_existing(missing)
        if values is not None:
            held.make_room(values, contents)
        report = verify_checkpoint(
            store,
            record,
            known=contents.manifest or contents.bundles[MAIN].index,
            objects=None if contents.sizes is None else [n.removeprefix(f"{record.folder}/") for n in contents.sizes],
            progress=progress,
            sink=held.take,
            room=held.room,
            threads=threads,
            wait=wait,
        )
        report.raise_if_bad()
        held.join(contents.bundles[MAIN].index, lambda wants: Parts(store, record, wait=wait).read(wants, wait=wait))
        held.link({**contents.bundles, MAIN: held.merge(contents, progress or (lambda count: None), threads, wait)})
        return Staged(record, contents, held)
    except BaseException:
        held.close()
        raise


def _contents(store: Store, record: CheckpointRecord, task: Task, world: Sequence[Task], wait: Wait) -> Contents:
    while True:
        try:
            return Contents.of(store, record, task, world)
        except CheckpointAbsent as error:
            if not wait.again(str(error)):
                raise


class _Held:
    """The objects that are held open, and the folder that leads TensorFlow to them."""

    def __init__(self, store: Store, size: int) -> None:
        """size: is about the number of bytes that will be read."""
        self.folder = Path(make_folder())
        self._store = store
        self._in_files = store.local
        self._process = os.getpid()
        self._descriptors: dict[str, int] = {}  # by name of the object, relative to the run directory
        self._lock = threading.Lock()
        self._values: Values | None = None
        self._merges = False
        self._in_memory = size <= available() * _SHARE
        if not self._in_memory and not self._in_files:
            log.warning("%d MiB of memory are not free: the checkpoint goes to %s", size >> 20, tempfile.gettempdir())

    def open_existing(self, names: Iterable[str]) -> list[str]:
        """Open objects in a file system. Return those that are missing."""
        missing = []
        for name in names:
            try:
                self._descriptor(name)
            except FileNotFoundError:
                missing.append(name)
        return missing

    def make_room(self, values: type[Values], contents: Contents) -> None:
        """Make room for large tensors if there is enough memory."""
        if self._in_memory:
            bundles = {str(self.folder / name): bundle for name, bundle in contents.bundles.items()}
            merged = sum(table.size for table in contents.tables.values())
            sizes = None if contents.sizes is None else {**contents.sizes, MERGED: merged}
            with suppress(MemoryError):  # a limit that nobody knows
                self._values = values(bundles, sizes)

    def room(self, name: str, offset: int, size: int) -> memoryview | None:
        """Return the memory to which the verification should read, if there is any."""
        return self._values.room(name, offset, size) if self._values else None

    def take(self, name: str, offset: int, chunk: memoryview) -> None:
        """Take what the verification has read to its own buffer."""
        for at, piece in self._values.take(name, offset, chunk) if self._values else ((offset, chunk),):
            if not self._in_files:
                self._keep(name, at, piece)

    def merge(self, contents: Contents, progress: Callable[[int], None], threads: int | None, wait: Wait) -> Bundle:
        """Put together the tables of a delta. Return the bundle, with the checksums of what is in files."""
        main = contents.bundles[MAIN]
        whole: dict[str, TensorEntry] = dict(main.index.tensors)
        slices: dict[tuple[str, Extents], TensorEntry] = dict(main.index.slices)

        def put(job: tuple[str, Part]) -> None:
            key, part = job
            place = whole[key] if part.extents is None else slices[key, part.extents]
            room = self.room(MERGED, place.offset, place.size)
            memory = read_part(self._store, part, room, progress, wait)
            if room is None:
                self._keep(MERGED, place.offset, memory)
                place = replace(place, crc32c=mask(crc32c(memory)))
                if part.extents is None:
                    whole[key] = place
                else:
                    slices[key, part.extents] = place

        self._merges = bool(contents.tables)
        jobs = ((key, part) for key, table in contents.tables.items() for part in table.parts)
        # What goes to files is in memory first, a part for each thread.
        in_parallel(put, jobs, threads or (self._store.parallel if self._in_memory else _FEW))
        return replace(main, index=Index(main.index.num_shards, whole, slices))

    def join(self, index: Index, read: Callable[[Sequence[Want]], Mapping[Want, Value]]) -> None:
        """Put together what TensorFlow cannot join from its slices."""
        if self._values:
            self._values.join(str(self.folder / MAIN), index, read)

    def link(self, bundles: Mapping[str, Bundle]) -> None:
        """Make the bundles in which TensorFlow finds what has been read."""
        for name, bundle in bundles.items():
            prefix, index = str(self.folder / name), bundle.index
            for shard, object in bundle.objects.items():
                os.symlink(f"/dev/fd/{self._descriptor(object)}", data_object(prefix, shard, index.num_shards))
            check_encoded(index, partial(self._held_bytes, bundle))
            records = ((key, entry.SerializeToString()) for key, entry in index.records())
            Path(index_object(prefix)).write_bytes(write_index(index.num_shards, records))
        if self._values:
            self._values.hold()

    def settle(self) -> None:
        """Let TensorFlow read the rest from the checkpoint's own files, if there are any."""
        if self._values and self._in_files and not self._merges:
            self._values.let_files_do()

    def close(self) -> None:
        if self._values:
            self._values.let_go()
        if os.getpid() == self._process:  # a fork has its own descriptors, but the folder is its parent's
            remove_folder(str(self.folder))
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _held_bytes(self, bundle: Bundle, entry: TensorEntry) -> Iterator[memoryview]:
        descriptor, offset, end = self._descriptor(bundle.objects[entry.shard]), entry.offset, entry.offset + entry.size
        while offset < end and (chunk := os.pread(descriptor, min(_CHUNK, end - offset), offset)):
            yield memoryview(chunk)
            offset += len(chunk)

    def _keep(self, name: str, offset: int, chunk: memoryview) -> None:
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
                if self._in_files and name != MERGED:
                    self._descriptors[name] = self._store.open(name)
                elif self._in_memory:
                    self._descriptors[name] = os.memfd_create(f"holdfast {name}"[:200], os.MFD_CLOEXEC)
                else:
                    with tempfile.TemporaryFile() as file:
                        self._descriptors[name] = os.dup(file.fileno())
            return self._descriptors[name]
