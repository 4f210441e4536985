"""CRC32C as TensorFlow stores it: plain, masked, and of a concatenation."""

from __future__ import annotations

from functools import cache, lru_cache

import crc32c as _crc32c

Buffer = bytes | bytearray | memoryview

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bit-reflected
_ONE = 1 << 31  # the polynomial 1, bit-reflected: the highest bit is x^0
_MASK_DELTA = 0xA282EAD8  # of LevelDB's crc32c.h


def crc32c(data: Buffer, value: int = 0) -> int:
    """Return the CRC32C (Castagnoli) of contiguous bytes, continuing from `value`, the CRC of what came before."""
    return _crc32c.crc32c(data, value)


def mask(crc: int) -> int:
    """Return the masked form that tables and entries store, so that a CRC over stored CRCs stays a good one."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the CRC behind a masked one."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def combine(crc_a: int, crc_b: int, len_b: int) -> int:
    """Return the CRC32C of a + b, given those of a and b (unmasked) and the length of b in bytes.

    A CRC is a remainder modulo a polynomial over GF(2), and len_b more bytes multiply it by x^(8 len_b), as in zlib's
    crc32_combine. A new length costs tens of microseconds, a known one a few.
    """
    return _multiply(crc_a, _power_of_bytes(len_b)) ^ crc_b


def _multiply(a: int, b: int) -> int:
    """Return the product of two bit-reflected polynomials, modulo the Castagnoli polynomial."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _power_of_two(exponent: int) -> int:
    """Return x^(2^exponent)."""
    if exponent == 0:
        return _ONE >> 1
    root = _power_of_two(exponent - 1)
    return _multiply(root, root)


@lru_cache(maxsize=4096)
def _power_of_bytes(length: int) -> int:
    """Return x^(8 length)."""
    power, exponent = _ONE, 3
    while length:
        if length & 1:
            power = _multiply(power, _power_of_two(exponent))
        length >>= 1
        exponent += 1
    return power
