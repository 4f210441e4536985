"""The members of a world: tasks that have joined, and what is known about each since then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from holdfast_storage.cluster import Cluster, Task, describe, first_difference, names, tasks_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Generation, LogState, newest_of

from .agreement import Agreement
from .attempt import SaveAttempt
from .events import SaveCall
from .last_calls import LastCalls
from .messages import Caller, Joined, Presence, RequestId, SaveOutcome, process_of
from .requests import SaveRequests
from .restore_round import RestoreRound

ALIVE_FOR = 15.0
"""Seconds after its last heartbeat for which a worker counts as alive."""

LOST_AFTER = 10.0
"""Seconds without a connection after which a worker counts as lost; long enough to reconnect."""

REMEMBERED = 16
"""The number of outcomes and restore rounds that are kept after all members have moved on, for late repeats."""

LEAP = 1_000_000
"""The number of calls that a world may have made while its coordinator was away. A call beyond that is none: all others
would be behind it for ever."""

POLL = 4.0
"""Seconds after which a waiting join is told for whom it waits, if it has as many left: before it tells it, after 5."""

BACK_WITHIN = 3.0
"""Seconds after which a worker that was told so and has not asked again counts as gone."""


@dataclass(slots=True)
class Joiner:
    incarnation: str
    request: RequestId | None  # None: told to ask again, and has not yet
    since: float  # monotonic, of its last call
    timeout: float  # seconds for which it still waited then


@dataclass(slots=True)
class Forming:
    """A world that is not complete yet."""

    cluster: Cluster
    begun: float  # monotonic, when the first joined
    joiners: dict[Task, Joiner] = field(default_factory=dict)
    asking: dict[RequestId, Task] = field(default_factory=dict, compare=False)  # the joiners' calls that wait
    tasks: dict[Task, None] = field(init=False)  # in order

    def __post_init__(self) -> None:
        self.tasks = dict.fromkeys(tasks_of(self.cluster))

    @property
    def is_complete(self) -> bool:
        """Whether all have joined and are waiting. A worker between two calls may have died meanwhile."""
        return len(self.asking) == len(self.tasks)

    @property
    def missing(self) -> tuple[Task, ...]:
        """The tasks that have not joined or, if all have, those that must ask again."""
        return tuple(task for task in self.tasks if task not in self.joiners) or tuple(
            task for task, joiner in self.joiners.items() if joiner.request is None
        )

    def add(self, task: Task, joiner: Joiner) -> None:
        """Take a joiner's call, in the place of an earlier one."""
        before = self.joiners.get(task)
        if before is not None and before.request is not None:
            del self.asking[before.request]
        self.joiners[task] = joiner
        if joiner.request is not None:
            self.asking[joiner.request] = task

    def told(self, task: Task, now: float) -> None:
        """Note that a joiner was told to ask again."""
        joiner = self.joiners[task]
        if joiner.request is not None:
            del self.asking[joiner.request]
        joiner.request, joiner.since = None, now

    def forget(self, task: Task) -> None:
        joiner = self.joiners.pop(task, None)
        if joiner is not None and joiner.request is not None:
            del self.asking[joiner.request]

    def complete(self, generation: str) -> World:
        members = tuple((task, joiner.incarnation) for task, joiner in sorted(self.joiners.items()))
        return World(Generation(generation, members), self.cluster)


