"""At which boundary of their training loops all workers of a world save, where no program says so.

A *boundary* is a place of the loop that all workers pass equally often. Boundaries are counted. Request `n` of a
generation is settled so:

1. *Prepare*: every worker hears of request `n`.
2. *Promise*: each answers with a boundary that it has not reached, and does not pass that one before it knows the
   decision. Its session answers, not its loop, so nobody waits for a step that waits for others.
3. *Decision*: once all have promised, all save at the *largest* of these boundaries. None has passed it, however far
   apart they are. If somebody cannot answer: cancel.
4. The decision is created exclusively on storage before anybody hears of it. What stands there counts: for this
   coordinator, for another one, and for a worker that has waited for too long and creates a cancellation itself.

A coordinator keeps nothing of this. Each heartbeat repeats the last decision that its worker knows, the promise that it
has open, and its wish. See docs/design/021-saves-on-request.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.cluster import Task
from holdfast_storage.decision import CANCEL, Decision

from .last_calls import LastCalls


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for."""

    reason: str = ""
    exits: bool = False
    deadline: float | None = None  # monotonic

    def joined(self, other: Wish | None) -> Wish:
        """Return one wish for two: the more urgent says why."""
        if other is None:
            return self
        first = other if other.exits and not self.exits else self
        deadlines = [each.deadline for each in (self, other) if each.deadline is not None]
        return Wish(first.reason, first.exits, min(deadlines, default=None))


@dataclass(frozen=True, slots=True)
class Word:
    """What a heartbeat says of requests."""

    decided: int = 0  # number of the last decision that the worker knows
    promised: int = 0  # number of the request for which it has a promise open; 0: none
    limit: int = 0  # the boundary that it does not pass before it knows that decision
    wish: Wish | None = None


NOTHING = Word()


@dataclass(frozen=True, slots=True)
class Prepare:
    number: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    decision: Decision
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Create this decision exclusively. `stands` takes what stands there then."""

    decision: Decision


Output = Prepare | Tell | Create


@dataclass(slots=True)
class Agreement:
    """The requests of one world, as one coordinator process knows them."""

    tasks: tuple[Task, ...] = field(compare=False)  # those of the world
    number: int = 0  # of the request that is open, or was last
    open: bool = False
    wish: Wish | None = None  # what the open request is for; None: nobody has said yet
    promises: dict[Task, int] = field(default_factory=dict)
    creating: Decision | None = None
    latest: int = 0  # number of the last decision that anybody knows
    known: dict[int, Decision] = field(default_factory=dict)  # those that some worker may not know
    decided: LastCalls = field(init=False)  # the last decision that each worker knows

    def __post_init__(self) -> None:
        self.decided = LastCalls({0: len(self.tasks)})

    def ask(self, wish: Wish) -> list[Output]:
        """Take a wish. What several wish at the same time is one request."""
        if self.open:
            self.wish = wish.joined(self.wish)
            return []
        self._open(self.latest + 1, wish)
        return [Prepare(self.number, self.tasks)]

    def heard(self, task: Task, word: Word) -> list[Output]:
        """Take a heartbeat."""
        self._learn(task, word.decided)
        decided = self.decided.at.get(task, 0)
        if word.decided < decided:
            return []  # it comes late, on an old connection
        following = decided + 1
        if following in self.known:
            return [Tell(self.known[following], (task,))]
        if decided < self.latest:
            return self.decide(Decision(following, CANCEL))  # others know what stands there, and so will this worker
        if not self.open and word.promised == following:  # to another coordinator process
            self._open(following, word.wish)
            self.promises[task] = word.limit
            return [Prepare(following, tuple(each for each in self.tasks if each != task))]
        outputs = self.ask(word.wish) if word.wish else []
        if self.open and word.promised == self.number:
            self.promises[task] = word.limit
        elif self.open and not outputs:
            return [Prepare(self.number, (task,))]
        return outputs

    @property
    def is_complete(self) -> bool:
        """Whether all have promised, and a decision is due."""
        return self.open and self.creating is None and len(self.promises) == len(self.tasks)

    @property
    def boundary(self) -> int:
        """The first boundary that nobody has passed, once all have promised."""
        return max(self.promises.values())

    @property
    def missing(self) -> tuple[Task, ...]:
        """Those who have not promised."""
        return tuple(task for task in self.tasks if task not in self.promises) if self.open else ()

    def decide(self, decision: Decision) -> list[Output]:
        """Create a decision, unless another one is being created."""
        if self.creating is not None:
            return []
        self.creating = decision
        return [Create(decision)]

    def stands(self, decision: Decision) -> list[Output]:
        """Take what was created, or what was there already."""
        self.creating = None
        self.known[decision.number] = decision
        self._reaches(decision.number)
        behind = tuple(task for task in self.tasks if self.decided.at.get(task, 0) < decision.number)
        return [Tell(decision, behind)] if behind else []

    def _open(self, number: int, wish: Wish | None) -> None:
        self.number, self.open, self.wish, self.promises = number, True, wish, {}

    def _learn(self, task: Task, decided: int) -> None:
        self.decided.note(task, decided)
        self._reaches(decided)
        if self.known:
            earliest = self.decided.earliest
            for number in [number for number in self.known if number <= earliest]:
                del self.known[number]

    def _reaches(self, number: int) -> None:
        """Note that a decision was taken. The request may have been open here."""
        self.latest = max(self.latest, number)
        if self.open and self.number <= self.latest:
            self.open, self.wish, self.promises = False, None, {}
