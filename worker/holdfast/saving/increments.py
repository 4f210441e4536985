"""What one save hands on to the next, if saves are incremental: which is full, and which rows have changed since.

A save is a delta on the commit right before it. So that all workers say so alike, it follows from what they share: the
outcomes of the saves, the restores, the tensors' specs, and the plan. Whoever has no digest of a row takes it for
changed. See docs/incremental.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.incremental import Incremental
from holdfast.saving.plan import Piece, Plan, Spec, row_size
from holdfast.saving.rows import Digests, changed, digests, table
from holdfast.saving.snapshot import Snapshot
from holdfast_storage.logger import logger
from holdfast_storage.parallel import in_parallel

log = logger("holdfast")

Place = tuple[int, int]
"""A piece of this worker's part: the position of its tensor, and where in it the piece begins, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one worker has seen of its tables at a save: 8 bytes for each row of its part of them."""

    digests: Mapping[Place, Digests]
    plan: Plan
    spec_digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What a save writes by rows, and what it leaves for the next."""

    base: str  # the prefix on which the save is a delta; empty: it is full
    tables: frozenset[int]  # positions of the tensors of which only rows are written; none if it is full
    rows: Mapping[Place, NDArray[np.int64]]  # of each piece of them: numbers within the piece, ascending
    seen: Seen


class Increments:
    """The saves of one manager, which are made one after the other."""

    def __init__(self, policy: Incremental) -> None:
        self._policy = policy
        self._prefix = ""
        self._last: Seen | None = None  # at the save with this prefix, which is the last commit
        self._deltas = 0  # since the last full one
        self._often: set[int] = set()  # positions of the tensors most of whose rows the last delta has had
        self._told = False

    def base(self, spec_digest: bytes) -> str:
        """Return the prefix of the commit on which the next save is to be a delta; empty: it is to be full."""
        if self._last is None or self._last.spec_digest != spec_digest or self._deltas + 1 >= self._policy.full_every:
            return ""
        return self._prefix

    def changes(
        self, base: str, spec_digest: bytes, snapshot: Snapshot, *, plan: Plan, worker: int, tables: frozenset[int]
    ) -> Changes:
        """Find what has changed in one worker's part of the plan. This reads all tables in it.

        base: what `base` has returned. With another plan than that of the last commit, which all workers see alike, the
        save is full all the same.
        tables: the positions of the tables.
        """
        specs, last = snapshot.specs, self._last
        pieces = [p for item in plan.parts[worker].objects for p in item.pieces if p.position in tables]

        def look(piece: Piece) -> Digests:
            data = snapshot.tensors[piece.position].data[piece.begin : piece.end]
            return digests(table(data, row_size(specs[piece.position])))

        places = [(piece.position, piece.begin) for piece in pieces]
        seen = Seen(dict(zip(places, in_parallel(look, pieces, 2), strict=True)), plan, spec_digest)
        if not base or last is None or last.plan != plan:
            return Changes("", frozenset(), {}, seen)
        rows = {place: changed(last.digests.get(place), now) for place, now in seen.digests.items()}
        self._advise(specs, rows, seen)
        return Changes(base, tables, rows, seen)

    def committed(self, prefix: str, changes: Changes) -> None:
        """Go on from a save that was committed."""
        self._prefix, self._last = prefix, changes.seen
        self._deltas = self._deltas + 1 if changes.base else 0

    def forget(self) -> None:
        """Let the next save be full: what the last commit is, or what the variables were then, is not known alike."""
        self._prefix, self._last = "", None

    def _advise(self, specs: Sequence[Spec], rows: Mapping[Place, NDArray[np.int64]], seen: Seen) -> None:
        """Log once which tensors incremental saves do not make smaller, when two deltas in a row have shown it."""
        often = {place[0] for place, found in rows.items() if 2 * len(found) > len(seen.digests[place])}
        found, self._often = sorted(often & self._often), often
        if found and not self._told:
            self._told = True
            log.warning(
                "most rows of %s%s change from one save to the next, so incremental saves hardly make them smaller. "
                "SGD, Adagrad and Ftrl update the rows that were looked up; Adam, and whatever else has moving "
                "averages, momentum or weight decay, updates all rows at every step",
                ", ".join(specs[position].key for position in found[:3]),
                f" and {len(found) - 3} more" if len(found) > 3 else "",
            )
