"""A checkpoint and what it is made on: a full one, and deltas, each on the one before.

The manifest of each delta names the manifest of its base by prefix and CRC32C. So the log, which vouches for the
newest, vouches for all. What a delta says of rows must fit what it is made on: the tensor is there, has the same dtype
and row shape, and is in the same pieces. See docs/design/029-incremental.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.index import Index, TensorEntry
from holdfast_storage.bundle.slices import Extents, encode_name
from holdfast_storage.checkpoint.index import data_objects, read_index
from holdfast_storage.checkpoint.manifest import Base, Manifest, read_committed, read_manifest
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.layout import Piece, index_object, parse_piece
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

_INT64 = 9


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor or a slice of one, and the object that has its bytes."""

    object: str  # relative to the run directory
    entry: TensorEntry


@dataclass(frozen=True, slots=True)
class Change:
    """What one delta says of a part: the numbers of the rows that have changed, and their values."""

    rows: Stored
    values: Stored


@dataclass(frozen=True, slots=True)
class Part:
    """A range of rows of a tensor: as it was last stored whole, and how it has changed since."""

    begin: int
    end: int
    extents: Extents | None  # the same as a slice; None: it is the whole tensor
    whole: Stored
    changes: tuple[Change, ...]  # oldest first


@dataclass(frozen=True, slots=True)
class Table:
    """A tensor that the newest link has by rows."""

    entry: TensorEntry  # of the newest link that has it whole
    parts: tuple[Part, ...]  # the pieces in which it is stored there, in order: all rows

    @property
    def size(self) -> int:
        """The bytes of all rows."""
        return sum(part.whole.entry.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Link:
    """One checkpoint of a chain."""

    prefix: str
    manifest: Manifest | None  # None: TensorFlow wrote it
    index: Index  # of its own tensors; without the pieces of rows
    objects: Mapping[int, str]  # those of the index, by shard
    pieces: Mapping[str, Mapping[int, Change]]  # by key and first row

    def stored(self, entry: TensorEntry) -> Stored:
        """Return where the bytes of an entry of the index are."""
        return Stored(self.objects[entry.shard], entry)


@dataclass(frozen=True, slots=True)
class Chain:
    """What a checkpoint consists of."""

    links: tuple[Link, ...]  # a full one first; each other one is a delta on the one before
    tables: Mapping[str, Table]  # by key. All other tensors are in the index of the newest link

    @property
    def newest(self) -> Link:
        return self.links[-1]

    def merged(self) -> Index:
        """Return an index of all tensors.

        The parts of tables are back to back in one more shard, which nobody has stored: no checksum of them is known.
        """
        index = self.newest.index
        tensors, slices, offset = dict(index.tensors), dict(index.slices), 0
        for key, table in self.tables.items():
            tensors[key] = table.entry
            for part in table.parts:
                place = replace(part.whole.entry, shard=index.num_shards, offset=offset, crc32c=0)
                if part.extents is None:
                    tensors[key] = place
                else:
                    slices[key, part.extents] = place
                offset += place.size
        in_order = sorted(tensors.items(), key=lambda item: encode_name(item[0]))
        return Index(index.num_shards + 1, dict(in_order), slices)


def read_chain(store: Store, record: CheckpointRecord) -> Chain:
    """Read the manifests and indexes of a checkpoint and of all that it is made on.

    Raises CheckpointAbsent if one is missing or cut, CheckpointDamaged if one is not what was committed or does not fit
    the others, StorageError if one cannot be read. The error names the link.
    """
    if record.stock:
        return Chain((_link(store, record.prefix, record.prefix, None),), {})
    manifests = [read_manifest(store, record)]
    while base := manifests[-1].base:
        manifests.append(_base(store, base, manifests[-1]))
    manifests.reverse()
    links = tuple(in_parallel(lambda m: _link(store, m.prefix, m.bundle, m), manifests, store.parallel))
    return Chain(links, {key: _table(store, links, key) for key in links[-1].pieces})


def _base(store: Store, base: Base, delta: Manifest) -> Manifest:
    try:
        return read_committed(store, base.prefix, base.manifest_crc32c)
    except CheckpointDamaged as error:
        raise type(error)(f"{error}; {delta.prefix} is a delta on it", object=error.object) from error


def _link(store: Store, prefix: str, bundle: str, manifest: Manifest | None) -> Link:
    index = read_index(store, bundle, manifest)
    objects = data_objects(index, bundle)
    if manifest is None or manifest.base is None:
        return Link(prefix, manifest, index, objects, {})
    pieces: dict[str, dict[int, Change]] = {}
    whole: dict[str, TensorEntry] = {}
    for key, entry in index.tensors.items():
        piece = parse_piece(key)
        if piece is None:
            whole[key] = entry
        else:
            pieces.setdefault(piece.key, {})[piece.start] = _change(store, bundle, index, objects, piece)
    for key in pieces.keys() & whole.keys():
        raise _damaged(store, bundle, f"{key} is there whole as well as by rows")
    return Link(prefix, manifest, Index(index.num_shards, whole, index.slices), objects, pieces)


def _change(store: Store, bundle: str, index: Index, objects: Mapping[int, str], piece: Piece) -> Change:
    pair = []
    for key in (piece.rows, piece.values):
        entry = index.tensors.get(key)
        if entry is None or entry.slices:
            raise _damaged(store, bundle, f"{key} is {'missing' if entry is None else 'stored in slices'}")
        pair.append(Stored(objects[entry.shard], entry))
    return Change(*pair)


def _table(store: Store, links: tuple[Link, ...], key: str) -> Table:
    """Return a tensor that the newest link has by rows."""
    since: list[Link] = []
    for link in reversed(links):
        if key in link.index.tensors:
            return _put_together(store, link, key, since[::-1])
        if key not in link.pieces:
            missing = f"has no {key}, of which {since[-1].prefix} has rows that have changed"
            raise _damaged(store, _bundle(link), missing)
        since.append(link)
    raise AssertionError("the first link is full, and has no rows")


def _put_together(store: Store, full: Link, key: str, deltas: list[Link]) -> Table:
    """Return a tensor that is whole in one link, and by rows in those after it."""
    entry = full.index.tensors[key]
    if dtypes.itemsize(entry.dtype) is None or not entry.shape or not _row_size(entry):
        raise _damaged(store, _bundle(full), f"{key} has no rows, and {deltas[0].prefix} says which have changed")
    parts = sorted(_parts(store, full, key), key=lambda part: part.begin)
    for delta in deltas:
        if delta.pieces[key].keys() != {part.begin for part in parts}:
            raise _damaged(store, _bundle(delta), f"{key} is in other pieces than {full.prefix} has")
        for part in parts:
            _check_change(store, delta, delta.pieces[key][part.begin], entry, part.end - part.begin)
    return Table(
        entry, tuple(replace(part, changes=tuple(d.pieces[key][part.begin] for d in deltas)) for part in parts)
    )


def _parts(store: Store, link: Link, key: str) -> Iterator[Part]:
    """Yield the pieces of a tensor that is stored whole."""
    shape = link.index.tensors[key].shape
    for extents, entry in link.index.pieces(key):
        (begin, length), *others = extents or [(0, size) for size in shape]
        if others != [(0, size) for size in shape[1:]]:
            raise _damaged(store, _bundle(link), f"{key} is not stored in whole rows")
        yield Part(begin, begin + length, extents, link.stored(entry), ())


def _check_change(store: Store, link: Link, change: Change, table: TensorEntry, length: int) -> None:
    """Check that a change may be one of a piece of so many rows."""
    rows, values = change.rows.entry, change.values.entry
    if rows.dtype != _INT64 or len(rows.shape) != 1 or rows.shape[0] > length:
        told = f"{rows.key} is {_told(rows)}, and cannot be the numbers of some of {length} rows"
        raise _damaged(store, _bundle(link), told)
    if values.dtype != table.dtype or values.shape != (rows.shape[0], *table.shape[1:]):
        told = f"{values.key} is {_told(values)}, and cannot be {rows.shape[0]} rows of {_told(table)}"
        raise _damaged(store, _bundle(link), told)


def _row_size(entry: TensorEntry) -> int:
    return math.prod(entry.shape[1:]) * (dtypes.itemsize(entry.dtype) or 0)


def _told(entry: TensorEntry) -> str:
    return f"{dtypes.name(entry.dtype)} {list(entry.shape)}"


def _bundle(link: Link) -> str:
    return link.manifest.bundle if link.manifest else link.prefix


def _damaged(store: Store, bundle: str, what: str) -> CheckpointDamaged:
    full = f"{store.url}/{index_object(bundle)}"
    return CheckpointDamaged(f"{full}: {what}", object=full)
