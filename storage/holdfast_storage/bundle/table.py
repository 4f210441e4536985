"""The table format of an index file: sorted pairs of byte strings, in blocks with checksums.

This is LevelDB's table format, byte for byte as TensorFlow's `io/table_builder.cc` writes it: data blocks of about 256
KiB, an empty meta-index block, a block that indexes the data blocks, a footer. In a block, each key leaves out the
prefix that it shares with the key before it, except at a restart point. The offsets of the restart points end the
block. After each block come its compression type (always none in a checkpoint) and its masked CRC32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest

_BLOCK_SIZE = 256 * 1024
_RESTART_INTERVAL = 16  # 1 in the block that indexes the others
_MAGIC = 0xDB4775248B80FB57
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
MAX_VARINT_SIZE = 10


def write_table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode a table of key and value pairs. Raises ValueError unless the keys strictly ascend."""
    out = bytearray()
    index = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder(_RESTART_INTERVAL)
    ended: bytes | None = None  # handle of the last finished block; its index key awaits the key that comes next
    last: bytes | None = None
    for key, value in items:
        if last is not None and key <= last:
            raise ValueError(f"table keys must ascend: {key!r} after {last!r}")
        if ended is not None and last is not None:
            index.add(_separator(last, key), ended)
            ended = None
        block.add(key, value)
        last = key
        if block.size >= _BLOCK_SIZE:
            ended = _append_block(out, block.finish())
            block = _BlockBuilder(_RESTART_INTERVAL)
    if block.entries:
        ended = _append_block(out, block.finish())
    if ended is not None and last is not None:
        index.add(_successor(last), ended)
    meta_handle = _append_block(out, _BlockBuilder(_RESTART_INTERVAL).finish())
    index_handle = _append_block(out, index.finish())
    out += _footer(meta_handle, index_handle)
    return bytes(out)


def read_table(data: bytes) -> list[tuple[bytes, bytes]]:
    """Decode all pairs of a table, in order.

    Raises CheckpointDamaged for any malformation, and InvalidRequest for a sound table with compressed blocks.
    """
    if len(data) < _FOOTER_SIZE:
        raise CheckpointDamaged(f"the index is too short for a table: {len(data)} bytes")
    footer = data[-_FOOTER_SIZE:]
    meta, position = _read_handle(footer, 0)
    index, position = _read_handle(footer, position)
    # The footer is rebuilt and compared as a whole, so that every byte of it is checked.
    if footer != _footer(_handle(*meta), _handle(*index)):
        raise CheckpointDamaged("the index does not end in the footer of a table")
    if _read_entries(_read_block(data, meta)):
        raise CheckpointDamaged("the meta-index of the index's table is not empty")
    pairs: list[tuple[bytes, bytes]] = []
    before: bytes | None = None  # the index key of the block before, by which TensorFlow finds a key's block
    for key, value in _read_entries(_read_block(data, index)):
        handle, _ = _read_handle(value, 0)
        entries = _read_entries(_read_block(data, handle))
        if not entries or (before is not None and entries[0][0] <= before) or entries[-1][0] > key:
            raise CheckpointDamaged("blocks of the index's table are empty or out of order")
        before = key
        pairs += entries
    return pairs


class _BlockBuilder:
    """One block in the making."""

    def __init__(self, restart_interval: int) -> None:
        self.entries = 0
        self._interval = restart_interval
        self._buffer = bytearray()
        self._restarts = [0]
        self._last = b""

    @property
    def size(self) -> int:
        return len(self._buffer) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        buffer = self._buffer
        if self.entries and self.entries % self._interval == 0:
            self._restarts.append(len(buffer))
            shared = 0
        else:
            shared = _shared_prefix(self._last, key)
        buffer += _varint(shared)
        buffer += _varint(len(key) - shared)
        buffer += _varint(len(value))
        buffer += key[shared:]
        buffer += value
        self._last = key
        self.entries += 1

    def finish(self) -> bytes:
        return bytes(self._buffer) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


