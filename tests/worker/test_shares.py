"""The plan of a world whose tasks each hold values of their own."""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.saving.plan import Spec
from holdfast.saving.shares import Share, plan_shares
from holdfast_storage.bundle import dtypes

FLOAT, HALF = 1, 19
MIB = 1 << 20
SIZE = {FLOAT: 4, HALF: 2}

Tensor = tuple[int, tuple[int, ...], list[int]]
"""Its dtype, its shape, and the rows at which its parts begin; none: it is whole."""


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    rows = draw(st.integers(0, 40))
    columns = draw(st.sampled_from([(), (0,), (3,), (1 << 16,), (7, 1 << 18)]))
    cuts = draw(st.sets(st.integers(1, rows - 1), max_size=4)) if rows > 1 else set()
    return draw(st.sampled_from([FLOAT, HALF])), (rows, *columns), sorted({0, *cuts}) if cuts else []


def shares_of(number: int, tensor: Tensor) -> list[Share]:
    dtype, shape, begins = tensor
    key = f"v{number}"
    if not begins:
        return [Share(Spec(key, dtype, shape, SIZE[dtype] * prod(shape)), None)]
    found = []
    for begin, end in zip(begins, [*begins[1:], shape[0]], strict=True):
        part = (end - begin, *shape[1:])
        rest = tuple((0, length) for length in shape[1:])
        found.append(Share(Spec(key, dtype, part, SIZE[dtype] * prod(part)), ((begin, end - begin), *rest)))
    return found


@given(st.lists(tensors(), max_size=8), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_byte_is_written_once_by_who_holds_it(given_tensors: list[Tensor], tasks: int, chance: object) -> None:
    """Every byte that a task holds is in one piece of it, and the slices of a tensor make it up. Guards against a part
    of a variable that no server writes, or that is written under another's place."""
    held: list[list[Share]] = [[] for _ in range(tasks)]
    for number, tensor in enumerate(given_tensors):
        for share in shares_of(number, tensor):
            chance.choice(held).append(share)  # type: ignore[attr-defined]
    made = plan_shares(held)
    slices: dict[str, list[tuple[tuple[int, int], ...]]] = {}
    numbers = []
    for theirs, part in zip(held, made.plan.parts, strict=True):
        covered: Counter[int] = Counter()
        begun = dict.fromkeys(range(len(theirs)), 0)
        for item in part.objects:
            numbers.append(item.shard)
            offset = 0
            for piece in item.pieces:
                share = theirs[piece.position]
                assert (piece.begin, piece.offset) == (begun[piece.position], offset)
                size = piece.end - piece.begin
                begun[piece.position], offset = piece.end, offset + size
                covered[piece.position] += size
                if piece.extents is None:
                    assert (size, share.extents) == (share.spec.size, None)
                else:
                    assert size == SIZE[share.spec.dtype] * prod(length for _, length in piece.extents)
                    slices.setdefault(share.spec.key, []).append(piece.extents)
            assert offset <= 2 * 128 * MIB
        assert [covered[position] for position in range(len(theirs))] == [share.spec.size for share in theirs]
    assert numbers == list(range(made.plan.num_shards))
    assert {key: sorted(found) for key, found in slices.items()} == {k: sorted(f) for k, f in made.slices.items()}
    for number, (dtype, shape, begins) in enumerate(given_tensors):
        found = slices.get(f"v{number}", [])
        if not dtypes.are_slices_joined(dtype, len(shape)):
            assert len(found) == len(begins), "cut where TensorFlow does not join"
        if found and prod(shape) <= MIB:
            seen = np.zeros(shape, np.int8)
            for extents in found:
                seen[tuple(slice(start, start + length) for start, length in extents)] += 1
            assert (seen == 1).all()


def test_what_is_large_is_written_as_several_objects() -> None:
    """A large part is several objects, cut at whole rows. Guards against a server that writes one stream at a time, and
    against rows whose pieces lie in two objects."""
    spec = Spec("v", FLOAT, (1 << 16, 1 << 10), 1 << 28)
    made = plan_shares([[], [Share(spec, ((5, 1 << 16), (0, 1 << 10)))]])
    assert [len(part.objects) for part in made.plan.parts] == [1, 2]
    for first, item in zip((5, 5 + (1 << 15)), made.plan.parts[1].objects, strict=True):
        assert item.size == 1 << 27
        assert item.pieces[0].extents is not None
        assert item.pieces[0].extents[0][0] == first
    assert all(columns == (0, 1 << 10) for _, columns in made.slices["v"])


def test_who_holds_nothing_writes_nothing_but_the_chief() -> None:
    """A server without variables writes no object, and the chief writes one for what is encoded. Guards against a plan
    without the object in which the object graph lies."""
    made = plan_shares([[], []])
    assert [len(part.objects) for part in made.plan.parts] == [1, 0]
