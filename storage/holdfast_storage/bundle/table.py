"""The table that an index file is: sorted pairs of byte strings, in blocks with checksums."""

from __future__ import annotations

from collections.abc import Iterable


def write_table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table of key and value pairs, whose keys strictly ascend (ValueError otherwise)."""
    raise NotImplementedError


def read_table(data: bytes) -> list[tuple[bytes, bytes]]:
    """All pairs of a table, in order. CheckpointDamaged for any malformation."""
    raise NotImplementedError
