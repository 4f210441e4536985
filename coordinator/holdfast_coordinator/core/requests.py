"""What a world knows of saves that are asked for, beside what its workers agree on."""

from __future__ import annotations

from dataclasses import dataclass, field

from .agreement import Agreement
from .messages import RequestId

PACES, COSTS = 3, 8
"""The number of saves by which the time, and the cost, of the next is judged."""


@dataclass(slots=True)
class SaveRequests:
    agreement: Agreement
    opened: tuple[int, float] = (0, 0.0)  # the request that was opened last, and when (monotonic)
    tried: bool = False  # the decision that is to be created is on its way
    # Operators' calls: the request that each waits for, and until when.
    waiting: dict[RequestId, tuple[int, float]] = field(default_factory=dict)
    every: float = 0.0  # seconds between saves that nobody asks for; 0: there are none
    by_advice: bool = False  # as often as Young and Daly say, once that is known
    last: float | None = None  # monotonic, when the last save began or a request was decided
    paces: tuple[float, ...] = ()  # seconds that the last saves took
    costs: tuple[float, ...] = ()  # seconds for which the last saves kept the chief's program

    def saved(self, begun: float, seconds: float, cost_before: float | None) -> None:
        """Note how long a committed save has taken, and what the chief says that the one before has cost."""
        if cost_before is not None:
            self.costs = (*self.costs, cost_before)[-COSTS:]
        self.last = max(begun, self.last or begun)
        self.paces = (*self.paces, seconds)[-PACES:]
