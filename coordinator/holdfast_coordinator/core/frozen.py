"""Freezes state into a value that can be compared and hashed."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any


def frozen(value: Any) -> Hashable:
    """Return an immutable copy of what consists of dataclasses, collections and values. Order counts, except in sets.

    Fields of a dataclass that do not count in comparisons are left out.
    """
    if isinstance(value, dict):
        return tuple((key, frozen(each)) for key, each in value.items())
    if isinstance(value, list | tuple | deque):
        return tuple(map(frozen, value))
    if isinstance(value, set):
        return frozenset(value)
    if value.__hash__ is None:  # a dataclass; a frozen one is a value as it is
        held = (getattr(value, field.name) for field in value.__dataclass_fields__.values() if field.compare)
        return (type(value).__name__, *map(frozen, held))
    return value  # type: ignore[no-any-return]
