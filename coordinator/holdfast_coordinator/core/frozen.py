"""State as a value: what compares equal, and hashes, where all that is held is equal."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Any


def frozen(value: Any) -> Hashable:
    """A copy that nothing changes, of what is made of dataclasses, collections and values. Order counts, but in sets.

    Of a dataclass without the fields that do not count in comparisons.
    """
    if isinstance(value, dict):
        return tuple((key, frozen(each)) for key, each in value.items())
    if isinstance(value, list | tuple | deque):
        return tuple(map(frozen, value))
    if isinstance(value, set):
        return frozenset(value)
    if is_dataclass(value) and value.__hash__ is None:  # a frozen one is a value as it is
        return (type(value).__name__, *(frozen(getattr(value, f.name)) for f in fields(value) if f.compare))
    assert isinstance(value, Hashable), value
    return value
