"""The index of a checkpoint, which says which bytes of which shard are which tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from google.protobuf.message import DecodeError

from holdfast_protos.v1.bundle_pb2 import BundleEntry, BundleHeader, TensorShape, TensorSlice
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.slices import Extents, decode_name, encode_name, parse_key, slice_key
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest

_HEADER_KEY = b""
_VERSION = 1  # TensorFlow's kTensorBundleVersion

LARGEST = 256 << 20
"""The most bytes of an index. That of a million tensors with keys of 100 bytes has 140 MB."""

LONGEST_KEY = 1 << 17
"""The most bytes of a table key."""

_MOST_DIMENSIONS = 254  # TensorFlow's TensorShape::MaxDimensions
_LARGEST_NUMBER = (1 << 63) - 1


class InvalidIndex(InvalidRequest, ValueError):
    """The records do not make an index. `object` names the tensor."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor, or one stored slice of it."""

    key: str
    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]  # of the slice, for a slice
    shard: int
    offset: int
    size: int  # bytes in the shard
    crc32c: int  # masked, of the stored bytes; of a string tensor as TensorFlow computes it
    slices: tuple[Extents, ...] = ()  # if not empty, the tensor is stored in these slices and has no bytes of its own


@dataclass(frozen=True, slots=True)
class Index:
    """An index that was read."""

    num_shards: int
    tensors: dict[str, TensorEntry]  # whole and sliced tensors, in order of key bytes
    slices: dict[tuple[str, Extents], TensorEntry]  # the stored slices; every one that a tensor lists is here

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read an index file, TensorFlow's or ours.

        The slices of a tensor lie inside of it and do not overlap, but may leave gaps, as TensorFlow allows.

        Raises:
            CheckpointDamaged: it is malformed, fails a checksum or contradicts itself.
            InvalidRequest: it is sound, but of a kind that cannot be read here (big-endian, compressed, newer).
        """
        entries = dict(read_table(data))
        try:
            header = BundleHeader.FromString(entries.pop(_HEADER_KEY))
        except (KeyError, DecodeError) as error:
            raise CheckpointDamaged("the index has no header") from error
        if header.endianness != BundleHeader.LITTLE:
            raise InvalidRequest("the checkpoint was written on a big-endian machine")
        if header.version.min_consumer > _VERSION or _VERSION in header.version.bad_consumers:
            raise InvalidRequest("the checkpoint was written by a TensorFlow that is newer than this reader")
        try:
            return cls(header.num_shards, *_assemble(header.num_shards, entries))
        except InvalidIndex as error:
            raise CheckpointDamaged(f"the index contradicts itself: {error}", object=error.object) from error

    @property
    def stored(self) -> list[TensorEntry]:
        """Return all entries that have bytes of their own: whole tensors and slices."""
        return [entry for entry in (*self.tensors.values(), *self.slices.values()) if not entry.slices]

    def ends(self) -> dict[int, int]:
        """Return the bytes that each shard must have. Raises InvalidIndex if two tensors share some."""
        ends: dict[int, int] = {}
        for entry in sorted(self.stored, key=lambda each: (each.offset, each.size)):
            if entry.offset < ends.get(entry.shard, 0) and entry.size:
                raise InvalidIndex(f"{entry.key} shares bytes with another tensor", object=entry.key)
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)
        return ends

    def check_whole(self) -> None:
        """Raise InvalidIndex if the slices of a tensor leave gaps."""
        for tensor in self.tensors.values():
            covered = sum(math.prod(length for _, length in extents) for extents in tensor.slices)
            if tensor.slices and covered != math.prod(tensor.shape):
                raise InvalidIndex(f"the slices of {tensor.key} leave gaps", object=tensor.key)

    def pieces(self, key: str) -> list[tuple[Extents | None, TensorEntry]]:
        """Return a tensor's `[(None, entry)]`, or all its slices. Raises KeyError if there is no such tensor."""
        tensor = self.tensors[key]
        if not tensor.slices:
            return [(None, tensor)]
        return [(extents, self.slices[key, extents]) for extents in tensor.slices]

    def records(self) -> Iterator[tuple[bytes, BundleEntry]]:
        """Yield table key and entry of everything in the index, so that it can be written again."""
        for t in self.tensors.values():
            if t.slices:
                yield header_record(t.key, t.dtype, t.shape, t.slices)
            else:
                yield full_record(t.key, t.dtype, t.shape, shard=t.shard, offset=t.offset, size=t.size, crc32c=t.crc32c)
        for (key, extents), s in self.slices.items():
            yield slice_record(key, s.dtype, extents, shard=s.shard, offset=s.offset, size=s.size, crc32c=s.crc32c)


def full_record(
    key: str, dtype: int, shape: Sequence[int], *, shard: int, offset: int, size: int, crc32c: int
) -> tuple[bytes, BundleEntry]:
    """Return table key and entry of a whole tensor. `crc32c` is the masked CRC of its bytes."""
    entry = BundleEntry(dtype=dtype, shape=_shape(shape), shard_id=shard, offset=offset, size=size, crc32c=crc32c)
    return encode_name(key), entry


