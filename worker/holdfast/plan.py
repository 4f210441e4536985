"""Which worker writes which bytes: a pure function of what all workers share. See docs/design/003-plan.md."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

Extents = tuple[tuple[int, int], ...]  # (start, length) of each dimension


@dataclass(frozen=True, slots=True)
class Spec:
    """What the plan knows of one tensor."""

    key: str
    dtype: int
    shape: tuple[int, ...]
    size: int
    encoded: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of one tensor, in one object."""

    position: int
    extents: Extents | None
    begin: int
    end: int
    offset: int


@dataclass(frozen=True, slots=True)
class DataObject:
    shard: int
    pieces: tuple[Piece, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker writes."""

    worker: int
    objects: tuple[DataObject, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    workers: tuple[Part, ...]
    num_shards: int
    sliced: dict[int, tuple[Extents, ...]]


def plan(specs: Sequence[Spec], num_workers: int, pinned: Collection[int] = ()) -> Plan:
    raise NotImplementedError
