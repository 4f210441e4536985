"""Which tensors are tables: those of which a delta has rows, and not the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.saving.plan import Extents, Plan, Spec, row_size

FEWEST_ROWS = 1_000
LEAST_SIZE = 1 << 20
"""Bytes of the smallest table: to write a smaller one whole takes no time."""

LONGEST_ROW = 16 << 10
"""The most bytes of a row. The plan cuts tensors with shorter ones between two rows."""


def tables(specs: Sequence[Spec], plan: Plan) -> frozenset[int]:
    """Return the positions of the tables. All workers find the same."""
    return frozenset(p for p, spec in enumerate(specs) if is_table(spec, plan.sliced.get(p, ())))


def is_table(spec: Spec, slices: Iterable[Extents]) -> bool:
    """Return whether a tensor that is stored in these slices is a table. Without any, it is stored whole."""
    if spec.encoded or len(spec.shape) < 2 or spec.shape[0] < FEWEST_ROWS or spec.size < LEAST_SIZE:
        return False
    whole = [(0, length) for length in spec.shape[1:]]
    return row_size(spec) <= LONGEST_ROW and all([*extents[1:]] == whole for extents in slices)
