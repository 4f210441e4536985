"""Checksums of stored tensors, including those whose bytes are not simply their elements.

TensorFlow stores a string tensor as the lengths of its elements (varints), a checksum of these, and the elements; a
variant tensor as length, bytes and checksum of each element. The CRC in the entry is not that of the stored bytes: it
takes in the lengths as fixed-width numbers. See `ReadStringTensor` and `ReadVariantTensor` in `tensor_bundle.cc`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from holdfast_storage.bundle.crc import Buffer, crc32c, mask
from holdfast_storage.bundle.dtypes import STRING, VARIANT
from holdfast_storage.bundle.table import read_varint
from holdfast_storage.errors import CheckpointDamaged

_MAX_UINT32 = 0xFFFFFFFF


def entry_crc32c(dtype: int, shape: Sequence[int], data: Buffer) -> int:
    """Return the masked CRC32C for the entry of a tensor with these stored bytes.

    Raises CheckpointDamaged if the bytes of a string or variant are no tensor of that dtype and shape. The index checks
    the size of other tensors.
    """
    if dtype == STRING:
        return mask(_crc_of_strings(math.prod(shape), bytes(data)))
    if dtype == VARIANT:
        return mask(_crc_of_variants(math.prod(shape), bytes(data)))
    return mask(crc32c(data))


def _crc_of_strings(elements: int, data: bytes) -> int:
    crc, position, total = 0, 0, 0
    for _ in range(elements):
        length, position = read_varint(data, position)
        crc = crc32c(struct.pack("<I" if length <= _MAX_UINT32 else "<Q", length & 0xFFFFFFFFFFFFFFFF), crc)
        total += length
    if len(data) != position + 4 + total or data[position : position + 4] != struct.pack("<I", mask(crc)):
        raise CheckpointDamaged("the lengths of a string tensor do not fit its bytes")
    return crc32c(data[position:], crc)


def _crc_of_variants(elements: int, data: bytes) -> int:
    crc, position = 0, 0
    for _ in range(elements):
        length, position = read_varint(data, position)
        crc = crc32c(struct.pack("<Q", length & 0xFFFFFFFFFFFFFFFF), crc)
        crc = crc32c(data[position : position + length], crc)
        position += length
        stored = data[position : position + 4]
        if stored != struct.pack("<I", mask(crc)):
            raise CheckpointDamaged("an element of a variant tensor fails its checksum")
        crc = crc32c(stored, crc)
        position += 4
    if position != len(data):
        raise CheckpointDamaged("a variant tensor has bytes left over")
    return crc
