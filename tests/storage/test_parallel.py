"""A few threads for one list of jobs."""

from __future__ import annotations

import threading

import pytest

from holdfast_storage.parallel import in_parallel


def test_results_come_in_the_order_of_the_items() -> None:
    """Objects are reported with the entries that belong to them, whichever was written first."""
    barrier = threading.Barrier(2)

    def job(number: int) -> int:
        barrier.wait(10)
        return -number

    assert in_parallel(job, range(6), threads=2) == [0, -1, -2, -3, -4, -5]


def test_the_first_error_ends_it() -> None:
    """With a full disk every further object is a wait for the same error."""
    begun = []

    def job(number: int) -> None:
        begun.append(number)
        raise OSError(f"full at {number}")

    with pytest.raises(OSError, match="full at 0"):
        in_parallel(job, range(1000), threads=1)
    assert begun == [0]


def test_nothing_to_do() -> None:
    """A worker without a part writes nothing, and starts no thread for it."""
    assert in_parallel(lambda item: item, [], threads=4) == []
