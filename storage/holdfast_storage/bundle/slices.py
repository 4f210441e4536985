"""Slices of tensors, and the table keys under which an index holds them."""

from __future__ import annotations

from collections.abc import Sequence

Extent = tuple[int, int]
"""Start and length along one dimension."""

Extents = tuple[Extent, ...]
"""A slice: one extent per dimension."""


def slice_key(key: str, extents: Sequence[Extent]) -> bytes:
    """The table key of one slice of the tensor `key`."""
    raise NotImplementedError


def parse_key(table_key: bytes) -> tuple[str, Extents | None]:
    """The tensor's name and the slice that a table key stands for, None for a whole tensor."""
    raise NotImplementedError
