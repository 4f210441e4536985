"""The table of an index file, by itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest

BLOCK_SIZE = 256 * 1024
TABLES = st.dictionaries(st.binary(max_size=12), st.binary(max_size=12), max_size=40)
SMALL = [(b"", b"head"), *((b"key/%03d" % number, b"value" * (number % 3)) for number in range(40))]


@given(TABLES)
@example({})
@example({b"": b""})
@example({b"\xff" * 3: b"x"})
def test_what_is_written_is_read(pairs: dict[bytes, bytes]) -> None:
    """A table reads back. Guards against shared prefixes, restart points, or empty keys and values that lose a byte."""
    items = sorted(pairs.items())
    assert read_table(write_table(items)) == items


@given(st.lists(st.integers(0, BLOCK_SIZE + 10), min_size=1, max_size=6), st.binary(max_size=4))
def test_many_blocks(sizes: list[int], prefix: bytes) -> None:
    """A table of many blocks reads back. Guards against a value at or beyond the size of a block that is split or
    vanishes."""
    items = [(prefix + bytes([0xFD + number // 2, number]), bytes(size)) for number, size in enumerate(sizes)]
    assert read_table(write_table(items)) == items


def test_the_smallest_table_byte_for_byte() -> None:
    """The smallest table has exactly these bytes. Guards against a change of the layout that passes every round trip
    and no other reader."""
    block = bytes([0, 1, 2]) + b"a" + b"bc" + struct.pack("<II", 0, 1)
    meta = struct.pack("<II", 0, 1)
    handle = bytes([0, len(block)])
    index = bytes([0, 1, len(handle)]) + b"b" + handle + struct.pack("<II", 0, 1)
    expected = b""
    for each in (block, meta, index):
        expected += each + b"\0" + struct.pack("<I", mask(crc32c(each + b"\0")))
    meta_at = len(block) + 5
    footer = bytes([meta_at, len(meta), meta_at + len(meta) + 5, len(index)])
    expected += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    assert write_table([(b"a", b"bc")]) == expected


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"], [b"", b""]])
def test_unsorted_items_are_refused(keys: list[bytes]) -> None:
    """Unsorted items are refused. Guards against a table in which readers, who search by order, miss some keys."""
    with pytest.raises(ValueError, match="ascend"):
        write_table([(key, b"") for key in keys])


def test_every_flipped_bit_is_found() -> None:
    """Every flipped bit of a table is found. Guards against a byte that is free to change, such as the padding of the
    footer."""
    table = write_table(SMALL)
    for position in range(len(table)):
        for bit in range(8):
            damaged = bytearray(table)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointDamaged):
                read_table(bytes(damaged))


def test_every_truncation_and_extension_is_found() -> None:
    """Every truncation and extension of a table is found. Guards against a file that was cut at either end, or that
    grew, taken for a table."""
    table = write_table(SMALL)
    for size in range(len(table)):
        with pytest.raises(CheckpointDamaged):
            read_table(table[:size])
        with pytest.raises(CheckpointDamaged):
            read_table(table[len(table) - size :])
    for longer in (table + b"\0", b"\0" + table):
        with pytest.raises(CheckpointDamaged):
            read_table(longer)


def test_damage_in_a_later_block_is_found() -> None:
    """Damage in a later block is found. Guards against checking only the first block, which passes for a small
    table."""
    table = write_table([(bytes([number]), bytes(BLOCK_SIZE)) for number in range(3)])
    for position in range(1000, len(table), 50_000):
        damaged = bytearray(table)
        damaged[position] ^= 0x10
        with pytest.raises(CheckpointDamaged, match="checksum"):
            read_table(bytes(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_damaged(data: bytes) -> None:
    """Any bytes are a table or damaged. Guards against a reader that ends in an error of its own."""
    with pytest.raises(CheckpointDamaged):
        read_table(data)


def seal(data_block: bytes, compression: int = 0) -> bytes:
    """A table with one data block of any bytes, under checksums that hold."""
    handle = bytes([0, len(data_block)]) if len(data_block) < 0x80 else b"\0\x80\x01"
    blocks = [
        (data_block, compression),
        (struct.pack("<II", 0, 1), 0),
        (bytes([0, 1, len(handle)]) + b"z" + handle + struct.pack("<II", 0, 1), 0),
    ]
    out, handles = b"", []
    for block, kind in blocks:
        handles.append((len(out), len(block)))
        sealed = block + bytes([kind])
        out += sealed + struct.pack("<I", mask(crc32c(sealed)))
    footer = b""
    for number in (*handles[1], *handles[2]):
        footer += bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


@given(st.binary(max_size=100))
@example(struct.pack("<I", 0))
@example(struct.pack("<I", 2**32 - 1))
@example(b"\x05\x01\x00a" + struct.pack("<II", 0, 1))
@example(b"\x00\x01\x7fa" + struct.pack("<II", 0, 1))
@example(b"\x80" * 20 + struct.pack("<II", 0, 1))
@example(b"\x00\x01\x00b\x00\x01\x00a" + struct.pack("<II", 0, 1))
def test_any_block_under_a_good_checksum_is_read_or_damaged(block: bytes) -> None:
    """Any block under a good checksum is read or damaged. Guards against a broken writer whose blocks cause unbounded
    work or another kind of error."""
    try:
        pairs = read_table(seal(block))
    except CheckpointDamaged:
        return
    keys = [key for key, _ in pairs]
    assert keys == sorted(set(keys))


def test_blocks_out_of_order_are_damaged() -> None:
    """Blocks out of order are damage. Guards against the same block twice, with good checksums, which gives every key
    twice."""
    block = b"\x00\x01\x00a" + struct.pack("<II", 0, 1)
    once = seal(block)
    assert read_table(once) == [(b"a", b"")]
    handle = bytes([0, len(block)])
    index = b"".join(bytes([0, 1, 2]) + key + handle for key in (b"b", b"c")) + struct.pack("<II", 0, 1)
    body = once[: len(block) + 5 + 8 + 5]
    sealed = index + b"\0"
    table = body + sealed + struct.pack("<I", mask(crc32c(sealed)))
    footer = bytes([len(block) + 5, 8, len(body), len(index)])
    with pytest.raises(CheckpointDamaged, match="order"):
        read_table(table + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


def test_compression_is_not_damage() -> None:
    """A compressed table is not damaged. Guards against condemning a sound table that cannot be read here."""
    with pytest.raises(InvalidRequest, match="compressed"):
        read_table(seal(struct.pack("<II", 0, 1), compression=1))
