"""What the parts of the machine share: one run as this coordinator knows it, and how anybody is told anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holdfast_protos.conventions import UNKNOWN_GENERATION
from holdfast_storage.cluster import Task
from holdfast_storage.records import Entry, EntryKind, Leader, LogState

from .attempt import Attempt, Phase
from .effects import Effect, Notify, Refuse, Reply, WriteStateFile
from .ledger import Intent, Ledger
from .membership import World
from .messages import Answer, Caller, Failure, Left, Now, Outcome, RequestId

KINDS_OF_FAILED_SAVES = ("superseded", "replica_divergence", "invalid_request", "storage")
"""What a save may fail as; whatever else stood in its way, it has `save_failed`."""


class Run:
    """The worlds of a run, its log and its lead, at the moment of one event; and the effects of that event."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.worlds: dict[str, World] = {}  # by generation
        self.leading = ""  # generation that this coordinator leads the run with
        self.led_since = -1  # number of the entry that took the lead
        self.condemned: set[str] = set()  # prefixes that two readers found damaged, whether or not the log says so yet
        self.now = Now(0.0, 0.0)
        self.effects: list[Effect] = []
        self.ledger = Ledger(leader.id, self.emit)

    def begin(self, now: Now) -> None:
        """The next event: its time, and no effects yet."""
        self.now = now
        self.effects = []

    # -- who calls --

    def world(self, caller: Caller, request: RequestId) -> World | None:
        """The caller's world, if it is of it; otherwise the call has been refused.

        It may be fenced: what it has been told once, it is told again, but nothing new begins in it.
        """
        world = self.worlds.get(caller.generation)
        if world is None:
            self.refuse(request, unknown(caller.generation))
        elif not world.has(caller):
            self.refuse(request, replaced(caller.task))
        else:
            return world
        return None

    def present(self, caller: Caller) -> World | None:
        """As `world`, for what nobody waits to be answered."""
        world = self.worlds.get(caller.generation)
        return world if world and world.has(caller) else None

    # -- telling --

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def reply(self, request: RequestId, answer: Answer) -> None:
        self.emit(Reply(request, answer))

    def refuse(self, request: RequestId | None, failure: Failure) -> None:
        if request is not None:
            self.emit(Refuse(request, failure))

    def notify(
        self, world: World, failure: Failure, ordinal: int | None = None, without: set[Task] | None = None
    ) -> None:
        """Tell the attending workers of a world, without those who have been answered."""
        for task, presence in world.presence.items():
            if presence.attached and task not in (without or ()):
                self.emit(Notify(Caller(world.generation.id, task, presence.incarnation), failure, ordinal))

    def release(self, world: World) -> None:
        """Let those go who have left and wait for the others."""
        requests, world.lingering = world.lingering, {}
        for request in requests:
            self.reply(request, Left())

    # -- the log --

    @property
    def fork_point(self) -> str:
        """That of the state last read: see `LogState.fork_point`."""
        return self.ledger.state.fork_point if self.ledger.state else ""

    def append(
        self,
        kind: EntryKind,
        generation: str,
        change: Callable[[LogState], LogState],
        done: Callable[[Entry | Failure], None],
        *,
        note: str,
    ) -> Intent:
        """Create an entry on top of the last one. See `Intent`."""
        intent = Intent(kind, change, done, generation, note, base=self.fork_point)
        self.ledger.append(intent, self.now)
        return intent

    def published(self, entry: Entry | Failure) -> None:
        """An entry that changes what stock readers should find stands in the log."""
        if isinstance(entry, Entry):
            self.show(entry.number, entry.state)

    def show(self, number: int, state: LogState) -> None:
        """Have stock readers find what the state after an entry holds, but for what is known to be damaged."""
        self.emit(WriteStateFile(number, state.condemn(self.condemned)))

    # -- the end of a save --

    def fail_save(self, world: World, attempt: Attempt, failure: Failure) -> None:
        """Give up a save that nothing in the log decides yet."""
        if failure.kind not in KINDS_OF_FAILED_SAVES:
            failure = replace(failure, kind="save_failed")
        self.end_save(world, attempt, Outcome(attempt.ordinal, False, failure))

    def end_save(self, world: World, attempt: Attempt, outcome: Outcome) -> None:
        """Remember how a save ended, and tell it to all workers: those who wait for it, and those who do not yet."""
        attempt.advance(Phase.COMMITTED if outcome.committed else Phase.FAILED)
        world.attempt = None
        world.remember(outcome)
        if not outcome.committed:
            world.went_back_to = world.went_back_to or attempt.went_back_to
        calls = {**attempt.voters, **attempt.reporters}
        for request in calls:
            self.reply(request, outcome)
        if outcome.failure:
            self.notify(world, outcome.failure, outcome.ordinal, without=set(calls.values()))


def generation_of(state: LogState | None) -> str:
    """Id of the generation that leads, empty if none does."""
    return state.generation.id if state and state.generation else ""


def unknown(generation: str) -> Failure:
    return Failure(UNKNOWN_GENERATION, f"generation {generation} is not known here")


def replaced(task: Task) -> Failure:
    return Failure("superseded", f"a newer process of {task} has taken its place", phase="join", tasks=(task,))


def superseded(why: str) -> Failure:
    return Failure("superseded", f"{why}; this manager can save nothing any more", phase="lead")