def slice_record(
    key: str, dtype: int, extents: Extents, *, shard: int, offset: int, size: int, crc32c: int
) -> tuple[bytes, BundleEntry]:
    """Return table key and entry of one slice. `crc32c` is the masked CRC of the slice's bytes in row-major order."""
    shape = _shape([length for _, length in extents])
    entry = BundleEntry(dtype=dtype, shape=shape, shard_id=shard, offset=offset, size=size, crc32c=crc32c)
    return slice_key(key, extents), entry


def header_record(key: str, dtype: int, shape: Sequence[int], slices: Sequence[Extents]) -> tuple[bytes, BundleEntry]:
    """Return table key and entry of a sliced tensor, which lists its slices. `shape` is that of the whole tensor."""
    listed = [
        TensorSlice(extent=[TensorSlice.Extent(start=start, length=length) for start, length in extents])
        for extents in slices
    ]
    return encode_name(key), BundleEntry(dtype=dtype, shape=_shape(shape), slices=listed)


def write_index(
    num_shards: int, records: Iterable[tuple[bytes, bytes]], shard_sizes: Sequence[int] | None = None
) -> bytes:
    """Encode an index file from table keys and serialized BundleEntries, in any order.

    shard_sizes: the bytes of each shard, if the entries are to be checked against them.

    Raises InvalidIndex, which names the tensor, unless every record is unique, sound and within one of the shards, no
    two share bytes, and the slices of every sliced tensor cover it exactly.
    """
    entries: dict[bytes, bytes] = {}
    for table_key, record in records:
        if table_key in entries:
            raise _invalid(table_key, "is recorded twice")
        entries[table_key] = record
    if _HEADER_KEY in entries:
        raise InvalidIndex("a tensor has no name")
    index = Index(num_shards, *_assemble(num_shards, entries))
    index.check_whole()
    if shard_sizes is not None:
        for stored in index.stored:
            if stored.offset + stored.size > shard_sizes[stored.shard]:
                raise InvalidIndex(f"{stored.key} lies beyond the end of its shard", object=stored.key)
        index.ends()
    header = BundleHeader(num_shards=num_shards)
    header.version.producer = _VERSION
    table = write_table([(_HEADER_KEY, header.SerializeToString()), *sorted(entries.items())])
    if len(table) > LARGEST:
        raise InvalidIndex(f"it has {len(table):,} bytes, and at most {LARGEST:,} are read")
    return table


def _assemble(
    num_shards: int, records: Mapping[bytes, bytes]
) -> tuple[dict[str, TensorEntry], dict[tuple[str, Extents], TensorEntry]]:
    """Return the tensors and slices that the records stand for, in order of their keys.

    Raises InvalidIndex unless each record is sound and within a shard, and each tensor has the slices that it lists.
    The slices must not overlap; they may leave gaps.
    """
    entries: dict[bytes, TensorEntry] = {}
    owners: dict[bytes, tuple[bytes, Extents]] = {}  # of each slice's key: the key of its tensor, and the slice
    for table_key in sorted(records):
        if len(table_key) > LONGEST_KEY:
            raise InvalidIndex(f"a tensor has a name of {len(table_key):,} bytes")
        # No message is kept: it takes several times the memory of what is used of it.
        entry = _parse_entry(table_key, records[table_key])
        key, shape = decode_name(table_key), tuple([dim.size for dim in entry.shape.dim])
        if entry.slices:
            listed = _listed_slices(table_key, shape, entry)
            owners.update((stored_key, (table_key, extents)) for stored_key, extents in listed.items())
            entries[table_key] = TensorEntry(key, entry.dtype, shape, 0, 0, 0, 0, tuple(listed.values()))
        else:
            stored = TensorEntry(key, entry.dtype, shape, entry.shard_id, entry.offset, entry.size, entry.crc32c)
            _check_bytes(table_key, stored, num_shards)
            entries[table_key] = stored
    for stored_key, (table_key, extents) in owners.items():
        if stored_key not in entries:
            raise _invalid(table_key, f"lacks its slice {extents}")
    tensors: dict[str, TensorEntry] = {}
    slices: dict[tuple[str, Extents], TensorEntry] = {}
    for table_key, stored in entries.items():
        if table_key in owners:
            owner_key, extents = owners[table_key]
            owner = entries[owner_key]
            lengths = tuple(length for _, length in extents)
            if stored.slices or stored.dtype != owner.dtype or stored.shape != lengths:
                raise _invalid(owner_key, f"has a slice {extents} of another dtype or shape")
            slices[owner.key, extents] = replace(stored, key=owner.key)
        elif _is_slice_key(table_key):
            raise _invalid(table_key, "has a slice that it does not list")
        else:
            tensors[stored.key] = stored
    return tensors, slices


