"""CRC32C as TensorFlow stores it: plain, masked, and of a concatenation."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C (Castagnoli) of contiguous bytes, going on from `value`, the CRC of what came before."""
    raise NotImplementedError


def mask(crc: int) -> int:
    """The masked form that tables and entries store, so that a CRC over stored CRCs stays a good one."""
    raise NotImplementedError


def unmask(masked: int) -> int:
    """The CRC behind a masked one."""
    raise NotImplementedError


def combine(crc_a: int, crc_b: int, len_b: int) -> int:
    """CRC32C of a + b from those of a and b (unmasked) and the length of b in bytes."""
    raise NotImplementedError
