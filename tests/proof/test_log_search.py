"""The coordinators' protocol, searched state by state: see `support.log_search` for what acts and what can happen."""

from __future__ import annotations

import time

import pytest

from support.log_search import Bounds, Search


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(jobs=2, saves=1),
        Bounds(jobs=1, saves=2, unknown=1, kills=2),
        Bounds(jobs=1, saves=1, unknown=1, left_behind=1),
        Bounds(jobs=1, saves=1, unknown=1, lapses=1, kills=1),
        Bounds(jobs=1, workers=2, saves=1, left_behind=1),
    ],
    ids=lambda bounds: ",".join(
        f"{name}={getattr(bounds, name)}" for name in Bounds.__slots__ if getattr(bounds, name)
    ),
)
def test_no_history_ends_badly(bounds: Bounds) -> None:
    """No history within the bounds ends badly. Guards against an order of events that nobody thought of, in which a
    commit is lost, undone, torn or misreported."""
    search = Search(bounds)
    begun = time.perf_counter()
    states = search.run()
    print(f"\n{bounds}: {states:,} states, {search.endings:,} endings, {time.perf_counter() - begun:.1f} s")
    # It went where it was to go: all kinds of entries, and every save both committed and failed somewhere.
    assert search.kinds >= {"lead", "commit", "retire"}
    assert {(ordinal, True) for ordinal in range(1, bounds.saves + 1)} <= search.outcomes
    assert search.endings
