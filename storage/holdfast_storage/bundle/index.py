"""The index of a checkpoint, which says which bytes of which shard are which tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from holdfast_protos.v1.bundle_pb2 import BundleEntry, BundleHeader, TensorShape, TensorSlice
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.slices import Extents, decode_name, encode_name, parse_key, slice_key
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest

_HEADER_KEY = b""
_VERSION = 1  # TensorFlow's kTensorBundleVersion


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

    Raises InvalidIndex, which names the tensor, unless every record is unique, sound and within one of the shards, and
    the slices of every sliced tensor cover it exactly.
    """
    entries: dict[bytes, bytes] = {}
    for table_key, record in records:
        if table_key in entries:
            raise _invalid(table_key, "is recorded twice")
        entries[table_key] = record
    if _HEADER_KEY in entries:
        raise InvalidIndex("a tensor has no name")
    tensors, stored_slices = _assemble(num_shards, entries)
    if shard_sizes is not None:
        for stored in (*tensors.values(), *stored_slices.values()):
            if not stored.slices and stored.offset + stored.size > shard_sizes[stored.shard]:
                raise InvalidIndex(f"{stored.key} lies beyond the end of its shard", object=stored.key)
    for tensor in tensors.values():
        if tensor.slices:
            covered = sum(math.prod(length for _, length in extents) for extents in tensor.slices)
            if covered != math.prod(tensor.shape):
                raise InvalidIndex(f"the slices of {tensor.key} leave gaps", object=tensor.key)
    header = BundleHeader(num_shards=num_shards)
    header.version.producer = _VERSION
    return write_table([(_HEADER_KEY, header.SerializeToString()), *sorted(entries.items())])


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
    return entry


def _check_bytes(table_key: bytes, stored: TensorEntry, num_shards: int) -> None:
    if not 0 <= stored.shard < num_shards:
        raise _invalid(table_key, f"is in shard {stored.shard} of {num_shards}")
    if stored.offset < 0 or stored.size < 0:
        raise _invalid(table_key, "has a negative offset or size")
    itemsize = dtypes.itemsize(stored.dtype)
    if itemsize is not None and stored.size != math.prod(stored.shape) * itemsize:
        what = f"{dtypes.name(stored.dtype)} {list(stored.shape)}"
        raise _invalid(table_key, f"has {stored.size} bytes, which is not the size of {what}")


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
    """Return whether two of the slices have an element in common."""
    # A sweep along the most cut dimension, so that each of thousands of slices is compared with only a few others.
    axis = max(range(len(slices[0])), key=lambda dim: len({extents[dim] for extents in slices}))
    active: list[Extents] = []
    for extents in sorted(slices, key=lambda each: each[axis]):
        start = extents[axis][0]
        active = [other for other in active if sum(other[axis]) > start]
        for other in active:
            if all(a < b + n and b < a + m for (a, m), (b, n) in zip(other, extents, strict=True)):
                return True
        active.append(extents)
    return False


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
    return InvalidIndex(f"{key if extents is None else f'slice {extents} of {key}'} {what}", object=key)
