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
    """Listed checkpoints keep the order of the list. Guards against a clock that was set back between two saves, so
    that stock TensorFlow finds another newest checkpoint."""
    first, second, third = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0)
    assert in_order([third, first, second], named(first, second, third)) == [first, second, third]
    assert in_order([first, second, third], named(third, first, second)) == [third, first, second], "a rollback"


def test_without_a_list_ordinals_do_not_lie() -> None:
    """Without a list, ordinals order the saves of a generation. Guards against times of a clock that was set back, in a
    copy without the file."""
    first, second, third = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0)
    assert in_order([third, second, first], ()) == [first, second, third]


def test_without_a_list_times_order_generations() -> None:
    """Without a list, times order generations. Guards against a newest checkpoint that is chosen by number or
    by name."""
    early, late = ours(9, 1.0, B), ours(1, 3.0)
    assert in_order([late, early], ()) == [early, late]
    assert in_order([ours(3, 5.0), stock(1), stock(2)], ()) == [stock(1), stock(2), ours(3, 5.0)]


def test_the_same_time_is_no_matter_of_the_listing() -> None:
    """Checkpoints with the same time have one order on all workers. Guards against workers that restore different
    checkpoints because their listings differ."""
    one, other = ours(1, 0.0), ours(1, 0.0, B)
    assert in_order([one, other], ()) == in_order([other, one], ()) == [one, other]
    assert in_order([stock(10), stock(9)], ()) == [stock(9), stock(10)]


def test_what_is_not_listed_is_put_by_its_ordinal() -> None:
    """An unlisted checkpoint is placed by its ordinal. Guards against a commit just before the copy, not in the file
    yet, that is taken for an old one."""
    first, second, third, fourth = ours(1, 7200.0), ours(2, 7201.0), ours(3, 3600.0), ours(4, 3601.0)
    assert in_order([first, second, third, fourth], named(first, second, third)) == [first, second, third, fourth]
    assert in_order([first, second, third], named(first, third)) == [first, second, third]
    assert in_order([first, third, fourth], named(third)) == [first, third, fourth]


def test_an_early_one_with_a_late_time_stays_early() -> None:
    """An early checkpoint with a late time stays early. Guards against a kept checkpoint, from when the clock was a
    year ahead, that counts as the newest."""
    ahead, second, third = ours(1, 9e9), ours(2, 100.0), ours(3, 101.0)
    assert in_order([second, third, ahead], named(second, third)) == [ahead, second, third]


RECORDS = st.lists(
    st.builds(ours, st.integers(1, 9), st.floats(0, 10), st.sampled_from([A, B])),
    max_size=8,
    unique_by=lambda r: r.prefix,
)


@given(RECORDS, st.randoms(use_true_random=False), st.integers(0, 8))
def test_any_directory(records: list[CheckpointRecord], rng: random.Random, count: int) -> None:
    """The order of any directory is that of the file and independent of the listing. Guards against an order that loses
    a checkpoint."""
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