def _parse_entry(table_key: bytes, record: bytes) -> BundleEntry:
    try:
        entry = BundleEntry.FromString(record)
    except DecodeError as error:
        raise _invalid(table_key, "has a record that is no entry") from error
    if entry.shape.unknown_rank or any(dim.size < 0 for dim in entry.shape.dim):
        raise _invalid(table_key, "has no definite shape")
    if len(entry.shape.dim) > _MOST_DIMENSIONS or math.prod(dim.size for dim in entry.shape.dim) > _LARGEST_NUMBER:
        raise _invalid(table_key, "has more dimensions or elements than TensorFlow can count")
    return entry


def _check_bytes(table_key: bytes, stored: TensorEntry, num_shards: int) -> None:
    if not 0 <= stored.shard < num_shards:
        raise _invalid(table_key, f"is in shard {stored.shard} of {num_shards}")
    if stored.offset < 0 or stored.size < 0 or stored.offset + stored.size > _LARGEST_NUMBER:
        raise _invalid(table_key, "has a negative offset or size, or ends beyond what can be counted")
    itemsize = dtypes.itemsize(stored.dtype)
    if itemsize is not None and stored.size != math.prod(stored.shape) * itemsize:
        what = f"{dtypes.name(stored.dtype)} {list(stored.shape)}"
        raise _invalid(table_key, f"has {stored.size} bytes, which is not the size of {what}")
    if stored.dtype in dtypes.ENCODED and stored.size < math.prod(stored.shape):
        raise _invalid(table_key, f"has {stored.size} bytes for {math.prod(stored.shape)} elements")


def _listed_slices(table_key: bytes, shape: tuple[int, ...], entry: BundleEntry) -> dict[bytes, Extents]:
    """Return a sliced tensor's slices by table key. Each is within the tensor and disjoint from the others."""
    key = decode_name(table_key)
    found: dict[bytes, Extents] = {}
    for listed in entry.slices:
        written = [(e.start, e.length if e.HasField("length") else -1) for e in listed.extent]
        if len(written) != len(shape) or not shape:
            raise _invalid(table_key, f"of rank {len(shape)} has a slice of rank {len(written)}")
        extents = tuple(
            (start, size if length == -1 else length) for (start, length), size in zip(written, shape, strict=True)
        )
        if any(
            start < 0 or length < 1 or start + length > size
            for (start, length), size in zip(extents, shape, strict=True)
        ):
            raise _invalid(table_key, f"of shape {list(shape)} has a slice {extents}")
        # TensorFlow does not write the length of a whole dimension in the slice's key either: the key is as written.
        found[slice_key(key, written)] = extents
    if len(found) != len(entry.slices) or _overlap(list(found.values())):
        raise _invalid(table_key, "has slices that overlap")
    return found


def _overlap(slices: Sequence[Extents]) -> bool:
    """Return whether two of the slices have an element in common, or are too tangled to tell.

    Slices are parted where none of them crosses, along one dimension after the other: a grid of thousands takes a few
    sorts. What cannot be parted is compared pair by pair, if it is little.
    """
    rank = len(slices[0])
    groups = [(list(slices), 0)]
    while groups:
        group, depth = groups.pop()
        if len(group) == 1:
            continue
        for axis in range(rank):
            parts = _apart(group, axis)
            if len(parts) > 1:
                break
        else:
            if len(group) > _FEW or any(_intersect(one, other) for one, other in combinations(group, 2)):
                return True
            continue
        if depth == _DEEPEST:
            return True
        groups += [(part, depth + 1) for part in parts]
    return False


_FEW = 100  # slices that are compared pair by pair
_DEEPEST = 16  # partings, one within the other: a grid takes one for each dimension


def _apart(slices: list[Extents], axis: int) -> list[list[Extents]]:
    """Part slices wherever none of them crosses, along one dimension."""
    parts: list[list[Extents]] = []
    end = 0
    for extents in sorted(slices, key=lambda each: each[axis]):
        start, length = extents[axis]
        if not parts or start >= end:
            parts.append([])
        parts[-1].append(extents)
        end = max(end, start + length)
    return parts


def _intersect(one: Extents, other: Extents) -> bool:
    return all(a < b + n and b < a + m for (a, m), (b, n) in zip(one, other, strict=True))


def _shape(sizes: Iterable[int]) -> TensorShape:
    return TensorShape(dim=[TensorShape.Dim(size=size) for size in sizes])


def _is_slice_key(table_key: bytes) -> bool:
    try:
        return parse_key(table_key)[1] is not None
    except ValueError:
        return False


def _invalid(table_key: bytes, what: str) -> InvalidIndex:
    try:
        key, extents = parse_key(table_key)
    except ValueError:
        key, extents = decode_name(table_key), None
    told = key if len(key) <= 200 else f"{key[:200]}..."
    return InvalidIndex(f"{told if extents is None else f'slice {extents} of {told}'} {what}", object=key)
