"""Who is in a world: tasks that have joined, and what is known of each since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from holdfast_storage.cluster import Cluster, Task, describe, names, tasks_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Generation, LogState

from .attempt import Attempt
from .events import SaveCall
from .messages import Caller, Joined, Outcome, Presence, RequestId, process_of
from .restore_round import RestoreRound

ALIVE_FOR = 15.0
"""Seconds after its last heartbeat for which a worker counts as alive."""

LOST_AFTER = 10.0
"""Seconds without a connection after which a worker counts as lost: long enough to reconnect."""

REMEMBERED = 16
"""Outcomes and restore talks that are kept though all members have gone on: a call may be repeated late."""

POLL = 5.0
"""Seconds after which a join that cannot be answered yet is told whom it waits for, if it has as many left."""

BACK_WITHIN = 3.0
"""Seconds after which one that was told so, and has not asked again, has given up, or died."""


@dataclass(slots=True)
class Joiner:
    incarnation: str
    request: RequestId | None  # None: told to ask again, and has not yet
    since: float  # monotonic, of its last call
    timeout: float  # seconds that it still waited then


@dataclass(slots=True)
class Forming:
    """A world that is not complete yet."""

    cluster: Cluster
    begun: float  # monotonic, when the first joined
    joiners: dict[Task, Joiner] = field(default_factory=dict)
    tasks: dict[Task, None] = field(init=False)  # in order

    def __post_init__(self) -> None:
        self.tasks = dict.fromkeys(tasks_of(self.cluster))

    @property
    def is_complete(self) -> bool:
        """Whether all have joined, and each is there to hear of it: one between two calls may have died meanwhile."""
        return len(self.joiners) == len(self.tasks) and all(j.request is not None for j in self.joiners.values())

    @property
    def missing(self) -> tuple[Task, ...]:
        """Who has not joined; where all have, who is to ask again."""
        return tuple(task for task in self.tasks if task not in self.joiners) or tuple(
            task for task, joiner in self.joiners.items() if joiner.request is None
        )

    def complete(self, generation: str) -> World:
        members = tuple((task, joiner.incarnation) for task, joiner in sorted(self.joiners.items()))
        return World(Generation(generation, members), self.cluster)


def disagreement(forming: Forming, task: Task, cluster: Cluster) -> Failure | None:
    """Why a task cannot join, if its cluster specification is not the others'."""
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
        f"{names(forming.joiners)} say(s) {describe(forming.cluster)}; give all the same TF_CONFIG cluster",
        phase="join",
        tasks=(task,),
    )


@dataclass(slots=True)
class World:
    """One generation of workers."""

    generation: Generation
    cluster: Cluster
    joining: list[RequestId] | None = None  # calls to be answered when the log has been read; then None
    # Where another coordinator process may have led it: calls that wait until the log has told of its saves.
    unsettled: list[SaveCall] | None = None  # None: all that is known
    led_by: str = ""  # the coordinator process that led it when its workers came to this one
    base: str = ""  # the state of the run that its own state builds on: LogState.fork_point
    entries: int = 0  # of the log, when this world was formed or met
    went_back_to: str = ""  # the checkpoint it restored, where that is not the newest
    presence: dict[Task, Presence] = field(default_factory=dict)
    attempt: Attempt | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    committed: int = 0  # the last save that was
    talks: dict[int, RestoreRound] = field(default_factory=dict)
    # By task, the last save and the last restore that it has called for: it asks for no earlier one any more.
    saves_at: dict[Task, int] = field(default_factory=dict)
    restores_at: dict[Task, int] = field(default_factory=dict)
    left: set[Task] = field(default_factory=set)
    lingering: dict[RequestId, float] = field(default_factory=dict)  # leave calls that wait for others, until when
    fenced: Failure | None = None

    def __post_init__(self) -> None:
        self.presence = {task: Presence(task, incarnation) for task, incarnation in self.generation.members}

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for task, _ in self.generation.members)

    def has(self, caller: Caller) -> bool:
        presence = self.presence.get(caller.task)
        return presence is not None and presence.incarnation == caller.incarnation

    def joined(self) -> Joined:
        return Joined(self.generation.id, self.generation.members, self.base, self.entries)

    def update(self, task: Task, **changes: object) -> None:
        self.presence[task] = replace(self.presence[task], **changes)  # type: ignore[arg-type]

    def remember(self, outcome: Outcome) -> None:
        """Keep an outcome for as long as a member may ask for it; that of the last commit always."""
        self.outcomes[outcome.ordinal] = outcome
        if outcome.committed:
            self.committed = max(self.committed, outcome.ordinal)
        self._forget_outcomes()

    def saves(self, task: Task, ordinal: int) -> None:
        """A member speaks of a save: it has heard how the ones before have ended."""
        self.saves_at[task] = max(ordinal, self.saves_at.get(task, 0))
        self._forget_outcomes()

    def restores(self, task: Task, ordinal: int) -> None:
        """A member speaks of a restore, as `saves`."""
        self.restores_at[task] = max(ordinal, self.restores_at.get(task, 0))
        for over in _over(self.talks, self._heard(self.restores_at)):
            del self.talks[over]

    def _forget_outcomes(self) -> None:
        for over in _over(self.outcomes, self._heard(self.saves_at)):
            if over != self.committed:
                del self.outcomes[over]

    def _heard(self, at: Mapping[Task, int]) -> int:
        """What no member asks for any more ends before this ordinal."""
        return min((at.get(task, 0) for task in self.tasks), default=0)

    def learn(self, state: LogState) -> None:
        """Take the last committed save of this generation from the log."""
        last = state.last_committed(self.generation.id)
        if last > self.committed:
            self.remember(Outcome(last, True))

    def alive(self, task: Task, now: float) -> bool:
        p = self.presence[task]
        return task not in self.left and p.attached and p.heard is not None and now - p.heard < ALIVE_FOR

    def living(self, now: float) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if self.alive(task, now))

    def gone(self, now: float) -> set[Task]:
        """Those who cannot take part in anything any more: they left, or their connection is lost."""
        return self.left | {
            task for task, p in self.presence.items() if p.lost is not None and now - p.lost >= LOST_AFTER
        }

    def same_processes(self, other: Generation) -> bool:
        """Whether this world is another manager in the very processes of the other generation."""
        mine, theirs = (
            {task: process_of(incarnation) for task, incarnation in g.members} for g in (self.generation, other)
        )
        return mine == theirs


def _over(kept: Iterable[int], heard: int) -> list[int]:
    """Which of these ordinals can be forgotten."""
    return [ordinal for ordinal in sorted(kept)[:-REMEMBERED] if ordinal < heard]


def last_seen(world: World, tasks: Iterable[Task], now: float) -> str:
    """What these workers were doing when they were last heard of, for the error that names them."""
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
