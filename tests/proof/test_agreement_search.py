"""The agreement on a boundary to save at, searched state by state: see `support.agreement_search`.

In no state has one worker passed a boundary with a save and another one without; a request has one decision; and nobody
is stuck. A search that finds nothing proves something only if it would find it: each rule of the protocol, left out, is
found. `pytest -s` prints each part; `HOLDFAST_TEST_SEARCH=1` adds the large ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import pytest

from holdfast.session.gate import Gate, Orders
from holdfast_coordinator.core.agreement import Agreement, Create, Output, Tell, Word
from holdfast_storage.cluster import Task
from holdfast_storage.decision import Decision
from support.agreement_search import Bounds, Rules, Search, found

SMALL = [
    Bounds(),
    Bounds(lockstep=False),
    Bounds(last=1, restarts=1),
    Bounds(last=1, waits=1, give_ups=1),
    Bounds(last=1, lost=1, waits=1),
    Bounds(last=1, gone=1, waits=2),
    Bounds(last=1, deaths=1),
    Bounds(last=1, wishes=0, asks=1, numbers=1, restarts=1),
    Bounds(last=2, lead=1),
]
LARGE = [
    Bounds(workers=3, last=1),
    Bounds(last=1, wishes=2, restarts=1),
    Bounds(last=1, beside=1),
    Bounds(last=1, deaths=1, restarts=1),
    Bounds(last=3, waits=1, give_ups=1),
    Bounds(last=3, restarts=1),
    Bounds(last=3, lost=1),
    Bounds(last=2, beside=1),
    Bounds(last=2, gone=1, waits=2),
    Bounds(last=2, deaths=1, restarts=1),
    Bounds(last=2, restarts=1, lost=1, waits=1),
    Bounds(last=2, wishes=2, numbers=2),
    Bounds(last=2, wishes=1, asks=1, numbers=2),
    Bounds(workers=3, last=2),
    Bounds(workers=3, last=1, restarts=1),
]


@pytest.mark.parametrize("bounds", SMALL + (LARGE if os.environ.get("HOLDFAST_TEST_SEARCH") else []), ids=str)
def test_all_states(bounds: Bounds) -> None:
    """Whatever comes late, twice or never, whoever dies: both save or neither. Guards against a history that nobody has
    thought of."""
    search, begun = Search(bounds), time.monotonic()
    states = search.run()
    print(f"{bounds}: {states:,} states in {time.monotonic() - begun:.1f} s, saved at {sorted(search.saves)}")
    assert search.saves


def _of(target: type, name: str, instead: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.object(target, name, instead)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _told_first(self: Agreement, decision: Decision) -> list[Output]:
    self.creating = decision
    return [Create(decision), Tell(decision, self.tasks)]


def _promises_the_last(self: Gate, number: int, lead: int = 0) -> bool:
    return PREPARE(self, number, lead - 1)


PREPARE, HEARD, LOOK, DECIDE = Gate.prepare, Agreement.heard, Gate.look, Gate.decide


def _never_arms(self: Gate, number: int, lead: int = 0) -> bool:
    if number != self.decided + 1 or number <= self.number:
        return False
    self.number = number
    self.orders = Orders(limit=self.count + 1 + lead, decisions=self.orders.decisions)
    self.seen = self.orders
    return True


def _hastens(self: Gate) -> tuple[Decision, ...] | None:
    """Acts by orders that are about to be replaced."""
    if self.orders.arming:
        return ()
    return LOOK(self)


def _sees_too_early(self: Gate) -> tuple[Decision, ...] | None:
    """Takes orders for done although a decision is ahead."""
    due = LOOK(self)
    if due is not None:
        self.seen = self.orders
    return due


def _forgets(self: Gate, decision: Decision) -> bool:
    """Drops what an earlier request has decided, and is still ahead."""
    self.orders = Orders(limit=self.orders.limit)
    return DECIDE(self, decision)


def _ignores_promises(self: Agreement, task: Task, word: Word) -> list[Output]:
    """A successor that waits until it hears of a request itself."""
    known = self.open and self.number == word.promised
    return HEARD(self, task, word if known else Word(word.decided, 0, 0, word.wish))


LONE, STUCK, ANY = "lone", "stuck", "lone|stuck|request"

BROKEN = [
    ("a decision is created under a name that may be taken", _as_it_is, Rules(exclusive=False), Bounds(waits=1), ANY),
    ("a decision is told before it is created", _of(Agreement, "decide", _told_first), Rules(), Bounds(waits=1), ANY),
    (
        "the smallest promise counts",
        _of(Agreement, "boundary", property(lambda self: min(self.promises.values()))),
        Rules(),
        Bounds(),
        LONE,
    ),
    (
        "it is decided before all have promised",
        _of(Agreement, "is_complete", property(lambda self: self.open and self.creating is None and self.promises)),
        Rules(),
        Bounds(),
        LONE,
    ),
    ("the last boundary is promised", _of(Gate, "prepare", _promises_the_last), Rules(), Bounds(), LONE),
    ("the count is read before the loop is armed", _as_it_is, Rules(arms_first=False), Bounds(), LONE),
    ("the loop is not told to look", _of(Gate, "prepare", _never_arms), Rules(), Bounds(), LONE),
    ("the loop does not wait while a promise is made", _of(Gate, "look", _hastens), Rules(), Bounds(), LONE),
    ("the loop takes its orders for done too early", _of(Gate, "look", _sees_too_early), Rules(), Bounds(lead=1), LONE),
    (
        "a decision ahead is forgotten with the next one",
        _of(Gate, "decide", _forgets),
        Rules(),
        Bounds(wishes=0, asks=2, numbers=2, lead=1),
        LONE,
    ),
    ("the loop promises, not the session", _as_it_is, Rules(session_promises=False), Bounds(), STUCK),
    ("who waits for long goes on", _as_it_is, Rules(waits=False), Bounds(waits=1), ANY),
    (
        "what is not there is taken for cancelled",
        _as_it_is,
        Rules(missing_settles_nothing=False),
        Bounds(waits=1, lost=1),
        ANY,
    ),
    (
        "a successor does not adopt, and nobody cancels",
        _of(Agreement, "heard", _ignores_promises),
        Rules(may_cancel=False),
        Bounds(wishes=0, asks=1, restarts=1),
        STUCK,
    ),
    ("nobody may end a wait by himself", _as_it_is, Rules(may_cancel=False), Bounds(gone=1, waits=2), STUCK),
]


@pytest.mark.parametrize(
    ("breaks", "rules", "bounds", "what"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
def test_a_broken_rule_is_found(
    breaks: Callable[[], AbstractContextManager[Any]], rules: Rules, bounds: Bounds, what: str
) -> None:
    """Each rule, left out, leads to a lone save, a second decision or a loop that is stuck. Guards against a
    search that cannot find."""
    with breaks():
        print(found(Search(bounds, rules), what))
