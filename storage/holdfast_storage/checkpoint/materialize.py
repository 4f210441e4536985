"""A whole TensorFlow checkpoint of what may be a delta, in a folder of its own.

It is put together piece by piece, each verified before it is written: never more than a few pieces are in memory. The
index comes last, so there is no checkpoint before all of it is there. A mark, made first, says of what it is made. So
who was interrupted can begin again, and nothing else is ever overwritten or deleted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record, header_record, slice_record, write_index
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.checkpoint.chain import Chain, Part, Stored, read_chain
from holdfast_storage.checkpoint.index import check_sizes
from holdfast_storage.checkpoint.pieces import Progress, check, read_part, read_range
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import STATE_FILE, data_object, index_object
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store

MARK = "materialized.json"
"""The object that says of which checkpoint a folder is made."""

_RUN = 8 << 20  # bytes of small tensors to read at once
_OBJECT = 128 << 20  # bytes of an object, about
_WRITERS = 4  # objects at a time; each has an item in memory

_Record = tuple[bytes, BundleEntry]


@dataclass(frozen=True, slots=True)
class _Item:
    """Tensors and slices that follow each other in one object; or one that has changed since it was stored there."""

    pieces: tuple[tuple[Extents | None, Stored], ...]
    part: Part | None = None

    @property
    def size(self) -> int:
        return sum(stored.entry.size for _, stored in self.pieces)

    @property
    def to_read(self) -> int:
        changes = self.part.changes if self.part else ()
        return self.size + sum(change.rows.entry.size + change.values.entry.size for change in changes)


class Materializing:
    """A whole checkpoint in the making.

    The constructor and `write` raise CheckpointAbsent or CheckpointDamaged if the checkpoint is not what was committed,
    and StorageError if a storage fails.
    """

    def __init__(self, store: Store, record: CheckpointRecord) -> None:
        self._store = store
        self._record = record
        self._chain = read_chain(store, record)
        check_sizes(store, self._chain.newest.index, record.bundle)
        self._items = [*_whole(self._chain), *_by_rows(self._chain)]
        self.size = sum(item.to_read for item in self._items)
        """The bytes to read."""

    def write(self, url: str, progress: Progress) -> str:
        """Write the checkpoint into a folder, and return its prefix there. What is complete already is left as it is.

        url: the path or URL of a folder that does not exist, is empty, or holds this checkpoint as far as an earlier
            call came, which is begun anew.
        progress: is called from several threads.

        Raises InvalidRequest if anything else is in the folder.
        """
        out, name = open_store(url), self._record.prefix.rpartition("/")[2]
        made = {"prefix": self._record.prefix, "manifest_crc32c": self._record.manifest_crc32c}
        if not _is_complete(out, name, made):
            self._write(out, name, made, progress)
        only = CheckpointRecord(name, self._record.step, self._record.time, stock=True)
        out.replace(STATE_FILE, state_file.to_bytes(LogState("", checkpoints=(only,))))
        return f"{out.url}/{name}"

    def _write(self, out: Store, name: str, made: Mapping[str, Any], progress: Progress) -> None:
        mark = json.dumps({**made, "write_id": secrets.token_hex(16)}).encode()
        taken = InvalidRequest(f"{out.url} is being written by somebody else as well: name another folder")
        if not out.create(MARK, mark):
            raise taken
        objects = list(_dealt(self._items))

        def write(shard: int) -> tuple[int, list[_Record]]:
            records: list[_Record] = []
            chunks = self._chunks(objects[shard], shard, records, progress)
            return out.write(data_object(name, shard, len(objects)), chunks), records

        written = in_parallel(write, range(len(objects)), min(_WRITERS, out.parallel))
        records = [*self._headers(), *(record for _, found in written for record in found)]
        sizes = [size for size, _ in written]
        index = write_index(len(objects), [(key, entry.SerializeToString()) for key, entry in records], sizes)
        for shard, size in enumerate(sizes):
            if out.size(written_to := data_object(name, shard, len(objects))) != size:
                raise StorageError(f"{out.url}/{written_to} has changed since it was written", object=written_to)
        if out.read(MARK) != mark or not out.create(index_object(name), index):
            raise taken

    def _chunks(
        self, items: list[_Item], shard: int, records: list[_Record], progress: Progress
    ) -> Iterator[memoryview]:
        """Yield the bytes of an object, and add their entries."""
        offset = 0
        for item in items:
            memory = self._read(item, progress)
            at = offset
            for extents, stored in item.pieces:
                e = stored.entry
                crc = mask(crc32c(memory)) if item.part else e.crc32c
                place = {"shard": shard, "offset": at, "size": e.size, "crc32c": crc}
                if extents is None:
                    records.append(full_record(e.key, e.dtype, e.shape, **place))
                else:
                    records.append(slice_record(e.key, e.dtype, extents, **place))
                at += e.size
            yield memory
            offset += item.size

    def _read(self, item: _Item, progress: Progress) -> memoryview:
        if item.part is not None:
            return read_part(self._store, item.part, None, progress, Wait(0.0))
        first, memory = item.pieces[0][1], memoryview(bytearray(item.size))
        read_range(self._store, first.object, first.entry.offset, memory, progress)
        for _, stored in item.pieces:
            at = stored.entry.offset - first.entry.offset
            check(self._store, stored, memory[at : at + stored.entry.size])
        return memory

    def _headers(self) -> Iterator[_Record]:
        """Yield the entries of tensors in slices."""
        tables = (table.entry for table in self._chain.tables.values())
        for entry in (*self._chain.newest.index.tensors.values(), *tables):
            if entry.slices:
                yield header_record(entry.key, entry.dtype, entry.shape, entry.slices)


def _whole(chain: Chain) -> Iterator[_Item]:
    """Yield what the newest link has whole, in the order of its objects."""
    newest = chain.newest
    stored = [(e, newest.stored(entry)) for key in newest.index.tensors for e, entry in newest.index.pieces(key)]
    run: list[tuple[Extents | None, Stored]] = []
    object, size, end = "", 0, 0
    for piece in sorted(stored, key=lambda each: (each[1].object, each[1].entry.offset, each[1].entry.size)):
        entry = piece[1].entry
        if run and ((piece[1].object, entry.offset) != (object, end) or size + entry.size > _RUN):
            yield _Item(tuple(run))
            run, size = [], 0
        run.append(piece)
        object, size, end = piece[1].object, size + entry.size, entry.offset + entry.size
    if run:
        yield _Item(tuple(run))


def _by_rows(chain: Chain) -> Iterator[_Item]:
    """Yield the parts of what the newest link has by rows."""
    for table in chain.tables.values():
        yield from (_Item(((part.extents, part.whole),), part) for part in table.parts)


def _dealt(items: list[_Item]) -> Iterator[list[_Item]]:
    """Deal the items out to objects, in order. There is at least one object."""
    dealt: list[_Item] = []
    size = 0
    for item in items:
        if dealt and size + item.size > _OBJECT:
            yield dealt
            dealt, size = [], 0
        dealt.append(item)
        size += item.size
    yield dealt


def _is_complete(out: Store, name: str, made: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint is in a folder already. If an earlier call has left a part of it, remove that.

    Raises InvalidRequest if anything else is there.
    """
    names = out.list()
    if not names:
        return False
    own = {MARK, STATE_FILE, index_object(name)}
    others = [each for each in names if each not in own and not each.startswith(f"{name}.data-")]
    if others or not _is_marked(out, made):
        told = others[0] if others else "another checkpoint"
        raise InvalidRequest(f"{out.url} holds {told} already: name a folder that does not exist, or is empty")
    if index_object(name) in names:
        return True
    above, _, folder = out.url.rpartition("/")
    try:
        open_store(above).delete_folder(folder)
    except InvalidRequest as error:
        raise InvalidRequest(f"{out.url} holds a part of this checkpoint, of an earlier try: delete it") from error
    return False


def _is_marked(out: Store, made: Mapping[str, Any]) -> bool:
    try:
        content = json.loads(out.read(MARK, limit=1 << 20))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(content, dict) and {key: content.get(key) for key in made} == dict(made)
