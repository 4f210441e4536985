"""A training loop's side of saves that are asked for: it waits where it must, and learns what is to be done.

See docs/design/021-saves-on-request.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from holdfast.preemption import Preemption, Watch
from holdfast.session.lane import Lane
from holdfast.session.requests import Wish
from holdfast.session.session import Session
from holdfast.session.waiting import wait_for
from holdfast_storage.decision import SAVE, Decision
from holdfast_storage.errors import CoordinatorUnavailable
from holdfast_storage.logger import logger

log = logger("holdfast")

SETTLES_AFTER = 5.0
"""Seconds after a promise for which a loop waits for the decision before that is looked for, or made, on storage."""

ENDS_WITHIN = 1.0
"""Seconds of a deadline that are left for the end of the process."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done at a boundary."""

    saves: bool
    exits: bool
    reason: str
    until: float | None  # monotonic: nobody waits for longer


class Requested:
    """One manager's."""

    def __init__(self, session: Session, preemption: Preemption | None, timeout: float) -> None:
        """timeout: seconds after which a decision that cannot be learnt is an error."""
        self._session = session
        self._timeout = timeout
        self._preemption = preemption
        self._until: float | None = None  # monotonic: this host is gone then
        self._watch = Watch(preemption, self._noticed) if preemption else None
        if self._watch is not None:
            self._watch.start()

    @property
    def exit_code(self) -> int:
        return (self._preemption or Preemption()).exit_code

    @property
    def ends_early(self) -> str:
        """The notice that came before the world had formed, if this program is to end by it: nothing is there to be
        saved. Empty otherwise."""
        wish = self._session.requests.wish
        return wish.reason if wish is not None and wish.exits and not self._session.has_joined else ""

    def take_signals(self) -> None:
        """Take the signals again, since a strategy may have taken them."""
        if self._watch is not None:
            self._watch.take_signals()

    def due(self) -> Due | None:
        """Return what is to be done at this boundary, once that is known; None if it is nothing.

        Raises the error that nothing can be saved any more, and CoordinatorUnavailable if nothing can be learnt.
        """
        requests, arrived = self._session.requests, time.monotonic()
        # What is not decided so long after the promise will not be soon, however late the loop has come to its limit:
        # otherwise one worker after the other would wait.
        settles = max(arrived, (requests.promised or arrived) + SETTLES_AFTER)
        gate, ends, settling = requests.gate, settles + self._timeout, False
        while True:
            changed = gate.changed
            decisions = gate.look()
            if decisions is not None:
                return self._together(decisions) if decisions else None
            now = time.monotonic()
            if now >= settles and self._session.superseded is not None:
                raise self._session.superseded  # not before: the others may end by a decision that is on its way
            if now >= ends:
                raise CoordinatorUnavailable(
                    f"whether all workers save at this step was not known after {now - arrived:.0f} s: neither the "
                    f"coordinator nor {self._session.url} said so",
                    phase="ask",
                )
            if now >= settles and not settling:
                settling = True
                self._settle()
            wait_for(
                self._session,
                changed,
                "all workers to agree on a step to save",
                partial(self._is_over, ends if settling else settles, settling),
            )

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _is_over(self, until: float, settling: bool, _: float) -> bool:
        return time.monotonic() >= until or (settling and self._session.superseded is not None)

    def _settle(self) -> None:
        """Let the storage decide, by a thread that it may keep."""
        settling = Lane("holdfast-settle")
        settling.submit(partial(self._session.settle, self._timeout))
        settling.end()

    def _together(self, decisions: tuple[Decision, ...]) -> Due:
        """Return what several decisions for one boundary come to. All workers know the same ones."""
        for decision in decisions:
            log.warning("%s: %s, as agreed: %s", self._session.this_task.task, decision.verb, decision.reason)
        untils = [self._session.requests.until(decision) for decision in decisions if decision.exits]
        until = min((u for u in (*untils, self._until) if u is not None), default=None)
        return Due(
            saves=any(decision.verb == SAVE for decision in decisions),
            exits=any(decision.exits for decision in decisions),
            reason="; ".join(decision.reason for decision in decisions),
            until=None if until is None else until - ENDS_WITHIN,
        )

    def _noticed(self, what: str) -> None:
        assert self._preemption is not None
        terms, task = self._preemption, self._session.this_task.task
        if terms.exits and self._until is not None:
            return  # it was told before
        until = time.monotonic() + terms.grace
        if terms.exits:
            self._until = until
        log.warning("%s has notice (%s): all workers are to save within %.0f s", task, what, terms.grace)
        self._session.ask(Wish(f"{what} on {task}", terms.exits, until))