def disagreement(forming: Forming, task: Task, cluster: Cluster) -> Failure | None:
    """Return why a task cannot join, if its cluster differs from that of the others."""
    same = cluster == forming.cluster
    if task not in (forming.tasks if same else tasks_of(cluster)):
        return Failure(
            Kind.INVALID_REQUEST,
            f"{task} is not in its own cluster specification {describe(cluster)}; check TF_CONFIG",
            phase="join",
            tasks=(task,),
        )
    if same:
        return None
    return Failure(
        Kind.INVALID_REQUEST,
        f"the workers do not agree on the cluster: {task} says {describe(cluster)}, "
        f"{names(forming.joiners)} say(s) {describe(forming.cluster)}. The first difference: "
        f"{first_difference(cluster, forming.cluster)}. Give all the same TF_CONFIG cluster",
        phase="join",
        tasks=(task,),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member that joins again says about the last restore of its world."""

    ordinal: int  # of the call; 0: there was none
    restored: str
    fork_point: str


@dataclass(slots=True)
class World:
    """One generation of workers."""

    generation: Generation
    cluster: Cluster
    joining: list[RequestId] | None = None  # calls to answer when the log has been read; None after that
    # If another coordinator process may have led it: calls that wait until the log has told about its saves.
    unsettled: list[SaveCall] | None = None  # None: all of it is known
    led_by: str = ""  # the coordinator process that led it when its workers joined this one
    fork_point: str = ""  # LogState.fork_point of the state on which this world builds
    entries: int = 0  # log entries when this world was formed or met
    went_back_to: str = ""  # the checkpoint that it restored, if that is not the newest
    presence: dict[Task, Presence] = field(default_factory=dict)
    attempt: SaveAttempt | None = None
    outcomes: dict[int, SaveOutcome] = field(default_factory=dict)
    committed: int = 0  # the last committed save
    rounds: dict[int, RestoreRound] = field(default_factory=dict)
    saves_at: LastCalls = field(init=False)
    restores_at: LastCalls = field(init=False)
    # If it was met: the members that have said what they know, and the latest restore of which one has told.
    back: set[Task] | None = None  # None: it has formed here
    claim: Claim | None = None
    left: set[Task] = field(default_factory=set)
    lingering: dict[RequestId, float] = field(default_factory=dict)  # leave calls that wait for others, until when
    fenced: Failure | None = None
    requests: SaveRequests = field(init=False)
    tasks: tuple[Task, ...] = field(init=False, compare=False)  # those of the generation

    def __post_init__(self) -> None:
        self.tasks = tuple(task for task, _ in self.generation.members)
        self.saves_at, self.restores_at = LastCalls({0: len(self.tasks)}), LastCalls({0: len(self.tasks)})
        self.requests = SaveRequests(Agreement(self.tasks))
        self.presence = {task: Presence(task, incarnation) for task, incarnation in self.generation.members}

    @property
    def chief(self) -> Task:
        return self.tasks[0]

    def has(self, caller: Caller) -> bool:
        presence = self.presence.get(caller.task)
        return presence is not None and presence.incarnation == caller.incarnation

    def awaits(self, task: Task) -> bool:
        """Whether a member must join again, and say what it knows, before its other calls count."""
        return self.back is not None and task not in self.back

    def is_back(self, task: Task, claim: Claim | None = None) -> None:
        """Take it that a member knows of this world, and what it has restored there."""
        if self.back is not None:
            self.back.add(task)
        if claim and (self.claim is None or claim.ordinal > self.claim.ordinal):
            self.claim = claim

    def joined(self) -> Joined:
        return Joined(self.generation.id, self.generation.members, self.fork_point, self.entries)

    def update(self, task: Task, **changes: object) -> None:
        self.presence[task] = replace(self.presence[task], **changes)  # type: ignore[arg-type]

    def calls(self, task: Task, now: float) -> None:
        """Note that a member calls. If its connection is gone, it has the whole time again to reconnect.

        It may be told of a save that failed without it, and the others begin the next one, before it is back.
        """
        if self.presence[task].lost is not None:
            self.update(task, lost=now)

    def remember(self, outcome: SaveOutcome) -> None:
        """Keep an outcome for as long as a member may ask for it. That of the last commit is always kept."""
        self.outcomes[outcome.ordinal] = outcome
        if outcome.committed:
            self.committed = max(self.committed, outcome.ordinal)
        self._forget_outcomes()

    def saves(self, task: Task, ordinal: int) -> None:
        """Note that a member calls for a save, so it knows how the ones before have ended."""
        self.saves_at.note(task, ordinal)
        self._forget_outcomes()

    def restores(self, task: Task, ordinal: int) -> None:
        """Note that a member calls for a restore, as in `saves`."""
        self.restores_at.note(task, ordinal)
        for over in _over(self.rounds, self.restores_at.earliest):
            del self.rounds[over]

    def _forget_outcomes(self) -> None:
        for over in _over(self.outcomes, self.saves_at.earliest):
            if over != self.committed:
                del self.outcomes[over]

    def learn(self, state: LogState) -> None:
        """Take the last committed save of this generation from the log."""
        last = state.last_committed(self.generation.id)
        if last > self.committed:
            self.remember(SaveOutcome(last, True))
            if newest_of(state.fork_point) != newest_of(self.fork_point):
                self.went_back_to = ""  # that save has gone on from there

    def alive(self, task: Task, now: float) -> bool:
        p = self.presence[task]
        return task not in self.left and p.attached and p.heard is not None and now - p.heard < ALIVE_FOR

    def living(self, now: float) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if self.alive(task, now))

    def gone(self, now: float) -> set[Task]:
        """Return those who cannot take part any more: they have left, or their connection is lost."""
        return self.left | {
            task for task, p in self.presence.items() if p.lost is not None and now - p.lost >= LOST_AFTER
        }

    def same_processes(self, other: Generation) -> bool:
        """Return whether this world is another manager in the processes of the other generation."""
        return len(self.shares(other)) == len(self.generation.members) == len(other.members)

    def shares(self, other: Generation) -> set[str]:
        """Return the tasks, by name, of the other generation whose processes are in this world, too.

        Parameter servers outlive their chief, and may still be in its world when they have joined that of the next.
        """
        mine = {task: process_of(incarnation) for task, incarnation in self.generation.members}
        return {str(task) for task, incarnation in other.members if mine.get(task) == process_of(incarnation)}


def _over(kept: Iterable[int], heard: int) -> list[int]:
    """Return which of these ordinals can be forgotten."""
    return [ordinal for ordinal in sorted(kept)[:-REMEMBERED] if ordinal < heard]


def last_seen(world: World, tasks: Iterable[Task], now: float) -> str:
    """Describe what these workers were doing when they were last heard from, for the error that names them."""
    return "; ".join(_last_seen(world.presence[task], now) for task in tasks)


def _last_seen(p: Presence, now: float) -> str:
    if p.heard is None or p.since is None or p.progressed is None:
        return f"{p.task} was never heard from"
    done = f", {p.bytes_done:,} of {p.bytes_total:,} bytes" if p.bytes_total else ""
    still = f", without progress for {now - p.progressed:.0f} s" if p.bytes_total else ""
    gone = "" if p.attached else ", its connection is gone"
    return (
        f"{p.task}: in phase {p.phase!r} for {now - p.since:.0f} s{done}{still}, heard {now - p.heard:.0f} s ago{gone}"
    )
