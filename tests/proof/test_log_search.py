"""The log protocol, searched state by state: see `support.log_search` for what an actor is and what can happen.

About 757,000 states in a minute (`pytest -s` prints each part): two jobs, or one with coordinators that are killed and
restarted, or left behind alive; each leads, saves, reads back, retires, removes what others left behind, deletes, and
goes back to an older checkpoint; creates fail, lose their reply, land late or never. In none of them is an acknowledged
commit lost, a live folder deleted or incomplete, or one that may still be committed, an entry changed, an outcome told
both ways, an entry of somebody superseded in the log, a generation back that had lost the lead, or nothing good live.

A search that finds nothing proves something only if it would find it: each rule of the protocol, broken, is found.
"""

from __future__ import annotations

import time

import pytest

from support.log_search import Bounds, Rules, Search, Violation


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(jobs=2, saves=1, unknown=2, kills=1),
        Bounds(jobs=2, saves=1, unknown=1, rotten=1, rollback=True),
        Bounds(jobs=2, saves=1, kills=2, rotten=1),
        Bounds(jobs=2, saves=1, left_behind=1),
        Bounds(jobs=1, saves=2, unknown=2, kills=1, refusals=1),
        Bounds(jobs=1, saves=2, unknown=1, kills=2, rotten=1),
        Bounds(jobs=1, saves=2, unknown=2, left_behind=1),
        Bounds(jobs=1, saves=1, unknown=2, left_behind=1, kills=1),
        Bounds(jobs=1, saves=1, unknown=1, left_behind=2),
        Bounds(jobs=1, saves=1, refusals=1, left_behind=1, kills=1),
        Bounds(jobs=1, saves=3, kills=1),
        Bounds(jobs=2, saves=1, orphans=True, unknown=1, kills=1),
        Bounds(jobs=2, saves=1, orphans=True, left_behind=1),
        Bounds(jobs=2, saves=1, pages=True, unknown=1, kills=1),
        Bounds(jobs=1, saves=2, pages=True, unknown=1, left_behind=1),
    ],
    ids=lambda bounds: ",".join(
        f"{name}={getattr(bounds, name)}" for name in Bounds.__slots__ if getattr(bounds, name)
    ),
)
def test_no_history_ends_badly(bounds: Bounds) -> None:
    """An order of events that nobody thought of, in which a commit is lost, undone, torn, or told wrongly."""
    search = Search(bounds)
    begun = time.perf_counter()
    states = search.run()
    print(f"\n{bounds}: {states:,} states, {search.endings:,} endings, {time.perf_counter() - begun:.1f} s")
    # It went where it was to go: all kinds of entries, and every save both committed and failed somewhere.
    assert search.kinds >= {"lead", "commit", "retire"}
    assert bounds.unknown == 0 or "abort" in search.kinds
    assert bounds.rollback == ("restored" in search.kinds)
    assert {(ordinal, True) for ordinal in range(1, bounds.saves + 1)} <= search.outcomes
    assert (1, False) in search.outcomes or bounds.unknown == 0
    assert bool(search.cleaned) == bounds.orphans
    assert search.endings


BROKEN = {
    "entries are overwritten": (
        Rules(exclusive=False),
        Bounds(jobs=2, saves=1),
        "does not lead|overwritten",
    ),
    "the commit entry comes before the data": (
        Rules(data_first=False),
        Bounds(jobs=1, saves=1, kills=1),
        "its data is not there",
    ),
    "folders are deleted before their retire entry": (
        Rules(entry_first=False),
        Bounds(jobs=1, saves=1, kills=1),
        "its data is not there",
    ),
    "retention does not read back": (
        Rules(read_back=False),
        Bounds(jobs=1, saves=1, rotten=1),
        "no live checkpoint is good",
    ),
    "an empty slot is taken for a failed create": (
        Rules(missing_settles_nothing=False),
        Bounds(jobs=1, saves=1, unknown=1),
        "told committed=False, the log says otherwise",
    ),
    "a coordinator goes on with reports although another one has led their job since": (
        Rules(asks_again=False),
        Bounds(jobs=1, saves=1, kills=1, left_behind=1, refusals=1),
        "told committed=False, the log says otherwise",
    ),
    "a job that has lost the lead leads again": (
        Rules(reigns_once=False),
        Bounds(jobs=2, saves=1, left_behind=1),
        "leads again",
    ),
    "orphans are removed before their job has lost the lead": (
        Rules(leads_first=False),
        Bounds(jobs=2, saves=1, orphans=True),
        "its data is not there",
    ),
    "a job's own folders count as orphans": (
        Rules(spares_own=False),
        Bounds(jobs=2, saves=1, orphans=True),
        "may still be committed",
    ),
    "a taken slot is answered by trying the next": (
        Rules(same_slot=False),
        Bounds(jobs=2, saves=1),
        "entry 3 drops",
    ),
    "an entry is sent before its page is there": (
        Rules(page_first=False),
        Bounds(jobs=1, saves=1, pages=True),
        "a page is not there",
    ),
    "who lost the race for a slot removes the page that it made": (
        Rules(pages_stay=False),
        Bounds(jobs=1, saves=1, pages=True, left_behind=1),
        "a page is not there",
    ),
    "pages that the last entry does not need are removed": (
        Rules(pages_outlive=False),
        Bounds(jobs=1, saves=1, pages=True),
        "a page is not there",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_protocol_is_found(broken: str) -> None:
    """A search that passes whatever it is given."""
    rules, bounds, what = BROKEN[broken]
    Search(bounds).run()
    with pytest.raises(Violation, match=what) as found:
        Search(bounds, rules).run()
    print(f"\n{broken}: {found.value}")
