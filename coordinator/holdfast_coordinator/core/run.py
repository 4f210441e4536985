"""The state that the parts of the machine share: one run as this coordinator knows it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import parse_prefix
from holdfast_storage.records import CheckpointRecord, Entry, Leader, Lease, LogState, Metrics

from .attempt import Phase, SaveAttempt
from .effects import Effect, Notify, Refuse, Reply, WriteStateFile
from .intents import Commit, Discard, GoBack, Intent, Lead, Mark, Retire
from .ledger import Ledger
from .membership import Forming, World
from .messages import Answer, Caller, Left, Now, RequestId, SaveOutcome
from .retention import Sweep, sweep, unmeasured
from .rules import Policy
from .waits import ForALeader, SaveId
from .young_daly import Advice, advise

KINDS_OF_FAILED_SAVES = (Kind.SUPERSEDED, Kind.REPLICA_DIVERGENCE, Kind.INVALID_REQUEST, Kind.STORAGE)
"""The kinds with which a save may fail. Any other failure becomes `save_failed`."""


@dataclass
class RunState:
    """Everything that the machine knows: the worlds of a run, its log and its lead; and, during an event, the event's
    time and effects."""

    leader: Leader
    ledger: Ledger = field(init=False)
    forming: Forming | None = None  # the world that is not complete yet
    # For joiners between two calls: what to tell them at the next one, and until when they may ask.
    untold: dict[tuple[Task, str], tuple[Failure, float]] = field(default_factory=dict)
    worlds: dict[str, World] = field(default_factory=dict)  # by generation
    saves: int = 0  # attempts that were ever begun
    leading: str = ""  # the generation with which this coordinator leads the run
    led_since: int = -1  # number of the entry that took the lead
    retention: Policy = ()  # that of the leading world's last commit
    condemned: set[str] = field(default_factory=set)  # prefixes that two readers found damaged, in an entry or not yet
    doubted: set[str] = field(default_factory=set)  # prefixes of what this coordinator could not read back
    # What the second reader reads, by prefix: the rest of what that needs, up to itself, and as in `Damage.second`.
    rereading: dict[str, tuple[tuple[CheckpointRecord, ...], float]] = field(default_factory=dict)
    asking: list[tuple[str, ForALeader]] = field(default_factory=list)  # other leaders, by address: who waits for it
    measured: dict[str, Metrics] = field(default_factory=dict)  # by prefix, until an entry holds them
    leases: dict[Lease, float] = field(default_factory=dict)  # those of the log: monotonic, when each was first met
    now: Now = field(default=Now(0.0, 0.0), compare=False)
    effects: list[Effect] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.leader.id)

    def begin(self, now: Now) -> None:
        """Begin the next event, with its time and no effects yet."""
        self.now = now
        self.effects = []

    # -- who calls --

    def world(self, caller: Caller, request: RequestId) -> World | None:
        """Return the caller's world, or None after refusing a caller that is not in one.

        The world may be fenced: then its members get the answers that they have got before, but nothing new begins.
        """
        world = self.worlds.get(caller.generation)
        if world is None:
            self.refuse(request, unknown(caller.generation))
        elif not world.has(caller):
            self.refuse(request, replaced(caller.task))
        elif world.awaits(caller.task):
            self.refuse(request, unknown(caller.generation))
        else:
            world.calls(caller.task, self.now.monotonic)
            return world
        return None

    def present(self, caller: Caller) -> World | None:
        """Return the caller's world, as `world`, but without refusing: nobody waits for an answer."""
        world = self.worlds.get(caller.generation)
        return world if world and world.has(caller) else None

    def attempt(self, save: SaveId | None) -> tuple[World, SaveAttempt] | None:
        """Return an attempt that is still in flight, with its world."""
        world = self.worlds.get(save.generation) if save else None
        return (world, world.attempt) if world and world.attempt and world.attempt.id == save else None

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
        """Notify the attending workers of a world, except those who have been answered."""
        for task, presence in world.presence.items():
            if presence.attached and task not in (without or ()):
                self.emit(Notify(Caller(world.generation.id, task, presence.incarnation), failure, ordinal))

    def release(self, world: World) -> None:
        """Answer those who have left and wait for the others."""
        requests, world.lingering = world.lingering, {}
        for request in requests:
            self.reply(request, Left())

    # -- the log --

    @property
    def fork_point(self) -> str:
        """The fork point of the state last read: see `LogState.fork_point`."""
        return self.ledger.state.fork_point if self.ledger.state else ""

    def meet_leases(self) -> None:
        """Let the time of new leases begin. No wall clock counts, and a restart only makes a lease longer."""
        leases = self.ledger.state.leases if self.ledger.state else ()
        if leases or self.leases:
            self.leases = {lease: self.leases.get(lease, self.now.monotonic) for lease in leases}

    def _is_over(self, lease: Lease) -> bool:
        met = self.leases.get(lease, self.now.monotonic)
        return self.now.monotonic - met >= lease.seconds

    def sweep(self, state: LogState, verified: str) -> Sweep:
        """Return what may go now: see `retention.sweep`. What is not known to be bad stays for now, too.

        What is condemned counts as damaged before an entry says so: something that the newest needs may have been found
        bad after it was read back.
        """
        state = state.measure(self.measured).condemn(self.condemned)
        leased = {lease.prefix for lease in state.leases if not self._is_over(lease)}
        unknown = {record.prefix for record in unmeasured(state, self.retention)}
        return sweep(state, self.retention, verified, leased | unknown)

    def no_base(self, prefix: str, base: str, state: LogState) -> Failure | None:
        """Return why a checkpoint cannot be saved as a delta on `base` after `state`; None if it can, or is full.

        Its rows were compared with those of the last commit that its workers know of. If that is not the newest one, or
        nobody could restore it, they are worth nothing.
        """
        if not base:
            return None
        attempt, newest = parse_prefix(prefix), state.checkpoints[-1:]
        may = attempt is not None and attempt.may_build_on(base) and [each.prefix for each in newest] == [base]
        if may and newest == state.condemn(self.condemned).restorable[-1:]:
            return None
        at = newest[0].prefix if newest else "nothing"
        message = (
            f"{prefix} is a delta on {base}, which is damaged or not the newest ({at}). The next save is a full one"
        )
        return Failure(Kind.SAVE_FAILED, message, object=base)

    def is_doubtful(self, base: str, state: LogState) -> bool:
        """Return whether something that a delta on `base` would need is known to be bad, or may be."""
        record = state.find(base)
        bad = self.condemned | self.doubted | {*state.damaged}
        return record is not None and not bad.isdisjoint(each.prefix for each in state.chain(record))

    def change(self, intent: Intent, state: LogState) -> LogState | Failure:
        """Return the state that an entry records if `state` is that of the last entry, or why it cannot be made."""
        state = state.expire([lease for lease in state.leases if self._is_over(lease)])
        match intent:
            case Lead():
                # As in TensorFlow: after a clock was set back, a preserved time in its future does not count.
                preserved = min(self.now.wall, self.now.wall if state.last_preserved is None else state.last_preserved)
                return replace(state.lead(self.leader, intent.world, self.now.wall), last_preserved=preserved)
            case Mark():
                return state.condemn(self.condemned)
            case GoBack():
                return state.restored(intent.prefix)
            case Commit():
                # If the entry for what it went back to could not be made, this one records it.
                found, state = self.attempt(intent.save), state.condemn(self.condemned)
                back = found[1].went_back_to if found else ""
                state = state.restored(back) if back and state.find(back) else state
                record = intent.record
                return self.no_base(record.prefix, record.base, state) or state.commit(record)
            case Retire():
                plan = self.sweep(state, intent.verified)
                return state.measure(self.measured).retire(plan.retire, plan.preserve, plan.last_preserved)
            case Discard():
                return state.discard(intent.folders)
            case _:
                return state

    def published(self, entry: Entry | Failure) -> None:
        """Note that an entry stands which changes what stock readers should find."""
        if isinstance(entry, Entry):
            self.show(entry.number, entry.state)

    def show(self, number: int, state: LogState) -> None:
        """Let stock readers find what the state after an entry holds, except what is known to be damaged."""
        self.emit(WriteStateFile(number, state.condemn(self.condemned)))

    def advice(self, world: World) -> Advice | None:
        """Return how often to save, as far as that is known of a world that leads."""
        state = self.ledger.state
        if state is None or generation_of(state) != world.generation.id:
            return None
        past, requests = state.past, world.requests
        return advise(requests.costs, requests.paces, past.generations, past.seconds + state.led_for)

    # -- the end of a save --

    def fail_save(self, world: World, attempt: SaveAttempt, failure: Failure) -> None:
        """Give up a save that the log has not decided yet."""
        if failure.kind not in KINDS_OF_FAILED_SAVES:
            failure = replace(failure, kind=Kind.SAVE_FAILED)
        self.end_save(world, attempt, SaveOutcome(attempt.ordinal, False, failure))

    def end_save(self, world: World, attempt: SaveAttempt, outcome: SaveOutcome) -> None:
        """Remember the outcome of a save, and tell all workers, whether or not they wait for it."""
        attempt.advance(Phase.COMMITTED if outcome.committed else Phase.FAILED)
        world.attempt = None
        if outcome.committed:
            report = attempt.reports.get(attempt.chief)
            cost = report.cost_before if report else None
            world.requests.saved(attempt.begun, self.now.monotonic - attempt.begun, cost)
        world.remember(outcome)
        if not outcome.committed:
            world.went_back_to = world.went_back_to or attempt.went_back_to
        calls = {**attempt.voters, **attempt.reporters}
        for request in calls:
            self.reply(request, outcome)
        if outcome.failure:
            self.notify(world, outcome.failure, outcome.ordinal, without=set(calls.values()))


def generation_of(state: LogState | None) -> str:
    """Return the id of the generation that leads, empty if none does."""
    return state.generation.id if state and state.generation else ""


def unknown(generation: str) -> Failure:
    return Failure(Kind.UNKNOWN_GENERATION, f"generation {generation} is not known here")


def replaced(task: Task) -> Failure:
    return Failure(Kind.SUPERSEDED, f"a newer process of {task} has taken its place", phase="join", tasks=(task,))


def superseded(why: str) -> Failure:
    return Failure(Kind.SUPERSEDED, f"{why}; this manager can save nothing any more", phase="lead")


def taken(state: LogState | None) -> str:
    """Return why nobody goes on with a run who led it, or began with what was its newest, before it came to `state`."""
    if state and state.closed:
        return state.closed
    if state and state.rolled_back and not state.generation:
        newest = state.checkpoints[-1].prefix
        return f"somebody has rolled the run back to {newest} since. Restart this job to go on from there"
    return f"generation {generation_of(state) or 'unknown'} has taken the run over since"
