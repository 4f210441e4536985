"""The plan of a world whose tasks each hold values of their own, as parameter servers do.

Every task writes what it holds, so nothing is balanced: only what is held is cut into objects, as in any other plan.
The chief plans for all, since it alone knows what lies where. See docs/design/028-parameter-servers.md.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from holdfast.saving.plan import DataObject, Extents, Line, Part, Piece, Plan, Spec, boxes, ends_of_objects, row_size
from holdfast.saving.tables import is_table
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.dtypes import are_slices_joined

_RECORD = 8 << 20
"""The most bytes of a part that are stored with one checksum, unless a row has more."""

Record = tuple[bytes, BundleEntry]
"""Of an index: table key and entry."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """What the chief has planned for one task, and what all tasks must be told alike."""

    digest: bytes  # of the whole plan
    snapshot: bytes  # by which this snapshot is told from others of the same plan
    plan: Plan  # of which this task's own part counts
    tables: frozenset[int] = frozenset()  # positions of those that this task holds
    headers: tuple[Record, ...] = ()  # the chief's: records of what lies in parts, but for tables
    table_headers: tuple[Record, ...] = ()  # of tables

    def headers_of(self, is_delta: bool) -> tuple[Record, ...]:
        """Return the records of what a checkpoint has in parts. A delta has no table."""
        return self.headers if is_delta else self.headers + self.table_headers


@dataclass(frozen=True, slots=True)
class Share:
    """A tensor, or a part of one, that one task holds."""

    spec: Spec  # of what is held
    extents: Extents | None  # which part of the tensor it is; None: the whole


@dataclass(frozen=True, slots=True)
class Shares:
    """A plan for what several tasks hold."""

    held: tuple[tuple[Share, ...], ...]  # by task
    plan: Plan  # a piece's position is that in the list of what its task holds
    slices: dict[str, list[Extents]]  # of each tensor that is stored in slices: all of them

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(repr(self).encode()).digest()

    @property
    def tables(self) -> list[frozenset[int]]:
        """The positions of the tables, by task. What lies in parts is judged as a whole."""
        found = {share.spec.key for held in self.held for share in held if self._is_table(share)}
        return [frozenset(p for p, share in enumerate(held) if share.spec.key in found) for held in self.held]

    def _is_table(self, share: Share) -> bool:
        slices = self.slices.get(share.spec.key, [])
        if not slices or not share.spec.shape:
            return is_table(share.spec, slices)
        shape = tuple(max(start + length for start, length in each) for each in zip(*slices, strict=True))
        return is_table(replace(share.spec, shape=shape, size=row_size(share.spec) * shape[0]), slices)


def plan_shares(shares: Sequence[Sequence[Share]]) -> Shares:
    """Divide what each task holds into the objects that it writes.

    Args:
        shares: by task, the chief first. No two of them overlap.

    Returns:
        The plan. Every byte is in exactly one piece. What lies in parts is stored in these parts; a large part is
        stored in several slices, unless TensorFlow cannot join such.
    """
    parts, shard = [], 0
    slices: dict[str, list[Extents]] = {}
    for number, held in enumerate(shares):
        line = Line([share.spec for share in held], [], list(range(len(held))))
        ends = ends_of_objects(line, 0, line.size, 0) if held or number == 0 else []
        runs = line.divide(ends)
        counts = Counter(position for run in runs for position, _, _ in run)
        objects = []
        for run in runs:
            pieces: list[Piece] = []
            offset = 0
            for position, first, end in run:
                share, begin = held[position], first
                if share.extents is None and counts[position] == 1:
                    cut: list[tuple[Extents | None, int]] = [(None, end - begin)]
                else:
                    cut = [each for record in _records(share, begin, end) for each in _slices(share, *record)]
                for extents, size in cut:
                    pieces.append(Piece(position, extents, begin, begin + size, offset))
                    begin, offset = begin + size, offset + size
                    if extents is not None:
                        slices.setdefault(share.spec.key, []).append(extents)
            objects.append(DataObject(shard, tuple(pieces)))
            shard += 1
        parts.append(Part(tuple(objects)))
    return Shares(tuple(map(tuple, shares)), Plan(tuple(parts), shard, {}), slices)


def _records(share: Share, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of whole rows into which a run of bytes of a share is cut: whoever needs some of its rows later
    reads and verifies no more than that."""
    spec, row = share.spec, row_size(share.spec)
    cuts = share.extents is not None and end - begin > _RECORD and begin % row == 0
    step = max(1, _RECORD // row) * row if cuts and are_slices_joined(spec.dtype, len(spec.shape)) else end - begin
    for first in range(begin, max(end, begin + 1), max(step, 1)):
        yield first, min(first + step, end)


def _slices(share: Share, begin: int, end: int) -> list[tuple[Extents, int]]:
    """Return the slices of a run of bytes of a share, by their place in the whole tensor, with their sizes."""
    shape = share.spec.shape
    origin = tuple(start for start, _ in share.extents) if share.extents is not None else (0,) * len(shape)
    if share.spec.size == 0:
        return [(tuple(zip(origin, shape, strict=True)), 0)]
    item, found = share.spec.size // prod(shape), []
    for box in boxes(shape, begin // item, end // item):
        extents = tuple((first + start, length) for first, (start, length) in zip(origin, box, strict=True))
        found.append((extents, item * prod(length for _, length in box)))
    return found
