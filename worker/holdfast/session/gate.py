"""Where a training loop stops if it must: the worker's side of agreeing on a boundary to save at.

The loop's thread may be interrupted anywhere, so it takes no lock here. It writes `count` and `seen`; its session
writes all else, one thread at a time; and each reads what the other writes as one value. See
docs/design/021-saves-on-request.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.session.lane import Pending
from holdfast_storage.decision import CANCEL, Decision


@dataclass(frozen=True, slots=True)
class Orders:
    """What a session wants of the loop. New ones take the place of these as a whole."""

    arming: bool = False  # a promise is being made: the next orders come at once
    limit: int = 0  # the boundary that is not passed before the decision is known; 0: none
    decisions: tuple[Decision, ...] = ()  # to be carried out, each at its boundary


class Gate:
    """The gate of one session.

    Attributes:
        count: the boundaries that the loop has reached.
        number: of the last request for which something was promised.
        decided: the number of the last decision that is known here.
        changed: known as soon as there are other orders than those that are there now.
    """

    def __init__(self) -> None:
        self.count = 0
        self.number = 0
        self.decided = 0
        self.orders = Orders()
        self.seen: Orders | None = None  # orders that ask nothing of the loop any more
        self.changed: Pending[None] = Pending()

    # -- the loop --

    def cross(self) -> bool:
        """Count the next boundary, and return whether the loop has to `look`. This is all that most steps cost."""
        self.count += 1
        return self.orders is not self.seen

    def look(self) -> tuple[Decision, ...] | None:
        """Return what is to be carried out at this boundary; None if the loop may not go on yet."""
        orders = self.orders
        if orders.arming or 0 < orders.limit <= self.count:
            return None
        if not orders.limit and all(decision.boundary < self.count for decision in orders.decisions):
            self.seen = orders
        return tuple(decision for decision in orders.decisions if decision.boundary == self.count)

    # -- the session --

    @property
    def promise(self) -> tuple[int, int]:
        """The request for which something is promised, and the boundary; zeros if there is none."""
        limit = self.orders.limit
        return (self.number, limit) if limit else (0, 0)

    def prepare(self, number: int, lead: int = 0) -> bool:
        """Promise a boundary `lead` after the next one. Return whether that is news: not if that request is over, or an
        earlier one is not."""
        if number != self.decided + 1 or number <= self.number:
            return False
        # Before the count is read: the loop looks for other orders after it has counted.
        self._order(Orders(arming=True, decisions=self.orders.decisions))
        self.number = number
        self._order(Orders(limit=self.count + 1 + lead, decisions=self.orders.decisions))
        return True

    def decide(self, decision: Decision) -> bool:
        """Take the next decision. Return whether it was the next."""
        if decision.number != self.decided + 1:
            return False
        self.decided = decision.number
        due = tuple(each for each in self.orders.decisions if each.boundary >= self.count)
        self._order(Orders(decisions=due if decision.verb == CANCEL else (*due, decision)))
        return True

    def _order(self, orders: Orders) -> None:
        # The pending one last: whoever waits by it finds these orders.
        self.orders = orders
        before, self.changed = self.changed, Pending()
        before.set(None)
