"""A session's part in saves that are asked for: what it wishes, promises and hears."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

from holdfast.session.gate import Gate
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import spec
from holdfast_storage.deciding import checked, decide
from holdfast_storage.decision import CANCEL, Decision
from holdfast_storage.errors import StorageError
from holdfast_storage.logger import logger
from holdfast_storage.store.base import Store

log = logger("holdfast")

LEAD = 0.25
"""Seconds of training after which a loop promises to stop: a decision has usually come by then, so it need not."""

LONGEST_LEAD = 64
"""The most boundaries of that: the next steps may be far slower than the last ones."""

AGAIN = 0.5
"""Seconds between two tries to learn a decision from storage."""


@dataclass(frozen=True, slots=True)
class Wish:
    reason: str
    exits: bool
    until: float | None  # monotonic: this host is gone then

    def message(self) -> pb.Wish:
        left = 0.0 if self.until is None else max(0.1, self.until - time.monotonic())
        return pb.Wish(reason=self.reason, exits=self.exits, seconds=left)


@dataclass(slots=True, eq=False)
class Requests:
    """The requests of one session. Its threads call this, and never the training loop, which has the gate."""

    gate: Gate = field(default_factory=Gate)
    save_every: float = 0.0  # seconds; 0: not by the clock
    young_daly: bool = False  # as often as they say, once that is known
    _wish: Wish | None = None
    _promised: dict[int, float] = field(default_factory=dict)  # when something was promised (monotonic), by request
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pace: float = 0.0  # boundaries a second
    _paced: tuple[float, int] = (0.0, 0)  # when the count was looked at, and what it was

    @property
    def wish(self) -> Wish | None:
        """What this worker wishes, until a decision fulfils it."""
        return self._wish

    @property
    def promised(self) -> float | None:
        """When the promise was made that is open (monotonic); None if there is none."""
        return self._promised.get(self.gate.promise[0])

    def ask(self, wish: Wish) -> None:
        """Wish that all save. It is told with each heartbeat."""
        with self._lock:
            self._wish = wish

    def state(self) -> tuple[object, ...]:
        """Return what heartbeats say of requests, to be compared."""
        with self._lock:
            return self.gate.decided, *self.gate.promise, self._wish

    def describe(self, beat: pb.Heartbeat) -> None:
        """Add to a heartbeat what it says of requests."""
        self._measure()
        with self._lock:
            beat.decided = self.gate.decided
            beat.promised, beat.limit = self.gate.promise
            beat.save_every_s, beat.young_daly = self.save_every, self.young_daly
            if self._wish is not None:
                beat.wish.CopyFrom(self._wish.message())

    def prepare(self, number: int) -> None:
        """Promise a boundary for a request."""
        with self._lock:
            if self.gate.prepare(number, min(LONGEST_LEAD, math.ceil(LEAD * self._pace))):
                self._promised = {number: time.monotonic(), **dict(list(self._promised.items())[:3])}

    def hear(self, message: pb.Decision) -> None:
        """Take a decision that the coordinator tells. One that cannot be right is none."""
        content = {each.name: getattr(message, each.name) for each in message.DESCRIPTOR.fields}
        try:
            self._learn(checked(content, message.number))
        except spec.Unexpected as error:
            log.warning("a coordinator's decision on a save is not believed: it %s", error)

    def settle(self, store: Store, generation: str, who: object, timeout: float) -> None:
        """Cancel the request for which something is promised, unless another decision stands: it counts then.

        Try for up to `timeout` seconds.
        """
        number, end = self.gate.promise[0], time.monotonic() + timeout
        while number and self.gate.promise[0] == number and time.monotonic() < end:
            try:
                stands = decide(store, generation, Decision(number, CANCEL, reason=f"{who} has waited for too long"))
            except StorageError as error:
                log.warning("%s: what was decided on a save is not known yet: %s", who, error)
                time.sleep(AGAIN)
            else:
                log.warning("%s: %s stands as the decision on a save (%s)", who, stands.verb, stands.reason)
                self._learn(stands)

    def until(self, decision: Decision) -> float | None:
        """Return when the host for whose sake a decision was taken is gone (monotonic); None if there is no hurry.

        It was taken after this worker had promised, and may be heard much later.
        """
        promised = self._promised.get(decision.number)
        return promised + decision.seconds if promised is not None and decision.seconds else None

    def _learn(self, decision: Decision) -> None:
        with self._lock:
            if decision.number != self.gate.decided + 1:
                return
            # Before the gate: a heartbeat that knows the decision must not tell a wish that it fulfils.
            if self._wish and decision.verb != CANCEL and decision.exits >= self._wish.exits:
                self._wish = None
            self.gate.decide(decision)

    def _measure(self) -> None:
        (then, before), now, count = self._paced, time.monotonic(), self.gate.count
        if now - then >= 1.0:
            self._pace = (count - before) / (now - then) if then else 0.0
            self._paced = now, count
