"""The plan of a world whose tasks each hold values of their own, as parameter servers do.

Every task writes what it holds, so nothing is balanced: only what is held is cut into objects, as in any other plan.
The chief plans for all, since it alone knows what lies where. See docs/design/028-parameter-servers.md.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from holdfast.saving.plan import DataObject, Extents, Line, Part, Piece, Plan, Spec, boxes, ends_of_objects
from holdfast_protos.v1.bundle_pb2 import BundleEntry


@dataclass(frozen=True, slots=True)
class Assigned:
    """What the chief has planned for one task, and what all tasks must be told alike."""

    digest: bytes  # of the whole plan
    snapshot: bytes  # by which this snapshot is told from others of the same plan
    plan: Plan  # of which this task's own part counts
    headers: tuple[tuple[bytes, BundleEntry], ...] = ()  # the chief's: records of what lies in parts


@dataclass(frozen=True, slots=True)
class Share:
    """A tensor, or a part of one, that one task holds."""

    spec: Spec  # of what is held
    extents: Extents | None  # which part of the tensor it is; None: the whole


@dataclass(frozen=True, slots=True)
class Shares:
    """A plan for what several tasks hold."""

    plan: Plan  # a piece's position is that in the list of what its task holds
    slices: dict[str, list[Extents]]  # of each tensor that is stored in slices: all of them

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(repr(self).encode()).digest()


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
                    cut = [*_slices(share, begin, end)]
                for extents, size in cut:
                    pieces.append(Piece(position, extents, begin, begin + size, offset))
                    begin, offset = begin + size, offset + size
                    if extents is not None:
                        slices.setdefault(share.spec.key, []).append(extents)
            objects.append(DataObject(shard, tuple(pieces)))
            shard += 1
        parts.append(Part(tuple(objects)))
    return Shares(Plan(tuple(parts), shard, {}), slices)


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
