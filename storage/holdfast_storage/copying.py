"""Checkpoints of a run, copied into a run directory without a log, which may be in another storage.

A manifest comes last in its folder, and after the manifests of all that its checkpoint is made on. So at any moment,
what looks like a checkpoint in the copy is one, with all that a restore needs. A mark, made first, says of which run
the copy is and who writes it. So who was interrupted goes on, checkpoint by checkpoint, and nothing else is touched.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import LARGEST, Manifest, ObjectRecord, read_manifest
from holdfast_storage.checkpoint.pieces import Progress, read_range
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest, StorageError
from holdfast_storage.layout import OWN_FOLDER, STATE_FILE, manifest_object, parse_folder
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole

MARK = "copy.json"
"""The object that says of which run a directory is a copy."""

_WRITERS = 4  # objects at a time


class Copying:
    """A copy in the making. No two calls of its methods may be at work at a time."""

    def __init__(self, store: Store, state: LogState, out: Store) -> None:
        """Look at what is there, and change nothing.

        store, state: a run directory, and its state.
        out: a directory that does not exist, is empty, or holds what an earlier copy of the same run has left.

        Raises InvalidRequest if anything else is there, StorageError if the storage does not answer.
        """
        self._store, self._state, self._out = store, state, out
        self._run = state.run_id or store.url
        self._mark = b""
        self._complete: set[str] = set()  # prefixes whose checkpoints are known to be there
        self._names = set(out.list())
        if self._names and not self._is_marked():
            found = OWN_FOLDER if f"{OWN_FOLDER}/" in self._names else min(self._names)
            told = f"{out.url} holds {found} already, and is no copy of this run"
            raise InvalidRequest(f"{told}: name a directory that does not exist, or is empty", object=out.url)
        self._check_free(self._names)

    def size(self, record: CheckpointRecord) -> int:
        """Return the bytes to copy for a checkpoint, without what is there already. Raises what `copy` raises."""
        missing = [each for each in self._state.chain(record) if not self.has(each)]
        return sum(read_manifest(self._store, each).size for each in missing)

    def copy(self, record: CheckpointRecord, progress: Progress) -> None:
        """Copy a checkpoint and all that it is made on, as far as it is not there yet.

        progress: is called from several threads.

        Raises CheckpointAbsent or CheckpointDamaged if a byte is not what was committed, StorageError if a storage
        fails, InvalidRequest if somebody else writes to the copy as well.
        """
        if not self._mark:
            mark = json.dumps({"run": self._run, "write_id": secrets.token_hex(16)}).encode()
            self._out.replace(MARK, mark)
            self._mark = mark
        for each in self._state.chain(record):
            if not self.has(each):
                self._copy(each, progress)
                self._complete.add(each.prefix)

    def has(self, record: CheckpointRecord) -> bool:
        """Return whether a checkpoint is in the copy: its manifest is, which comes last. Its bytes are not read.

        Raises InvalidRequest if another one of its name is there.
        """
        if record.prefix in self._complete:
            return True
        if f"{record.folder}/" not in self._names:
            return False
        name = manifest_object(record.folder)
        try:
            found = crc32c(read_whole(self._out, name, LARGEST))
        except FileNotFoundError:
            return False
        if found != record.manifest_crc32c:
            raise InvalidRequest(
                f"{self._out.url}/{name} is another one than the run has: delete its folder", object=name
            )
        self._complete.add(record.prefix)
        return True

    def finish(self) -> None:
        """Write TensorFlow's `checkpoint` file for all that is there, in the order of the run.

        If nothing was to copy, do nothing.
        """
        if not self._mark:
            return
        there = tuple(each for each in self._state.restorable if not each.stock and self.has(each))
        self._check_mine()
        if content := state_file.to_bytes(LogState("", checkpoints=there)):
            self._out.replace(STATE_FILE, content)

    def _copy(self, record: CheckpointRecord, progress: Progress) -> None:
        data = read_whole(self._store, manifest_object(record.folder), LARGEST)
        manifest = read_manifest(self._store, record)
        if crc32c(data) != record.manifest_crc32c:
            raise CheckpointDamaged(f"{self._store.url}/{manifest_object(record.folder)} changes while it is read")
        self._check_mine()
        if f"{record.folder}/" in self._names:  # the rest of an earlier try: it has no manifest
            self._out.delete_folder(record.folder)
        threads = min(_WRITERS, self._store.parallel, self._out.parallel)
        in_parallel(lambda each: self._copy_object(record.folder, each, progress), manifest.objects, threads)
        self._check_sizes(record.folder, manifest)
        self._check_mine()
        if not self._out.create(manifest_object(record.folder), data):
            raise self._taken()

    def _copy_object(self, folder: str, each: ObjectRecord, progress: Progress) -> None:
        name = f"{folder}/{each.name}"
        self._out.write(name, self._verified(name, each, progress))

    def _verified(self, name: str, each: ObjectRecord, progress: Progress) -> Iterator[memoryview]:
        """Yield an object. Its end fails if it is not what was committed."""
        crc = 0
        for offset in range(0, each.size, self._store.block):
            memory = memoryview(bytearray(min(self._store.block, each.size - offset)))
            read_range(self._store, name, offset, memory, progress)
            crc = crc32c(memory, crc)
            yield memory
        if crc != each.crc32c:
            told = f"has CRC32C {crc:08x}, and {each.crc32c:08x} was committed"
            raise CheckpointDamaged(f"{self._store.url}/{name} {told}", object=name)

    def _check_sizes(self, folder: str, manifest: Manifest) -> None:
        for each in manifest.objects:
            if self._out.size(name := f"{folder}/{each.name}") != each.size:
                raise StorageError(f"{self._out.url}/{name} has changed since it was written", object=name)

    def _is_marked(self) -> bool:
        try:
            content = json.loads(self._out.read(MARK, limit=1 << 20))
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(content, dict) and content.get("run") == self._run

    def _check_free(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in (MARK, STATE_FILE) and not (name.endswith("/") and parse_folder(name)):
                why = "a job has begun there" if name == f"{OWN_FOLDER}/" else "it is no part of a copy"
                raise InvalidRequest(f"{self._out.url} holds {name}: {why}", object=self._out.url)

    def _check_mine(self) -> None:
        """Check that nobody else writes to the copy, as far as can be seen."""
        try:
            if self._out.read(MARK, limit=1 << 20) == self._mark and not self._out.list(start=OWN_FOLDER):
                return
        except FileNotFoundError:
            pass
        raise self._taken()

    def _taken(self) -> InvalidRequest:
        return InvalidRequest(f"{self._out.url} is being written by somebody else as well", object=self._out.url)
