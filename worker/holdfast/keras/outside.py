"""Variables that belong to no strategy, made within the scope of one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def outside_of_strategies(make: Callable[[], T]) -> T:
    """Make something outside of the scope in which tf_keras's `fit` runs: scopes belong to threads.

    A variable that is made in the scope is distributed, and workers cannot agree on the initial value of bytes.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()
