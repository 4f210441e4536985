"""The index of a checkpoint: which bytes of which shard are which tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.errors import InvalidRequest


class InvalidIndex(InvalidRequest, ValueError):
    """The records do not make an index: `object` names the tensor."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor, or one stored slice of it."""

    key: str
    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]  # of the slice, for a slice
    shard: int
    offset: int
    size: int  # bytes in the shard
    crc32c: int  # masked, of the stored bytes
    slices: tuple[Extents, ...] = ()  # not empty: a header, which has no bytes of its own


@dataclass(frozen=True, slots=True)
class Index:
    """An index, read."""

    num_shards: int
    tensors: dict[str, TensorEntry] = field(default_factory=dict)  # in order of key bytes
    slices: dict[tuple[str, Extents], TensorEntry] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read an index file. CheckpointDamaged if it is malformed or fails a checksum."""
        raise NotImplementedError

    def pieces(self, key: str) -> list[tuple[Extents | None, TensorEntry]]:
        """What of a tensor is stored where: `[(None, entry)]`, or each slice. KeyError if there is no such tensor."""
        raise NotImplementedError


def full_record(
    key: str, dtype: int, shape: Sequence[int], shard: int, offset: int, size: int, crc32c: int
) -> tuple[bytes, BundleEntry]:
    """Table key and entry of a whole tensor. `crc32c` is masked."""
    raise NotImplementedError


def slice_record(
    key: str, dtype: int, extents: Extents, shard: int, offset: int, size: int, crc32c: int
) -> tuple[bytes, BundleEntry]:
    """Table key and entry of one slice of a tensor. `crc32c` is masked."""
    raise NotImplementedError


def header_record(key: str, dtype: int, shape: Sequence[int], slices: Sequence[Extents]) -> tuple[bytes, BundleEntry]:
    """Table key and entry of a sliced tensor, listing its slices. `shape` is that of the whole."""
    raise NotImplementedError


def write_index(num_shards: int, records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An index file of table keys and serialized BundleEntries, in any order.

    InvalidIndex, naming the tensor, unless every tensor is there once, whole or covered by its slices exactly.
    """
    raise NotImplementedError
