"""Reading back every byte of a checkpoint and checking it against its digests.

Holdfast's checkpoints are checked object by object against the manifest, and the manifest against the log. An index
must also lead to nothing but what is in these objects. A checkpoint that TensorFlow wrote has digests in its index: of
every tensor, and of every block of the index. Bytes go through one small buffer per thread, or to where the caller
wants them, never into a copy of an object: touching memory for the first time costs more than reading.

Jobs are made while others are done, and none for an object that has failed. So the work is bounded by what is there,
not by the sizes that a manifest claims.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from holdfast_storage.bundle.crc import combine, crc32c, mask, unmask
from holdfast_storage.bundle.dtypes import itemsize
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import Index, TensorEntry
from holdfast_storage.checkpoint.chain import read_chain
from holdfast_storage.checkpoint.index import (
    check_encoded,
    data_objects,
    read_index,
    short,
    stored_size,
    too_short,
)
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord, read_manifest
from holdfast_storage.checkpoint.pieces import check_fit
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, HoldfastError, StorageError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import index_object, manifest_object
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

ProblemKind = Literal["damaged", "absent", "unreadable"]
Verdict = Literal["good", "damaged", "absent", "unreadable"]
Sink = Callable[[str, int, memoryview], None]
Room = Callable[[str, int, int], memoryview | None]

_BUFFER = 8 << 20  # of each thread, at most
_PART = 64 << 20  # what one thread reads at a time, at most: large objects are shared


@dataclass(frozen=True, slots=True)
class Problem:
    """One object that failed, and why."""

    object: str  # relative to the run directory
    kind: ProblemKind
    """damaged: bytes were read and are wrong. absent: the object is missing or cut, because it was deleted or a mount
    shows it late. unreadable: the storage did not answer."""
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification."""

    prefix: str
    objects: int  # looked at
    size: int  # bytes read
    problems: tuple[Problem, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst finding: damaged, else unreadable, else absent, else good."""
        kinds = {problem.kind for problem in self.problems}
        order: tuple[Verdict, ...] = ("damaged", "unreadable", "absent")
        return next((verdict for verdict in order if verdict in kinds), "good")

    def raise_if_bad(self) -> None:
        """Raise CheckpointDamaged, CheckpointAbsent or StorageError, naming the objects, unless all is good."""
        if not self.problems:
            return
        error, verdict = _ERRORS[self.verdict]
        told = [f"{problem.object} {problem.reason}" for problem in self.problems[:5]]
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        raise error(f"Checkpoint {self.prefix} is {verdict}: {'; '.join(told)}{more}", object=self.problems[0].object)


_ERRORS: dict[Verdict, tuple[type[HoldfastError], str]] = {
    "damaged": (CheckpointDamaged, "damaged"),
    "absent": (CheckpointAbsent, "not all there"),
    "unreadable": (StorageError, "unreadable"),
}


def verify_checkpoint(
    store: Store,
    record: CheckpointRecord,
    *,
    known: Manifest | Index | None = None,
    objects: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
    sink: Sink | None = None,
    room: Room | None = None,
    threads: int | None = None,
    wait: Wait | None = None,
) -> Report:
    """Read a checkpoint and check every digest. Findings are not raised; the report holds them.

    Of a delta, this reads its own objects alone, and checks that its rows fit what the indexes of its chain say.

    Raises InvalidRequest if a newer Holdfast or TensorFlow wrote the checkpoint in a form not known here.

    known: the manifest, or a stock checkpoint's index, if the caller has read it already. With an index, the tensors
        in it are read and checked, each against its own digest; it may be of any checkpoint, and hold only some.
    objects: the names to check, relative to the folder of the prefix, as the manifest has them. None: all.
    progress: receives the size of each chunk that is read.
    sink: receives (object relative to the run directory, offset, bytes) of all that is read of these objects, other
        than indexes, before the verdict. The bytes are valid only during the call.
    room: returns memory for (object, offset, size). Bytes are read to it, as many as it is long, and do not go to the
        sink. It returns None if it has no memory for them. `progress`, `sink` and `room` are called from several
        threads; their errors are raised here.
    threads: the number of threads that read; default: what suits the store.
    wait: how to wait for absent objects, which alone are then read again. None: not at all.
    """
    run = _Verification(
        store,
        progress or (lambda count: None),
        sink or (lambda name, offset, chunk: None),
        room or (lambda name, offset, size: None),
    )
    try:
        while True:
            if isinstance(known, Index) or (record.stock and known is None):
                jobs = run.tensor_jobs(record, objects, known)
            else:
                jobs = run.jobs(record, objects, known)
            _do(jobs, threads or store.parallel, min(store.block, _BUFFER))
            if not run.problems and isinstance(run.known, Manifest) and index_object(record.bundle) in run.seen:
                run.check_fit(record)
            late = [problem for problem in run.problems.values() if problem.kind == "absent"]
            # If something is worse than absent, waiting changes nothing.
            if wait is None or not late or len(late) < len(run.problems) or not wait.again(_absence(store, late)):
                break
            run.problems.clear()
            known = run.known
            if known is not None:
                objects = [problem.object.removeprefix(f"{record.folder}/") for problem in late]
                objects += _indexes(known) if isinstance(known, Manifest) else ()  # they lead to what was late
    except _FromCaller as error:
        raise error.args[0] from None
    # The order must not depend on which thread was faster.
    problems = tuple(sorted(run.problems.values(), key=lambda problem: problem.object))
    if any(problem.kind != "unreadable" for problem in problems) and _is_gone(store):
        reason = "is not there, and neither is anything else in the run directory: is it mounted?"
        problems = tuple(replace(problem, kind="unreadable", reason=reason) for problem in problems)
    return Report(record.prefix, len(run.seen), run.size, problems)


def verify_size(store: Store, record: CheckpointRecord) -> int:
    """Estimate the bytes that `verify_checkpoint` reads, for a progress bar. Raises what `read_manifest` raises."""
    if not record.stock:
        return read_manifest(store, record).size
    return stored_size(read_index(store, record.prefix))


class _FromCaller(Exception):
    """An error that `sink`, `room` or `progress` raised. It says nothing about the checkpoint."""


@contextmanager
def _calling() -> Iterator[None]:
    """The context in which the caller's functions are called."""
    try:
        yield
    except Exception as error:
        raise _FromCaller(error) from error


Job = Callable[[memoryview], None]  # what a thread does with its buffer


@dataclass(slots=True)
class _Verification:
    """One run of `verify_checkpoint`: what it reads, and what it has found."""

    store: Store
    progress: Callable[[int], None]
    sink: Sink
    room: Room
    known: Manifest | Index | None = None
    problems: dict[str, Problem] = field(default_factory=dict)  # by object, the first of each
    seen: set[str] = field(default_factory=set)
    size: int = 0
    part: int = 0  # bytes of a job
    lock: threading.Lock = field(default_factory=threading.Lock)

    def divide(self, total: int) -> None:
        """Share this many bytes among the threads that suit the store, in whole blocks."""
        blocks = -(-total // (self.store.parallel * self.store.block))
        self.part = min(_PART, self.store.block * max(1, blocks))

    def jobs(
        self, record: CheckpointRecord, objects: Collection[str] | None, manifest: Manifest | None
    ) -> Iterator[Job]:
        """Yield the jobs for one of Holdfast's checkpoints."""
        name = manifest_object(record.folder)
        self.seen.add(name)
        with _Telling(self, name):
            self.known = manifest = manifest or read_manifest(self.store, record)
        if manifest is None:
            return
        wanted = None if objects is None else set(objects)
        found = [each for each in manifest.objects if wanted is None or each.name in wanted]
        self.divide(sum(each.size for each in found))
        indexes = _indexes(manifest)
        for each in found:
            whole = _Whole(each, f"{record.folder}/{each.name}", max(1, -(-each.size // self.part)))
            self.seen.add(whole.name)
            if each.name in indexes:
                yield partial(self._index, whole, manifest)
                continue
            for start in range(0, max(each.size, 1), self.part):
                if whole.name in self.problems:
                    break
                yield partial(self._part, whole, start)
        required = {index_object(record.bundle).removeprefix(f"{record.folder}/")} if wanted is None else wanted
        for missing in required - {each.name for each in manifest.objects}:
            self._tell(f"{record.folder}/{missing}", "damaged", "is not in the manifest")

    def tensor_jobs(
        self, record: CheckpointRecord, objects: Collection[str] | None, index: Index | None
    ) -> Iterator[Job]:
        """Yield the jobs for the tensors of an index, such as that of a checkpoint that TensorFlow wrote."""
        name = index_object(record.bundle)
        folder = f"{record.folder}/" if record.folder else ""
        self.seen.add(name)
        with _Telling(self, name):
            self.known = index = index or read_index(self.store, record.bundle)
        if index is None:
            return
        by_shard: dict[int, list[TensorEntry]] = {}
        for entry in index.stored:
            by_shard.setdefault(entry.shard, []).append(entry)
        self.divide(stored_size(index))
        ends = index.ends()
        for shard, data_name in sorted(data_objects(index, record.bundle).items()):
            entries = by_shard[shard]
            if objects is not None and data_name.removeprefix(folder) not in objects:
                continue
            self.seen.add(data_name)
            with _Telling(self, data_name):
                self._check_size(data_name, ends[shard])
            if data_name in self.problems:
                continue
            for entry in entries:
                if itemsize(entry.dtype) is None:
                    yield partial(self._encoded, data_name, entry)
            for group in _groups((entry for entry in entries if itemsize(entry.dtype) is not None), self.part):
                yield partial(self._tensors, data_name, group)

    def check_fit(self, record: CheckpointRecord) -> None:
        """Check that what a delta has by rows fits what it is made on. All of that is read for itself, too."""
        if record.base:
            with _Telling(self, index_object(record.bundle)):
                check_fit(self.store, read_chain(self.store, record))

    def _index(self, whole: _Whole, manifest: Manifest, buffer: memoryview) -> None:
        """Read an index, and the tensors of strings or variants to which it leads. The objects have digests of all."""
        prefix = whole.name.removesuffix(".index")
        with _Telling(self, whole.name):
            index = read_index(self.store, prefix, manifest)
            with self.lock:
                self.size += whole.record.size
            with _calling():
                self.progress(whole.record.size)
            names = data_objects(index, prefix)
            with suppress(CheckpointAbsent):  # which is told of the object itself
                check_encoded(index, lambda e: self._again(names[e.shard], e.offset, e.size, buffer))

    def _part(self, whole: _Whole, start: int, buffer: memoryview) -> None:
        """Read one part of an object. The thread that reads the last part compares the digest."""
        with _Telling(self, whole.name):
            record = whole.record
            if start == 0:
                found = self.store.size(whole.name)
                if found is None:
                    raise CheckpointAbsent("is missing")
                if found != record.size:
                    raise (CheckpointAbsent if found < record.size else CheckpointDamaged)(short(found, record))
            if whole.name in self.problems:
                return
            length = min(self.part, record.size - start)
            crc = 0
            for _, chunk in self._read(whole.name, start, length, buffer):
                crc = crc32c(chunk, crc)
            with self.lock:
                whole.crcs[start] = crc, length
                complete = len(whole.crcs) >= whole.parts
            if complete:
                total = 0
                for _, (crc, length) in sorted(whole.crcs.items()):
                    total = combine(total, crc, length)
                if total != record.crc32c:
                    raise CheckpointDamaged(f"has CRC32C {total:08x}, and {record.crc32c:08x} was committed")

    def _tensors(self, name: str, entries: list[TensorEntry], buffer: memoryview) -> None:
        """Read tensors that follow each other in a shard, and compare each."""
        with _Telling(self, name):
            remaining = iter(entries)
            entry = next(remaining, None)
            crc = 0
            first, last = entries[0], entries[-1]
            for offset, chunk in self._read(name, first.offset, last.offset + last.size - first.offset, buffer):
                while entry is not None and entry.offset < offset + len(chunk):
                    end = entry.offset + entry.size
                    crc = crc32c(chunk[max(0, entry.offset - offset) : end - offset], crc)
                    if end > offset + len(chunk):
                        break
                    _compare(entry, crc)
                    entry, crc = next(remaining, None), 0
            while entry is not None:  # empty tensors at the end
                _compare(entry, 0)
                entry = next(remaining, None)

    def _encoded(self, name: str, entry: TensorEntry, buffer: memoryview) -> None:
        """Read one tensor of strings or variants, and compare it."""
        with _Telling(self, name):
            chunks = (chunk for _, chunk in self._read(name, entry.offset, entry.size, buffer))
            _compare(entry, unmask(entry_crc32c(entry.dtype, entry.shape, chunks)))

    def _again(self, name: str, start: int, length: int, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the chunks of a range that is read for itself, too."""
        end = start + length
        while start < end:
            chunk = self._chunk(name, start, buffer[: end - start])
            yield chunk
            start += len(chunk)

    def _check_size(self, name: str, end: int) -> None:
        if told := too_short(self.store, name, end):
            raise CheckpointAbsent(told)

    def _read(self, name: str, start: int, length: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield the chunks of a range of an object with their offsets. Each is valid until the next."""
        offset, end = start, start + length
        while offset < end:
            with _calling():
                room = self.room(name, offset, min(self.store.block, end - offset))
            chunk = self._chunk(name, offset, buffer[: end - offset] if room is None else room)
            with self.lock:
                self.seen.add(name)
                self.size += len(chunk)
            with _calling():
                if room is None:
                    self.sink(name, offset, chunk)
                self.progress(len(chunk))
            yield offset, chunk
            offset += len(chunk)

    def _chunk(self, name: str, offset: int, target: memoryview) -> memoryview:
        try:
            count = self.store.read_into(name, offset, target)
        except FileNotFoundError as error:
            raise CheckpointAbsent("is missing") from error
        if count == 0:
            raise CheckpointAbsent(f"ends at byte {offset}, before its contents do")
        return target[:count]

    def _tell(self, name: str, kind: ProblemKind, reason: str) -> None:
        with self.lock:
            self.seen.add(name)
            self.problems.setdefault(name, Problem(name, kind, reason))


@dataclass(slots=True)
class _Whole:
    """An object that is read in parts."""

    record: ObjectRecord
    name: str  # relative to the run directory
    parts: int
    crcs: dict[int, tuple[int, int]] = field(default_factory=dict)  # start to CRC and length


@dataclass(frozen=True, slots=True)
class _Telling:
    """A context that turns errors about an object into a `Problem` of that object."""

    run: _Verification
    name: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, CheckpointDamaged):
            kind: ProblemKind = "absent" if isinstance(error, CheckpointAbsent) else "damaged"
            self.run._tell(self.name, kind, str(error))
        elif isinstance(error, StorageError):
            self.run._tell(self.name, "unreadable", str(error))
        else:
            return False
        return True


def _indexes(manifest: Manifest) -> set[str]:
    """Return the names of the indexes in a checkpoint: the common one, and those of workers' own bundles."""
    return {each.name for each in manifest.objects if each.role in ("index", "local") and each.name.endswith(".index")}


def _compare(entry: TensorEntry, crc: int) -> None:
    if mask(crc) != entry.crc32c:
        raise CheckpointDamaged(f"has CRC32C {crc:08x} in {entry.key}, and {unmask(entry.crc32c):08x} was written")


def _groups(entries: Iterable[TensorEntry], limit: int) -> Iterator[list[TensorEntry]]:
    """Yield runs of tensors that follow each other, of about `limit` bytes, each to be read at once."""
    group: list[TensorEntry] = []
    end = size = 0
    for entry in sorted(entries, key=lambda each: (each.offset, each.size)):
        if group and (entry.offset != end or size + entry.size > limit):
            yield group
            group, size = [], 0
        group.append(entry)
        end = entry.offset + entry.size
        size += entry.size
    if group:
        yield group


def _absence(store: Store, late: list[Problem]) -> str:
    first = min(late, key=lambda problem: problem.object)
    more = f", as {len(late) - 1} more objects" if len(late) > 1 else ""
    return f"{store.url}/{first.object} {first.reason}{more}"


def _is_gone(store: Store) -> bool:
    """Return whether the whole run directory is missing: then a mount is missing, and no checkpoint is damaged."""
    try:
        return not store.list()
    except StorageError:
        return True


def _do(jobs: Iterable[Job], threads: int, block: int) -> None:
    """Do all jobs. Each thread has its own buffer of `block` bytes."""
    own = threading.local()

    def do(job: Job) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(mmap.mmap(-1, block))  # a small checkpoint touches little of it
        job(own.buffer)

    in_parallel(do, jobs, threads)
