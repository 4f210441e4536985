"""Checksums of stored tensors, including those whose bytes are not simply their elements.

TensorFlow stores a string tensor as the lengths of its elements (varints), a checksum of these, and the elements; a
variant tensor as length, bytes and checksum of each element. The CRC in the entry is not that of the stored bytes: it
takes in the lengths as fixed-width numbers. See `ReadStringTensor` and `ReadVariantTensor` in `tensor_bundle.cc`.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

from holdfast_storage.bundle.crc import Buffer, crc32c, mask
from holdfast_storage.bundle.dtypes import STRING, VARIANT
from holdfast_storage.bundle.table import MAX_VARINT_SIZE
from holdfast_storage.errors import CheckpointDamaged

_MAX_UINT32 = 0xFFFFFFFF


def entry_crc32c(dtype: int, shape: Sequence[int], chunks: Iterable[Buffer]) -> int:
    """Return the masked CRC32C for the entry of a tensor with these stored bytes. One chunk at a time is kept.

    Raises CheckpointDamaged if the bytes of a string or variant are no tensor of that dtype and shape. The index checks
    the size of other tensors.
    """
    data = _Stream(chunks)
    if dtype == STRING:
        return mask(_crc_of_strings(math.prod(shape), data))
    if dtype == VARIANT:
        return mask(_crc_of_variants(math.prod(shape), data))
    return mask(data.crc(sys.maxsize, 0)[0])


def decode_strings(stored: memoryview, elements: int) -> list[bytes]:
    """Return the elements of a string tensor that passes `entry_crc32c`."""
    data = _Stream([stored])
    lengths = [data.number() for _ in range(elements)]
    data.take(4)  # the checksum of the lengths
    return [data.take(length) for length in lengths]


class _Stream:
    """Bytes that come in chunks, of which each may be valid until the next one comes."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = iter(chunks)
        self._chunk = memoryview(b"")

    def crc(self, size: int, crc: int) -> tuple[int, int]:
        """Read up to `size` bytes. Return their CRC32C, continuing from `crc`, and how many there were."""
        left = size
        for part in self._parts(size):
            crc, left = crc32c(part, crc), left - len(part)
        return crc, size - left

    def take(self, size: int) -> bytes:
        """Read a few bytes."""
        found = b"".join(map(bytes, self._parts(size)))
        if len(found) < size:
            raise CheckpointDamaged("a string or variant tensor ends too early")
        return found

    def number(self) -> int:
        """Read a varint."""
        value = 0
        for step in range(MAX_VARINT_SIZE):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * step
            if byte < 0x80:
                return value
        raise CheckpointDamaged("a length in a string or variant tensor does not end")

    def _parts(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._chunk:
                self._chunk = memoryview(next(self._chunks, b""))
                if not self._chunk:
                    return
            part, self._chunk = self._chunk[:size], self._chunk[size:]
            size -= len(part)
            yield part


def _crc_of_strings(elements: int, data: _Stream) -> int:
    crc = total = 0
    for _ in range(elements):
        length = data.number()
        crc = crc32c(struct.pack("<I" if length <= _MAX_UINT32 else "<Q", length & 0xFFFFFFFFFFFFFFFF), crc)
        total += length
    stored = data.take(4)
    whole, size = data.crc(sys.maxsize, crc32c(stored, crc))
    if size != total or stored != struct.pack("<I", mask(crc)):
        raise CheckpointDamaged("the lengths of a string tensor do not fit its bytes")
    return whole


def _crc_of_variants(elements: int, data: _Stream) -> int:
    crc = 0
    for _ in range(elements):
        length = data.number()
        crc = crc32c(struct.pack("<Q", length & 0xFFFFFFFFFFFFFFFF), crc)
        crc, size = data.crc(length, crc)
        if size != length or (stored := data.take(4)) != struct.pack("<I", mask(crc)):
            raise CheckpointDamaged("an element of a variant tensor fails its checksum")
        crc = crc32c(stored, crc)
    if data.crc(1, 0)[1]:
        raise CheckpointDamaged("a variant tensor has bytes left over")
    return crc
