"""Slices of tensors, and the table keys under which an index holds them.

A slice's key is TensorFlow's `EncodeTensorNameSlice` in OrderedCode, whose bytes sort like the values: the number 0,
the tensor's name, the rank, and start and length for each dimension. In a table key, the length -1 stands for a whole
dimension of unsaid length; everywhere else lengths are real.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Extent = tuple[int, int]
"""Start and length along one dimension."""

Extents = tuple[Extent, ...]
"""A slice: one extent per dimension."""

_ESCAPES = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}
_NAME = re.compile(rb"((?:[^\x00\xff]|\x00\xff|\xff\x00)*)\x00\x01", re.DOTALL)


def encode_name(key: str) -> bytes:
    """Encode a tensor's name as bytes, by which keys are sorted."""
    return key.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """Decode a tensor's name. Bytes that are not UTF-8 survive both ways."""
    return name.decode("utf-8", "surrogateescape")


def run_start(shape: Sequence[int], extents: Extents) -> int | None:
    """Return the row-major number of a slice's first element, or None if the slice is not one run of elements."""
    start = run = 0
    for size, (first, length) in zip(shape, extents, strict=True):
        # After a dimension of which it takes several elements, it must take all of the others.
        if run > 1 and length != size:
            return None
        start, run = start * size + first, max(run, length)
    return start


def slice_key(key: str, extents: Sequence[Extent]) -> bytes:
    """Return the table key of one slice of the tensor `key`."""
    out = bytearray(b"\x00")
    out += re.sub(rb"[\x00\xff]", lambda found: _ESCAPES[found[0]], encode_name(key))
    out += b"\x00\x01"
    out += _encode_unsigned(len(extents))
    for start, length in extents:
        out += _encode_signed(start)
        out += _encode_signed(length)
    return bytes(out)


def parse_key(table_key: bytes) -> tuple[str, Extents | None]:
    """Parse a table key into the tensor's name and the slice, which is None for a whole tensor.

    Raises ValueError for a key that begins like a slice's and is none.
    """
    if not table_key.startswith(b"\x00"):
        return decode_name(table_key), None
    found = _NAME.match(table_key, 1)
    if found is None:
        raise ValueError(f"not the key of a slice: {table_key!r}")
    name = re.sub(rb"\x00\xff|\xff\x00", lambda escape: _UNESCAPES[escape[0]], found[1])
    width = table_key[found.end()] if found.end() < len(table_key) else 0
    position = found.end() + 1 + width
    rank = int.from_bytes(table_key[found.end() + 1 : position], "big")
    numbers: list[int] = []
    while position < len(table_key):
        number, position = _decode_signed(table_key, position)
        numbers.append(number)
    key, extents = decode_name(name), tuple(zip(numbers[::2], numbers[1::2], strict=False))
    # The slice is encoded again and compared, so that exactly one spelling of it is accepted.
    if len(extents) != rank or slice_key(key, extents) != table_key:
        raise ValueError(f"not the key of a slice: {table_key!r}")
    return key, extents


def parse_spec(spec: str) -> tuple[tuple[int, ...], Extents] | None:
    """Parse TensorFlow's words for a slice, such as `4 8 0,2:-`: the shape of the whole tensor, and which part of it.

    Returns None for an empty specification, which stands for a whole tensor. Raises ValueError for any other text.
    """
    if not spec.strip():
        return None
    *sizes, parts = spec.split()
    shape, extents = tuple(map(int, sizes)), []
    for size, part in zip(shape, parts.split(":"), strict=True):
        start, length = (0, size) if part == "-" else map(int, part.split(","))
        extents.append((start, length))
    return shape, tuple(extents)


def _encode_unsigned(value: int) -> bytes:
    """Encode as OrderedCode's WriteNumIncreasing does: the number of bytes, then the bytes, big-endian."""
    width = (value.bit_length() + 7) // 8
    return bytes([width]) + value.to_bytes(width, "big")


def _encode_signed(value: int) -> bytes:
    """Encode as OrderedCode's WriteSignedNumIncreasing does: two's complement; the first bits give the width."""
    width = (value if value >= 0 else ~value).bit_length() // 7 + 1
    number = value & ((1 << 8 * width) - 1)
    return (number ^ _width_bits(width)).to_bytes(width, "big")


def _decode_signed(data: bytes, position: int) -> tuple[int, int]:
    """Decode a number. Return it and the position after it."""
    lead = int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
    negative = lead < 0x8000
    ones = lead ^ 0xFFFF if negative else lead
    width = 16 - (ones ^ 0xFFFF).bit_length()
    number = int.from_bytes(data[position : position + width], "big") ^ _width_bits(width)
    return number - (1 << 8 * width if negative else 0), position + width


def _width_bits(width: int) -> int:
    """Return as many ones as the number has bytes, at its very front."""
    return ((1 << width) - 1) << 7 * width
