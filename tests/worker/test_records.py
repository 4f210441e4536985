"""How large parts of tables are stored, so that other servers read little more than they need."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.saving import shares as module
from holdfast.saving.plan import Spec
from holdfast.saving.shares import Share, plan_shares

FLOAT, HALF = 1, 19
SIZES = {FLOAT: 4, HALF: 2}


@st.composite
def tables(draw: st.DrawFn) -> list[list[Share]]:
    """Tables in parts of rows, one for each of some servers, none of which has all; the chief has nothing."""
    servers = draw(st.integers(1, 3))
    held: list[list[Share]] = [[] for _ in range(servers + 1)]
    for number in range(draw(st.integers(1, 3))):
        width, dtype = draw(st.integers(1, 40)), draw(st.sampled_from([FLOAT, HALF]))
        ends = [0, *sorted(draw(st.lists(st.integers(0, 300), min_size=servers, max_size=servers)))]
        for server, (first, end) in enumerate(pairwise(ends), 1):
            spec = Spec(f"t{number}", dtype, (end - first, width), (end - first) * width * SIZES[dtype])
            held[server].append(Share(spec, ((first, end - first), (0, width))))
    return held


@settings(max_examples=60, deadline=None)
@given(tables())
def test_parts_are_stored_in_small_records(held: list[list[Share]]) -> None:
    """Every byte of a part is in exactly one record, in order; no record has more than it should, unless it is one row
    or of a dtype whose slices TensorFlow cannot join. The slices are told as they are stored.

    Guards against servers that read a large record for a few of its rows, and against rows that are stored twice.
    """
    with_limit = module._RECORD
    module._RECORD = 1_000
    try:
        plan = plan_shares(held)
    finally:
        module._RECORD = with_limit
    told = {key: set(slices) for key, slices in plan.slices.items()}
    stored = defaultdict(set)
    for shares, part in zip(held, plan.plan.parts, strict=True):
        runs = defaultdict(list)
        for each in part.objects:
            for piece in each.pieces:
                share = shares[piece.position]
                runs[piece.position].append((piece.begin, piece.end))
                assert piece.extents is not None
                stored[share.spec.key].add(piece.extents)
                size = prod(length for _, length in piece.extents) * SIZES[share.spec.dtype]
                assert size == piece.end - piece.begin
                row = size // piece.extents[0][1] if size else 0
                assert size <= max(1_000, row) or share.spec.dtype == HALF
        for position, share in enumerate(shares):
            assert [0, *(end for _, end in runs[position])][:-1] == [begin for begin, _ in runs[position]]
            assert runs[position][-1][1] == share.spec.size
    assert stored == told
