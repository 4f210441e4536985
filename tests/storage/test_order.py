"""The order of checkpoints where there is no log."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.layout import prefix
from holdfast_storage.order import in_order
from holdfast_storage.records import CheckpointRecord

A, B = "0000000a", "0000000b"


def ours(ordinal: int, time: float, generation: str = A) -> CheckpointRecord:
    return CheckpointRecord(prefix("ckpt", 100 * ordinal, generation, ordinal), 100 * ordinal, time)


def stock(number: int, time: float = 0.0) -> CheckpointRecord:
    return CheckpointRecord(f"ckpt-{number}", number, time, stock=True)


def named(*records: CheckpointRecord) -> list[str]:
    return [record.prefix for record in records]


def test_what_is_listed_is_in_that_order() -> None:
    """A clock that was set back between two saves: another checkpoint is the newest than for stock TensorFlow."""
    first, second, third = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0)
    assert in_order([third, first, second], named(first, second, third)) == [first, second, third]
    assert in_order([first, second, third], named(third, first, second)) == [third, first, second], "a rollback"


def test_without_a_list_ordinals_do_not_lie() -> None:
    """The same where the file was not copied: the times of one generation are those of a clock that was set back."""
    first, second, third = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0)
    assert in_order([third, second, first], ()) == [first, second, third]


def test_without_a_list_times_order_generations() -> None:
    """The newest taken by number, or by name."""
    early, late = ours(9, 1.0, B), ours(1, 3.0)
    assert in_order([late, early], ()) == [early, late]
    assert in_order([ours(3, 5.0), stock(1), stock(2)], ()) == [stock(1), stock(2), ours(3, 5.0)]


def test_the_same_time_is_no_matter_of_the_listing() -> None:
    """Two workers that list a copied directory in other orders restore other checkpoints."""
    one, other = ours(1, 0.0), ours(1, 0.0, B)
    assert in_order([one, other], ()) == in_order([other, one], ()) == [one, other]
    assert in_order([stock(10), stock(9)], ()) == [stock(9), stock(10)]


def test_what_is_not_listed_is_put_by_its_ordinal() -> None:
    """A commit of just before the copy, which the file does not name yet, taken for an old one."""
    first, second, third, fourth = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0), ours(4, 3601.0)
    assert in_order([first, second, third, fourth], named(first, second, third)) == [first, second, third, fourth]
    assert in_order([first, second, third], named(first, third)) == [first, second, third]
    assert in_order([first, third, fourth], named(third)) == [first, third, fourth]


def test_an_early_one_with_a_late_time_stays_early() -> None:
    """What retention has kept from a time when the clock was a year ahead is the newest."""
    ahead, second, third = ours(1, 9e9), ours(2, 100.0), ours(3, 101.0)
    assert in_order([second, third, ahead], named(second, third)) == [ahead, second, third]


RECORDS = st.lists(
    st.builds(ours, st.integers(1, 9), st.floats(0, 10), st.sampled_from([A, B])),
    max_size=8,
    unique_by=lambda r: r.prefix,
)


@given(RECORDS, st.randoms(use_true_random=False), st.integers(0, 8))
def test_any_directory(records: list[CheckpointRecord], rng: random.Random, count: int) -> None:
    """An order that depends on that of a listing, loses one, or is not that of the file."""
    chosen = rng.sample(records, min(count, len(records)))
    listed = named(*chosen)
    order = in_order(records, listed)
    assert sorted(named(*order)) == sorted(named(*records))
    assert [name for name in named(*order) if name in listed] == listed
    assert in_order(rng.sample(records, len(records)), listed) == order
    if not listed:
        for generation in (A, B):
            steps = [record.step for record in order if f".{generation}." in record.prefix]
            assert steps == sorted(steps)