def _shared_prefix(a: bytes, b: bytes) -> int:
    size = min(len(a), len(b))
    # Compared as one number each: a loop over the bytes would take most of the time of writing a large index.
    differing = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return size - (differing.bit_length() + 7) // 8


def _separator(last: bytes, following: bytes) -> bytes:
    """Return the index key of the block that `last` ends: a short key, at least `last` and less than `following`."""
    shared = _shared_prefix(last, following)
    if shared < min(len(last), len(following)) and last[shared] + 1 < following[shared]:
        return last[:shared] + bytes([last[shared] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """Return the index key of the last block: a short key, at least `last`."""
    for position, byte in enumerate(last):
        if byte != 0xFF:
            return last[:position] + bytes([byte + 1])
    return last


def _append_block(out: bytearray, block: bytes) -> bytes:
    """Append a block with its trailer, and return its handle."""
    handle = _handle(len(out), len(block))
    out += block
    out += b"\0"  # not compressed
    out += struct.pack("<I", mask(crc32c(b"\0", crc32c(block))))
    return handle


def _footer(meta_handle: bytes, index_handle: bytes) -> bytes:
    return (meta_handle + index_handle).ljust(_FOOTER_SIZE - 8, b"\0") + struct.pack("<Q", _MAGIC)


def _handle(offset: int, size: int) -> bytes:
    return _varint(offset) + _varint(size)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _BYTES[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_BYTES = [bytes([value]) for value in range(0x80)]


def _read_block(data: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    end = offset + size + _TRAILER_SIZE
    if end > len(data) - _FOOTER_SIZE:
        raise CheckpointDamaged("a block of the index lies outside of the file")
    compression = data[offset + size]
    if struct.unpack_from("<I", data, end - 4)[0] != mask(crc32c(data[offset : end - 4])):
        raise CheckpointDamaged("a block of the index fails its checksum")
    if compression != 0:
        raise InvalidRequest("the index is compressed, which no TensorFlow does: this reader cannot read it")
    return data[offset : offset + size]


def _read_entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """Decode the pairs of a block, whose keys strictly ascend."""
    count = struct.unpack_from("<I", block, len(block) - 4)[0] if len(block) >= 4 else 0
    end = len(block) - 4 * (count + 1)
    if count < 1 or end < 0:
        raise CheckpointDamaged("a block of the index has no restart points")
    entries: list[tuple[bytes, bytes]] = []
    whole = set() if end else {0}  # where keys stand that leave nothing out
    key, position, size_of_keys = b"", 0, 0
    while position < end:
        start = position
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        size, position = _read_varint(block, position)
        value_start = position + unshared
        value_end = value_start + size
        if shared > len(key) or value_end > end:
            raise CheckpointDamaged("an entry of the index overruns its block")
        if not shared:
            whole.add(start)
        size_of_keys += shared + unshared
        if size_of_keys > _RESTART_INTERVAL * len(block):
            raise CheckpointDamaged("keys of the index leave out more than any writer leaves out")
        following = key[:shared] + block[position:value_start]
        if entries and following <= key:
            raise CheckpointDamaged("keys of the index are out of order")
        key = following
        entries.append((key, block[value_start:value_end]))
        position = value_end
    restarts = struct.unpack_from(f"<{count}I", block, end)
    if restarts[0] != 0 or not whole.issuperset(restarts) or any(a >= b for a, b in pairwise(restarts)):
        raise CheckpointDamaged("a block of the index has restart points where no key begins")
    return entries


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _read_varint(data, position)
    size, position = _read_varint(data, position)
    return (offset, size), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Decode a number. Return it and the position after it."""
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for step, byte in enumerate(data[position : position + MAX_VARINT_SIZE]):
        value |= (byte & 0x7F) << 7 * step
        if byte < 0x80:
            return value, position + step + 1
    raise CheckpointDamaged("a number in the index does not end")
