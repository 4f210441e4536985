"""The plan: who writes which bytes."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.saving.plan import Plan, Spec, plan

KIB, MIB = 1 << 10, 1 << 20
FLOAT, HALF, STRING = 1, 19, 7


def tensor(number: int, shape: tuple[int, ...], item: int = 4, dtype: int = FLOAT) -> Spec:
    return Spec(f"v{number:05d}", dtype, shape, prod(shape) * item)


def encoded(number: int, size: int) -> Spec:
    return Spec(f"v{number:05d}", STRING, (), size, encoded=True)


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    dims = st.one_of(st.integers(0, 5), st.integers(1, 3000))
    return st.lists(dims, max_size=4).map(tuple).filter(lambda shape: prod(shape) < 1 << 30)


@st.composite
def states(draw: st.DrawFn) -> list[Spec]:
    kinds = st.tuples(shapes(), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([FLOAT, HALF]))
    specs = [tensor(number, *kind) for number, kind in enumerate(draw(st.lists(kinds, max_size=30)))]
    for size in draw(st.lists(st.integers(1, 10 * MIB), max_size=3)):
        specs.insert(draw(st.integers(0, len(specs))), encoded(len(specs), size))
    return specs


def elements(extents: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> list[int]:
    """Row-major numbers of the elements of a slice, in its own row-major order."""
    return [
        sum(index * prod(shape[dim + 1 :]) for dim, index in enumerate(indices))
        for indices in product(*(range(start, start + length) for start, length in extents))
    ]


def check(specs: list[Spec], made: Plan) -> None:
    """Every byte of every numeric tensor is in exactly one piece, and pieces, objects and slices fit together."""
    runs: dict[int, list[tuple[int, int]]] = {}
    slices: dict[int, list[tuple[tuple[int, int], ...]]] = {}
    shards = [data_object.shard for part in made.parts for data_object in part.objects]
    assert shards == list(range(made.num_shards))
    assert made.parts[0].objects
    for part in made.parts:
        for data_object in part.objects:
            here = 0
            for piece in data_object.pieces:
                assert piece.offset == here
                here += piece.end - piece.begin
                runs.setdefault(piece.position, []).append((piece.begin, piece.end))
                spec = specs[piece.position]
                if piece.extents is None:
                    assert (piece.begin, piece.end) == (0, spec.size)
                else:
                    assert len(piece.extents) == len(spec.shape)
                    assert prod(n for _, n in piece.extents) * spec.size == (piece.end - piece.begin) * prod(spec.shape)
                    slices.setdefault(piece.position, []).append(piece.extents)
            assert here == data_object.size
    assert set(runs) == {position for position, spec in enumerate(specs) if not spec.encoded}
    for position, found in runs.items():
        assert found[0][0] == 0
        assert found[-1][1] == specs[position].size
        assert all(a[1] == b[0] for a, b in pairwise(found))
        assert len(found) == 1 or all(begin < end for begin, end in found)
    assert made.sliced == {position: tuple(found) for position, found in slices.items()}


@given(states(), st.integers(1, 16), st.data())
@settings(max_examples=100, deadline=None)
def test_every_byte_is_written_exactly_once(specs: list[Spec], workers: int, data: st.DataObject) -> None:
    """Every byte is written exactly once. Guards against bytes that nobody writes, or that two workers write."""
    positions = st.sets(st.integers(0, len(specs) - 1)) if specs else st.just(set())
    by_chief = data.draw(positions)
    made = plan(specs, workers, by_chief)
    check(specs, made)
    assert not by_chief & made.sliced.keys()
    assert all(specs[position].dtype == FLOAT for position in made.sliced)
    elsewhere = {piece.position for part in made.parts[1:] for o in part.objects for piece in o.pieces}
    assert not by_chief & elsewhere


@given(states(), st.integers(1, 16))
@settings(max_examples=50, deadline=None)
def test_all_workers_make_the_same_plan(specs: list[Spec], workers: int) -> None:
    """All workers compute the same plan. Guards against a worker that computes another one and leaves a gap in the
    checkpoint."""
    assert plan(list(specs), workers, [0]) == plan(tuple(specs), workers, {0})


@given(
    st.lists(st.floats(0, 7.5), min_size=200, max_size=200),
    st.integers(2, 16),
    st.integers(1, 3),
    st.integers(0, 64 * KIB),
)
@settings(max_examples=100, deadline=None)
def test_shares_are_within_five_percent(exponents: list[float], workers: int, rank: int, text: int) -> None:
    """Shares differ by at most 5 %. Guards against a save that takes as long as its slowest worker, for 200 variables
    from bytes to 128 MiB."""
    specs = []
    for number, exponent in enumerate(exponents):
        count = int(10**exponent) + 1
        shape = {1: (count,), 2: (count // 7 + 1, 7), 3: (3, count // 6 + 1, 2)}[rank]
        specs.append(tensor(number, shape))
    specs.append(encoded(200, text))
    made = plan(specs, workers)
    check(specs, made)
    shares = [part.size for part in made.parts]
    shares[0] += text
    assert max(shares) - min(shares) <= max(max(shares) * 0.05, 64 * KIB)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), st.integers(2, 16), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_slices_hold_the_bytes_that_they_say(rows: tuple[int, ...], workers: int, item: int) -> None:
    """A slice is a box whose elements are back to back in the buffer. Guards against slices that hold other bytes than
    they say."""
    shape = (*rows, 997)  # few rows, each larger than a cut may be off: slices within rows
    specs = [Spec("v", FLOAT, shape, prod(shape) * item * 64)]
    made = plan(specs, workers)
    check(specs, made)
    for part in made.parts:
        for piece in (p for o in part.objects for p in o.pieces if p.extents is not None):
            first = piece.begin // (item * 64)
            numbers = elements(piece.extents, shape)
            assert numbers == list(range(first, first + len(numbers)))


@given(states(), st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_what_cannot_be_sliced_costs_no_more_balance_than_it_has(specs: list[Spec], workers: int) -> None:
    """A tensor that cannot be sliced costs no more balance than its own size. Guards against a table of float16 that
    moves everything else to its worker, too."""
    largest = sorted((spec.size for spec in specs if spec.dtype == HALF), reverse=True)[:2]
    made = plan(specs, workers)
    shares = [part.size for part in made.parts]
    shares[0] += sum(spec.size for spec in specs if spec.encoded)
    fair = sum(shares) / workers
    text = sum(spec.size for spec in specs if spec.encoded)
    assert max(shares) <= max(fair, text) * 1.05 + 64 * KIB + sum(largest)


def test_only_what_tensorflow_joins_is_sliced() -> None:
    """Only tensors that TensorFlow joins are sliced. Guards against dtypes that its reader refuses, and nine
    dimensions, at which its process ends."""
    for one, is_sliced in (
        (tensor(0, (1 << 20, 8)), True),
        (tensor(0, (1 << 20, 8), 2, HALF), False),
        (tensor(0, (1 << 20, *[1] * 6, 8)), True),
        (tensor(0, (1 << 20, *[1] * 7, 8)), False),
    ):
        specs = [one, tensor(1, (100,))]
        made = plan(specs, 4)
        check(specs, made)
        assert bool(made.sliced) == is_sliced
    assert not plan([tensor(0, (24 << 20,), 1, HALF)], 1).sliced  # nor for the sake of several objects at once


def test_small_tensors_are_not_sliced() -> None:
    """Small tensors are not sliced. Guards against an entry, a seek and a copy for a few KiB of balance."""
    made = plan([tensor(n, (1000, 8)) for n in range(1000)], 4)
    assert not made.sliced


def test_one_large_tensor_is_spread_by_whole_rows() -> None:
    """One large tensor is spread by whole rows. Guards against an embedding table that one worker writes alone."""
    made = plan([tensor(0, (1_000_000, 64))], 4)
    assert [part.size // MIB for part in made.parts] == [61, 61, 61, 61]
    assert all(extents[1] == (0, 64) for extents in made.sliced[0])


def test_a_worker_writes_several_objects_at_once() -> None:
    """A worker writes several objects at once. Guards against one stream, to which a storage gives only a part of its
    bandwidth."""
    made = plan([tensor(n, (4 * MIB,)) for n in range(64)], 2)
    assert [len(part.objects) for part in made.parts] == [4, 4]
    assert not made.sliced
    assert [len(part.objects) for part in plan([tensor(0, (1000,))], 3).parts] == [1, 1, 0]


def test_what_only_the_chief_can_write_lightens_the_rest_of_its_part() -> None:
    """What only the chief can write makes the rest of its part smaller. Guards against worker-local values and strings
    that come on top of an equal part."""
    specs = [tensor(n, (MIB,)) for n in range(40)] + [encoded(40, 8 * MIB)]
    made = plan(specs, 4, by_chief=[3, 17])
    assert [part.size // MIB for part in made.parts] == [34, 42, 42, 42]
    assert {3, 17} <= {p.position for o in made.parts[0].objects for p in o.pieces}


def test_sizes_that_differ_between_workers_do_not_move_a_cut() -> None:
    """Sizes that differ between workers do not move a cut. Guards against plans that do not fit because of a
    worker-local string."""
    specs = [tensor(n, (MIB,)) for n in range(8)]
    mine, theirs = [*specs, encoded(8, 5)], [*specs, encoded(8, 5 * MIB)]
    assert plan(mine, 2, by_chief=[8]) == plan(theirs, 2, by_chief=[8])


def test_a_state_of_nothing_but_empty_tensors() -> None:
    """A state of only empty tensors has a plan. Guards against tensors without bytes that have no entry and no
    writer."""
    specs = [tensor(0, (0, 4)), tensor(1, (3, 0))]
    check(specs, plan(specs, 3))
    check([], plan([], 3))
    with pytest.raises(ValueError, match="0 workers"):
        plan(specs, 0)
