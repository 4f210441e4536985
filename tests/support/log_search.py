"""Every history of a few coordinators and workers over one run directory, state by state.

A coordinator is the product's own `Machine`, the log its own `Log`, with its pages, and what it removes its own
`orphans`; nothing of the protocol is told again here. A `State` is the storage, what is still on its way to it, what
workers have been told, the coordinators with the effects that they want carried out, and the workers. `Search.run` goes
through all states that can be reached, breadth first, and raises `Violation`, with the shortest story that leads there,
at the first that must not be.

In each state anything that can happen next may: a worker makes its next call; any effect of any coordinator is carried
out; the create of an entry or a page succeeds, fails for certain, loses its reply, or is to land at any later time or
never; an unknown one is tried again; a deadline passes, for one coordinator alone; one is killed and a successor
started, or it is left behind alive while its workers turn to a successor; a checkpoint turns out not to hold what was
written; a process that has no part in any job, and whose mount may be late, leases the newest checkpoint, pins the
oldest, removes it, rolls the run back to it, or moves the run. `Log.publish` is played operation by operation, again
and again from its start with the answers that it has had, so that others may act between any two. Storage is a set of
faultless names.

A state holds numbers of what is kept once: storages, seats (a machine, its clock, what it wants) and workers. What a
seat does with an event is computed once. Whoever can do nothing any more is left out. TensorFlow's `checkpoint` file is
written at once where `Bounds.files` does not say otherwise.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from unittest import mock

import holdfast_storage.lag
import holdfast_storage.log.pages
from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.dealing import StoredObject
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.rules import Newest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import HoldfastError, Kind, StorageError
from holdfast_storage.failure import Failure
from holdfast_storage.layout import PAGE_FOLDER, data_object, log_entry, manifest_object, parse_folder, prefix
from holdfast_storage.log.entries import encode
from holdfast_storage.log.log import Log, LostRace, NotPublished, Outcome, Published, Unknown
from holdfast_storage.records import (
    CheckpointRecord,
    Entry,
    Holding,
    Intervention,
    Leader,
    Lease,
    LogState,
    Pin,
    Tag,
)
from holdfast_storage.run_directory import orphans, tail_or_import
from holdfast_storage.store.base import NotCreated
from support.cluster import ROTS, Worker, check_invariants, check_log
from support.search_storage import Answer, Disk, Next, Operation, Script

T = TypeVar("T")

BEGIN = "0000000d"  # the generation of the checkpoints that are there at the start; of four, some make pages
TIMEOUT = 100.0  # seconds that a save may take
LONGER = 10_000.0  # seconds of a lease, which passes for nobody
WHOLE, ROTTEN, BEGUN = b"whole", b"rotten", b"begun"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may happen."""

    jobs: int = 2
    workers: int = 1  # of each job
    saves: int = 1  # of each job
    kills: int = 0
    left_behind: int = 0
    crashes: int = 0  # of workers
    late_jobs: int = 0  # jobs that start, and restore, at any time
    lapses: int = 0  # deadlines that pass
    rotten: int = 0  # checkpoints that are durable and not what was written
    refusals: int = 0  # creates that the storage refuses for certain
    unknown: int = 0  # creates that lose their reply, or land later, or never
    rollback: bool = False  # the last job goes back to the older of two checkpoints
    pages: bool = False  # there are four checkpoints at the start, and entries have pages from two on
    files: bool = False  # TensorFlow's file is written at any time
    keeps_all: bool = False  # nothing is retired
    lease: bool = False  # a reader leases the newest checkpoint, and releases it
    pin: bool = False  # somebody pins the oldest checkpoint
    tag: bool = False  # somebody tags it
    says: Intervention | None = None  # somebody rolls back to the oldest checkpoint, removes it, or moves the run
    deltas: int = 0  # saves after each full one that are deltas on the one before; the newest at the start may be one
    stale: bool = False  # workers take the last full checkpoint for the one before


class Violation(AssertionError):
    """A state that must not be, and how it came about."""


# -- who acts --

LOST = StorageError("no answer")
REFUSED = NotCreated("no space")


class Want(NamedTuple):
    """An effect, by its number, and the answers that it has had from the storage so far."""

    effect: int
    answers: tuple[Answer, ...] = ()


class Seat(NamedTuple):
    """A coordinator process."""

    machine: int
    clock: float
    wants: tuple[Want, ...] = ()


class Hand(NamedTuple):
    """A worker's process: what it knows, and the call that it makes next, or waits for."""

    job: int
    index: int
    seat: int
    does: str = "join"  # or "restore", "vote", "report"; nothing: it has come to its end
    waits: bool = False
    again: bool = False  # its coordinator is another process by now: it is to join again first
    ordinal: int = 1
    base: str = ""  # prefix of the checkpoint on which its next save is a delta
    deltas: int = 0  # since the last full one
    world: v.Joined | None = None
    restored: str | None = None
    read: str = ""  # what it was told to read and verify
    verdict: str = ""
    acknowledged: int = 0  # number of the log's last entry of a commit that somebody was told of before it restored


class Reader(NamedTuple):
    """A process that has no part in any job, and changes what is held."""

    does: Holding | Intervention | Literal["delete"] | None = (
        None  # what it is about to add to the log, or has begun to
    )
    want: Want | None = None
    holds: str = ""  # prefix of the checkpoint that it believes to be held
    folder: str = ""  # what it deletes


class Left(NamedTuple):
    """How much may still happen: see `Bounds`."""

    kills: int
    left_behind: int
    crashes: int
    lapses: int
    rotten: int
    refusals: int
    unknown: int


class State(NamedTuple):
    """Everything, at one instant, by numbers."""

    disk: int
    late: frozenset[int]  # creates that may still land
    told: frozenset[tuple[str, int, bool]]  # generation, ordinal, committed
    seats: tuple[int, ...]  # of the jobs, and then those that were left behind
    hands: tuple[int, ...]
    left: Left
    reader: Reader = Reader()


class Numbers(Generic[T]):
    """Values, each kept once."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self._numbers: dict[Hashable, int] = {}

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)

    def of(self, value: T) -> int:
        return self.made(value, lambda: value)

    def made(self, key: Hashable, make: Callable[[], T]) -> int:
        """The number of a value that is told from others by a key, and made if it is new."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._values)
            self._values.append(make())
        return number


class Kept(NamedTuple):
    """A machine, and what must be known of it."""

    pickled: bytes
    leader: Leader
    number: int  # of the log's last entry that it knows
    saves: bool  # a deadline may pass for it
    retries: bool  # at the next tick


CALLS = ("join", "restore", "vote", "report", "again")
INERT = Seat(-1, 0.0)
"""A coordinator that can do nothing any more, and that nobody turns to."""


class Search:
    """All states within the bounds."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.kinds: set[str] = set()  # of the entries that came to stand in some log
        self.outcomes: set[tuple[int, bool]] = set()  # that somebody was told
        self.cleaned: set[str] = set()  # folders that were deleted and never had been committed
        self.deltas = False  # whether there was one in some log
        self.after_rollback = False  # whether somebody committed then
        self.endings = 0  # states in which nobody has anything left to do
        self.disks: Numbers[Disk] = Numbers()
        self.machines: Numbers[Kept] = Numbers()
        self.seats: Numbers[Seat] = Numbers()
        self._hands: Numbers[Hand] = Numbers()
        self._effects: Numbers[fx.Effect] = Numbers()
        self._events: Numbers[ev.Event] = Numbers()
        self._operations: Numbers[Operation] = Numbers()
        alike = not (bounds.late_jobs or bounds.rollback) and bounds.kills + bounds.left_behind == 1
        self._disturbed = 1 if alike else bounds.jobs  # of jobs that are alike it may be the first
        self._tick = self._events.of(ev.Tick())
        # What was computed once:
        self._steps: dict[tuple[int, int, int], tuple[int, tuple[fx.Effect, ...]]] = {}
        self._plays: dict[tuple[int, tuple[Answer, ...]], Operation | int] = {}
        self._done: dict[tuple[int, int], tuple[int, Answer]] = {}
        self._seated: dict[tuple[int, ...], list[list[tuple[int, Hand]]]] = {}
        self._reads: dict[tuple[int, int], int] = {}
        self._logs: dict[int, list[Entry]] = {}  # by disk, found good
        self._entries: dict[tuple[bytes, frozenset[str]], Entry] = {}  # by their bytes, with the pages that are there
        self._checked: set[tuple[int, Any]] = set()

    def run(self) -> int:
        """The number of states; Violation if one of them must not be."""
        with ExitStack() as changed:
            if self.bounds.pages:
                changed.enter_context(mock.patch.multiple(holdfast_storage.log.pages, FEWEST=2, _BITS=1))
            changed.enter_context(mock.patch.object(holdfast_storage.lag, "LAG", 0.0))  # what is not there comes never
            return self._run()

    def _run(self) -> int:
        start = self._start()
        parents: dict[State, tuple[State, str] | None] = {start: None}
        front = [start]
        while front:
            following = []
            for state in front:
                at = state
                try:
                    ending = True
                    for story, after in self._moves(state):
                        ending = False
                        if after not in parents:
                            parents[after], at = (state, story), after
                            self._check(state, after)
                            following.append(after)
                            at = state
                    if ending:
                        self._check_ending(state)
                        self.endings += 1
                except (AssertionError, HoldfastError) as error:
                    raise Violation(f"{error}\n{self._story(parents, at)}") from error
            front = following
        return len(parents)

    # -- the beginning --

    def _start(self) -> State:
        """A run that has been imported, with one checkpoint, or two to choose from; jobs that have joined, or not."""
        b = self.bounds
        count = 4 if b.pages else 1 + (b.rollback or b.says is not None)
        names = [prefix("ckpt", n, BEGIN, n) for n in range(count)]
        bases = ["", *(names if b.deltas else [""] * count)]
        records = tuple(CheckpointRecord(names[n], n, 0.0, base=bases[n]) for n in range(count))
        objects = {manifest_object(record.folder): WHOLE for record in records}
        first = Entry(0, "import", "first.1", 0.0, LogState("run", checkpoints=records))
        objects[log_entry(0)] = encode(first, list(records))  # whole, since they became enough for a page just now
        hands = [Hand(job, index, job) for job in range(b.jobs) for index in range(b.workers)]
        s = State(
            self._disk(objects),
            frozenset(),
            frozenset(),
            tuple(self._process(f"c{job}-0") for job in range(b.jobs)),
            tuple(map(self._hands.of, hands)),
            Left(b.kills, b.left_behind, b.crashes, b.lapses, b.rotten, b.refusals, b.unknown),
            Reader("lease" if b.lease else "pin" if b.pin else "tag" if b.tag else b.says),
        )
        for job in range(b.jobs - b.late_jobs):
            while any(
                hand.job == job and hand.does in ("join", "restore") for hand in map(self._hands.__getitem__, s.hands)
            ):
                s = next(after for _, after in self._acts(s, job))
        return s

    def _at(self, s: State, place: int) -> list[tuple[int, Hand]]:
        """The workers at a coordinator, with their numbers."""
        if s.hands not in self._seated:
            hands = [(number, self._hands[kept]) for number, kept in enumerate(s.hands)]
            self._seated[s.hands] = [
                [(number, hand) for number, hand in hands if hand.seat == place] for place in range(self.bounds.jobs)
            ]
        seated = self._seated[s.hands]
        return seated[place] if place < len(seated) else []

    def _process(self, name: str) -> int:
        """A coordinator process that has just been started."""
        return self.seats.of(Seat(self._machine(Machine(Leader(name, "", ""))), 0.0))

    # -- what can happen --

    def _moves(self, s: State) -> Iterator[tuple[str, State]]:
        for number in s.late:
            landed = s._replace(disk=self._operate(s.disk, number)[0], late=s.late - {number})
            yield f"{self._operations[number][1]} lands", landed
        if s.reader.does == "delete":
            disk = self._operate(s.disk, self._operations.of(("delete", s.reader.folder, b"")))[0]
            yield f"somebody deletes {s.reader.folder}", s._replace(disk=disk, reader=Reader())
        elif s.reader.does:
            yield from self._holds(s, s.reader, s.reader.does)
        for place, number in enumerate(s.seats):
            seat = self.seats[number]
            if seat is INERT:
                continue
            yield from self._acts(s, place)
            machine = self.machines[seat.machine]
            who = machine.leader.id
            if machine.retries:
                yield f"{who} tries again", self._tell(s, place, self._tick)
            if s.left.lapses and machine.saves:
                late = self._put(s, place, seat._replace(clock=seat.clock + TIMEOUT))
                late = late._replace(left=s.left._replace(lapses=s.left.lapses - 1))
                yield f"a deadline passes for {who}", self._tell(late, place, self._tick)
            for hand_number, hand in self._at(s, place):
                if s.left.crashes and hand.does and hand.world:
                    gone = self._set(s, hand_number, hand._replace(does=""))
                    gone = gone._replace(left=s.left._replace(crashes=s.left.crashes - 1))
                    worker = self._worker(hand)
                    detached = self._events.of(ev.Detached(worker.caller))
                    yield f"{worker.incarnation} is killed", self._tell(gone, place, detached)
            if (s.left.kills or s.left.left_behind) and place < self._disturbed:
                yield from self._restarts(s, place, who)

    def _acts(self, s: State, place: int) -> Iterator[tuple[str, State]]:
        """What those who are at a coordinator do, and each way in which what it wants done can go."""
        for number, hand in self._at(s, place):
            if hand.does and not hand.waits:
                yield self._calls(s, number, hand)
        seat = self.seats[s.seats[place]]
        for number in range(len(seat.wants)):
            yield from self._carries_out(s, place, number)

    def _restarts(self, s: State, place: int, who: str) -> Iterator[tuple[str, State]]:
        theirs = [(n, hand) for n, hand in enumerate(map(self._hands.__getitem__, s.hands)) if hand.seat == place]
        if not any(hand.does and hand.world for _, hand in theirs) and not (
            theirs and self.seats[s.seats[place]].wants
        ):
            return
        job, _, process = who.rpartition("-")
        after = s._replace(seats=_with(s.seats, place, self._process(f"{job}-{int(process) + 1}")))
        for number, hand in theirs:
            after = self._set(after, number, hand._replace(waits=False, again=bool(hand.does and hand.world)))
        after = self._quiet(after, place)
        if s.left.kills:
            yield f"{who} is killed and restarted", after._replace(left=s.left._replace(kills=s.left.kills - 1))
        if s.left.left_behind:
            after = after._replace(
                seats=(*after.seats, s.seats[place]), left=s.left._replace(left_behind=s.left.left_behind - 1)
            )
            for _, hand in theirs:
                if hand.world:
                    after = self._tell(after, len(s.seats), self._events.of(ev.Detached(self._worker(hand).caller)))
            yield f"{who} is left behind", after

    # -- workers --

    def _worker(self, hand: Hand) -> Worker:
        cluster: v.Cluster = (("worker", tuple(f"{hand.job}-{i}:1" for i in range(self.bounds.workers))),)
        worker = Worker(Task("worker", hand.index), cluster, f"{hand.job}{hand.index}.1")
        worker.world, worker.restored, worker.restores = hand.world, hand.restored or "", int(hand.restored is not None)
        worker.terms = {
            "retention": () if self.bounds.keeps_all else (Newest(1),),
            "takeover": True,
            "timeout": TIMEOUT,
        }
        return worker

    def _calls(self, s: State, number: int, hand: Hand) -> tuple[str, State]:
        """A worker makes its next call."""
        worker = self._worker(hand)
        what = "again" if hand.again else hand.does
        match what:
            case "again":
                build = worker.rejoin()
            case "join":
                build = worker.join()
            case "restore":
                target = "0" if self.bounds.rollback and hand.job == self.bounds.jobs - 1 else ""
                build = worker.restore(1, hand.read, hand.verdict, target)
                if not hand.read:
                    hand = hand._replace(acknowledged=self._acknowledged(s))
            case "vote":
                build = worker.vote(hand.ordinal, base=hand.base)
            case _:
                build = worker.report(hand.ordinal, base=hand.base)
                s = self._write(s, self._data(hand), WHOLE)
        event = self._events.of(build(self._request(number, hand)))
        s = self._set(s, number, hand._replace(waits=True))
        return f"{worker.incarnation}: {what} {hand.ordinal}", self._tell(s, hand.seat, event)

    def _request(self, number: int, hand: Hand) -> v.RequestId:
        return (number * 100 + hand.ordinal) * 10 + CALLS.index("again" if hand.again else hand.does)

    def _hear(self, s: State, number: int, hand: Hand, answer: v.Answer | Failure) -> State:
        """A worker takes an answer."""
        attaches = False
        hand = hand._replace(waits=False)
        match answer:
            case Failure(kind=kind):
                # Unknown is whom a coordinator process has not met: all else ends its job here.
                hand = hand._replace(again=True) if kind == Kind.UNKNOWN_GENERATION else hand._replace(does="")
            case v.Joined():
                attaches = True
                hand = hand._replace(again=False) if hand.again else hand._replace(does="restore", world=answer)
            case v.Read(record):
                verdicts = (self._reads_back(s.disk, each) for each in self._log(s.disk)[-1].state.chain(record))
                verdict = next((each for each in verdicts if each != "good"), "good")
                hand = hand._replace(read=record.prefix, verdict=verdict)
            case v.Apply(record):
                assert hand.world
                since = (e.state.checkpoints for e in self._log(s.disk)[hand.acknowledged :])
                found = not hand.acknowledged or any(record in checkpoints[-1:] for checkpoints in since)
                assert found or self.bounds.rotten, f"{record} is restored, and newer ones were acknowledged"
                world = replace(hand.world, fork_point=answer.fork_point)
                hand = hand._replace(does="vote", world=world, restored=record.prefix if record else "", read="")
            case v.Go(full=full):
                hand = hand._replace(does="report", base="" if full else hand.base)
                s = self._write(s, self._data(hand), BEGUN)
            case v.SaveOutcome(ordinal, committed):
                assert hand.world
                assert ordinal == hand.ordinal
                s = s._replace(told=s.told | {(hand.world.generation, ordinal, committed)})
                if committed:
                    where = prefix("ckpt", ordinal * 10, hand.world.generation, ordinal)
                    records = (entry.state.checkpoints[-1] for entry in self._log(s.disk) if entry.kind == "commit")
                    base = next((record.base for record in records if record.prefix == where), hand.base)
                    assert base == hand.base, f"{where} is a delta on {hand.base!r}, and on {base!r} in the log"
                hand = self._follows(hand, committed=committed)
                hand = hand._replace(
                    ordinal=ordinal + 1, does="vote" if ordinal < self.bounds.saves else "", again=False
                )
            case _:
                raise AssertionError(answer)
        s = self._set(s, number, hand)
        if attaches:
            caller = self._worker(hand).caller
            for event in (ev.Attached(caller), ev.Heartbeat(caller, "train", 0, 0, 0)):
                s = self._tell(s, hand.seat, self._events.of(event))
        return s

    def _follows(self, hand: Hand, *, committed: bool) -> Hand:
        """A worker knows on what its next save is a delta."""
        assert hand.world
        deltas = hand.deltas + 1 if hand.base else 0
        if not committed or deltas >= self.bounds.deltas:
            return hand._replace(base="", deltas=0)
        where = prefix("ckpt", hand.ordinal * 10, hand.world.generation, hand.ordinal)
        return hand._replace(base=hand.base if self.bounds.stale and hand.base else where, deltas=deltas)

    def _acknowledged(self, s: State) -> int:
        def is_told(entry: Entry) -> bool:
            attempt = parse_folder(entry.state.checkpoints[-1].folder)
            return attempt is not None and (attempt.generation, attempt.ordinal, True) in s.told

        return max((e.number for e in self._log(s.disk) if e.kind == "commit" and is_told(e)), default=0)

    def _data(self, hand: Hand) -> str:
        """What a worker writes of its present save."""
        assert hand.world
        where = prefix("ckpt", hand.ordinal * 10, hand.world.generation, hand.ordinal)
        return data_object(where, hand.index, self.bounds.workers)

    # -- coordinators --

    def _tell(self, s: State, place: int, event: int, done: int | None = None) -> State:
        """Hand a coordinator an event, and the workers at it what it says to them. done: which want it is about."""
        seat = self.seats[s.seats[place]]
        step = (seat.machine, int(seat.clock), event)
        if step not in self._steps:
            machine = pickle.loads(self.machines[seat.machine].pickled)
            effects = tuple(machine.handle(self._events[event], v.Now(seat.clock, 0.0)))
            check_invariants(machine)
            self._steps[step] = self._machine(machine), effects
        number, effects = self._steps[step]
        wants = list(seat.wants)
        if done is not None:
            del wants[done]
        said = []
        for effect in effects:
            if isinstance(effect, fx.Reply | fx.Refuse | fx.Notify) or (
                isinstance(effect, fx.WriteStateFile) and not self.bounds.files
            ):
                said.append(effect)
            elif not isinstance(effect, fx.Remark):
                wants.append(Want(self._effects.of(effect)))
        s = self._put(s, place, Seat(number, seat.clock, tuple(wants)))
        for effect in said:
            s = self._say(s, place, effect)
        return self._quiet(s, place)

    def _say(self, s: State, place: int, effect: fx.Effect) -> State:
        match effect:
            case fx.Reply(request, answer) | fx.Refuse(request, answer):
                hand = self._hands[s.hands[request // 1000]]
                if hand.seat == place and hand.waits and self._request(request // 1000, hand) == request:
                    s = self._hear(s, request // 1000, hand, answer)
            case fx.Notify(caller, failure, ordinal) if ordinal is not None:
                for number, hand in self._at(s, place):
                    if hand.does and hand.ordinal == ordinal and hand.world and self._worker(hand).caller == caller:
                        s = self._hear(s, number, hand, v.SaveOutcome(ordinal, False, failure))
            case fx.WriteStateFile():
                s = self._tell(s, place, self._state_file(s, place, effect))
        return s

    def _quiet(self, s: State, place: int) -> State:
        """The same, with a coordinator that can do nothing any more taken for any such."""
        seat = self.seats[s.seats[place]]
        machine = self.machines[seat.machine] if seat is not INERT else None
        if machine is None or seat.wants or machine.retries or (machine.saves and s.left.lapses):
            return s
        if any(hand.does for _, hand in self._at(s, place)):
            return s
        return self._put(s, place, INERT)

    def _carries_out(  # noqa: PLR0912
        self, s: State, place: int, number: int
    ) -> Iterator[tuple[str, State]]:
        """Each way in which an effect can go."""
        disk, seat = self.disks[s.disk], self.seats[s.seats[place]]
        want = seat.wants[number]
        who = self.machines[seat.machine].leader.id

        def tell(s: State, event: ev.Event) -> State:
            return self._tell(s, place, self._events.of(event), number)

        match self._effects[want.effect]:
            case fx.ReadLog():
                yield f"{who} reads the log", self._tell(s, place, self._read(s, seat), number)
            case fx.Append(entry):
                wait = partial(self._want, place=place, number=number)
                tell_event = partial(self._tell, place=place, done=number)
                for story, after in self._appends(s, want, entry, wait, tell_event):
                    yield f"{who} {story}", after
            case fx.Finalize() as effect:
                where = prefix(effect.checkpoint_name, effect.step, effect.generation.id, effect.ordinal)
                folder = where.partition("/")[0]
                done = ev.Finalized(effect.generation.id, effect.ordinal, where)
                parts = (data_object(where, i, self.bounds.workers) for i in range(self.bounds.workers))
                if any(disk.objects.get(part) != WHOLE for part in parts):
                    gone = Failure(Kind.STORAGE, f"{folder} is not there", phase="finalize")
                    yield f"{who} does not find {folder}", tell(s, replace(done, failure=gone))
                    return
                name = manifest_object(folder)
                yield f"{who} finalizes {folder}", tell(self._write(s, name, disk.objects.get(name, WHOLE)), done)
                if s.left.rotten and name not in disk.objects:
                    rotten = s._replace(left=s.left._replace(rotten=s.left.rotten - 1))
                    yield f"{who} finalizes {folder}, which rots", tell(self._write(rotten, name, ROTTEN), done)
            case fx.WriteStateFile() as effect:
                yield (
                    f"{who} writes TensorFlow's file",
                    self._tell(s, place, self._state_file(s, place, effect), number),
                )
            case fx.ReadBackCheckpoint() | fx.ListObjects() | fx.AskToRead() | fx.ReadObjects() as effect:
                yield from self._readings(s, place, number, effect)
            case fx.FindOrphans(entry):
                folders = orphans(disk, entry)  # type: ignore[arg-type]
                yield f"{who} finds {', '.join(folders) or 'no orphans'}", tell(s, ev.OrphansFound(folders))
            case fx.DeleteFolder(folder):
                records = (record for entry in self._log(s.disk) for record in entry.state.checkpoints)
                if folder not in {record.folder for record in records}:
                    self.cleaned.add(folder)
                gone_disk = self._operate(s.disk, self._operations.of(("delete", folder, b"")))[0]
                yield f"{who} deletes {folder}", tell(s._replace(disk=gone_disk), ev.Deleted(folder, True))
            case fx.Probe(address):
                yield f"{who} finds nobody", tell(s, ev.Probed(address, ()))
            case effect:
                raise AssertionError(effect)

    def _readings(
        self,
        s: State,
        place: int,
        number: int,
        effect: fx.ReadBackCheckpoint | fx.ListObjects | fx.AskToRead | fx.ReadObjects,
    ) -> Iterator[tuple[str, State]]:
        """Each way in which a reading can go."""
        seat, record = self.seats[s.seats[place]], effect.record
        who = self.machines[seat.machine].leader.id

        def tell(event: ev.Event) -> State:
            return self._tell(s, place, self._events.of(event), number)

        def judged(names: tuple[str, ...]) -> v.Verdict:
            return "good" if all(self._is_good(s, record, name) for name in names) else "damaged"

        match effect:
            case fx.ReadBackCheckpoint():
                back = ev.ReadBack(record.prefix, self._reads_back(s.disk, record))
                yield f"{who} reads {record.folder} back: {back.verdict}", tell(back)
            case fx.ListObjects():
                tasks = [Task("worker", each) for each in range(self.bounds.workers)]
                objects = tuple(StoredObject(str(task), 1, task) for task in tasks)
                yield f"{who} lists {record.folder}", tell(ev.Listed(record.prefix, "good", objects))
            case fx.ReadObjects(_, names):
                read = ev.ObjectsRead(record.prefix, judged(names))
                yield f"{who} reads {', '.join(names)}: {read.verdict}", tell(read)
            case fx.AskToRead(caller, _, names):
                good = tuple(name for name in names if self._is_good(s, record, name))
                said = ev.Examined(caller, record.prefix, good, judged(names))
                yield f"{caller.task} reads {', '.join(names)}: {said.verdict}", tell(said)
                if s.left.lapses:
                    late = self._put(s, place, seat._replace(clock=seat.clock + TIMEOUT))
                    late = late._replace(left=s.left._replace(lapses=s.left.lapses - 1))
                    yield f"{caller.task} does not read", self._tell(late, place, self._tick, number)

    def _is_good(self, s: State, record: CheckpointRecord, name: str) -> bool:
        """Return whether an object is good: of a checkpoint that rots, the first worker's is not."""
        return name != ROTS or self._reads_back(s.disk, record) == "good"

    def _read(self, s: State, seat: Seat) -> int:
        key = s.disk, self.machines[seat.machine].number
        if key not in self._reads:
            disk = self.disks[s.disk]
            found = tail_or_import(disk, Log(disk), "run", key[1])  # type: ignore[arg-type]
            assert isinstance(found, Entry)
            self._reads[key] = self._events.of(ev.LogRead(found))
        return self._reads[key]

    def _state_file(self, s: State, place: int, effect: fx.WriteStateFile) -> int:
        """As the driver: once a newer leader's entries follow, the file is that one's to write."""
        last = self._log(s.disk)[-1]
        leader = self.machines[self.seats[s.seats[place]].machine].leader
        state = effect.state if last.state.leader else last.state  # after a rollback the file is anybody's
        ours = last.state.leader in (leader, None) or effect.number == last.number
        named = state.stock_readable[-1:] if ours else ()
        return self._events.of(ev.StateFileWritten(effect.number, named[0].prefix if named else ""))

    # -- the log --

    def _want(self, s: State, want: Want, place: int, number: int) -> State:
        seat = self.seats[s.seats[place]]
        return self._put(s, place, seat._replace(wants=_with(seat.wants, number, want)))

    def _holds(self, s: State, reader: Reader, kind: Holding | Intervention) -> Iterator[tuple[str, State]]:
        """What a reader does next. It sees the log as it is, or without its last entry."""
        if reader.want:
            append = self._effects[reader.want.effect]
            assert isinstance(append, fx.Append)
            wait, tell = partial(self._reads_on, reader), partial(self._held, reader)
            for story, after in self._appends(s, reader.want, append.entry, wait, tell):
                yield f"the reader {story}", after
            return
        for last in self._log(s.disk)[-2:]:
            number, state = last.number + 1, last.state
            match kind:
                case "lease":
                    state = state.lease(Lease(state.checkpoints[-1].prefix, "reader", LONGER, number))
                case "pin":
                    state = state.pin(Pin(state.checkpoints[0].prefix, 0.0, ""))
                case "tag":
                    state = state.tag(Tag("production", state.checkpoints[0].prefix, 0.0))
                case "rollback" | "remove" | "move":
                    oldest = state.checkpoints[0]
                    keeps = oldest not in state.restorable[:-1] if kind == "rollback" else state.keeps(oldest)
                    if keeps and kind != "move":
                        yield f"the reader leaves entry {last.number} as it is", s._replace(reader=Reader())
                        continue
                    state = {
                        "rollback": state.rollback(oldest.prefix, number),
                        "remove": state.remove(oldest.prefix),
                        "move": state.move("elsewhere"),
                    }[kind]
                case _:
                    state = state.release("reader")
            append = fx.Append(Entry(number, kind, f"reader.{kind}-{number}", 0.0, state))
            begun = Reader(kind, Want(self._effects.of(append)))
            yield f"the reader sees entry {last.number}", s._replace(reader=begun)

    @staticmethod
    def _reads_on(reader: Reader, s: State, want: Want) -> State:
        return s._replace(reader=reader._replace(want=want))

    def _held(self, reader: Reader, s: State, event: int) -> State:
        """A reader hears what became of its entry."""
        done = self._events[event]
        assert isinstance(done, ev.Appended)
        if done.taken_by:
            return s._replace(reader=reader._replace(want=None))
        if done.unknown or done.refused or reader.does == "release":
            return s._replace(reader=Reader())
        if reader.does == "remove":
            return s._replace(reader=Reader("delete", folder=done.entry.state.retired[-1]))
        if reader.does in ("rollback", "move"):
            return s._replace(reader=Reader())
        newest, oldest = done.entry.state.checkpoints[-1], done.entry.state.checkpoints[0]
        after = Reader("release", None, newest.prefix) if reader.does == "lease" else Reader(holds=oldest.prefix)
        return s._replace(reader=after)

    def _appends(
        self,
        s: State,
        want: Want,
        entry: Entry,
        wait: Callable[[State, Want], State],
        tell: Callable[..., State],
    ) -> Iterator[tuple[str, State]]:
        """Each way in which the next operation of a create can go."""
        operation = self._play(want.effect, want.answers)
        assert isinstance(operation, tuple)
        what, name, _ = operation
        story = f"{what}s {name.rpartition('/')[2]} ({entry.kind} {entry.number}, {entry.write_id})"

        def answered(s: State, answer: Answer) -> State:
            """The state once an answer has come; what is read in reply to it is read at once."""
            answers = (*want.answers, answer)
            while isinstance(following := self._play(want.effect, answers), tuple) and following[0] == "read":
                answers = (*answers, self.disks[s.disk].objects.get(following[1]))
            if isinstance(following, int):
                return tell(s, event=following)
            return wait(s, Want(want.effect, answers))

        operated = self._operations.of(operation)
        disk, done = self._operate(s.disk, operated)
        yield f"{story}{' in vain' * (done is False)}", answered(s._replace(disk=disk), done)
        if what == "create" and s.left.refusals:
            left = s.left._replace(refusals=s.left.refusals - 1)
            yield f"{story}: refused", answered(s._replace(left=left), REFUSED)
        if what == "create" and s.left.unknown:
            left = s.left._replace(unknown=s.left.unknown - 1)
            yield f"{story}, reply lost", answered(s._replace(disk=disk, left=left), LOST)
            late = s.late | {operated} if done else s.late
            yield f"{story}, no reply", answered(s._replace(late=late, left=left), LOST)

    def _play(self, effect: int, answers: tuple[Answer, ...]) -> Operation | int:
        """What `Log.publish` comes to, with the answers that it has had: its next operation, or what it tells."""
        key = effect, answers
        if key not in self._plays:
            append = self._effects[effect]
            assert isinstance(append, fx.Append)
            try:
                log = Log(Script(answers), clock=lambda: 0.0)  # type: ignore[arg-type]
                self._plays[key] = self._events.of(_appended(append.entry, log.publish(append.entry, 0.0)))
            except Next as following:
                self._plays[key] = following.args
        return self._plays[key]

    def _operate(self, disk: int, number: int) -> tuple[int, Answer]:
        """The storage after an operation, and its answer."""
        key = disk, number
        if key not in self._done:
            what, name, data = self._operations[number]
            objects = self.disks[disk].objects
            if what == "create" and name in objects:
                self._done[key] = disk, False
            elif what in ("delete", "remove"):
                kept = {n: d for n, d in objects.items() if n != name and not n.startswith(f"{name}/")}
                self._done[key] = self._disk(kept), None
            else:
                self._done[key] = self._disk(objects | {name: data}), True
        return self._done[key]

    def _write(self, s: State, name: str, data: bytes) -> State:
        if data == BEGUN and name in self.disks[s.disk].objects:
            return s
        return s._replace(disk=self._operate(s.disk, self._operations.of(("replace", name, data)))[0])

    # -- what must be --

    def _check(self, before: State, s: State) -> None:
        if (s.disk, before.disk) not in self._checked:
            self._check_disk(before.disk, s.disk)
            self._checked.add((s.disk, before.disk))
            self._check_commit(before, self._log(s.disk))
        if (s.disk, s.told) not in self._checked:
            self._check_told(self._log(s.disk), s.told)
            self._checked.add((s.disk, s.told))
        for held in self._needed(s.disk, s.reader.holds):
            there = manifest_object(held.folder) in self.disks[s.disk].objects
            assert there, f"a reader is at work on {held.prefix}, or on what needs it, and its data is not there"

    def _check_disk(self, before: int, after: int) -> None:
        was, log, objects = self._log(before), self._log(after), self.disks[after].objects
        assert log[: len(was)] == was, "an entry was overwritten"
        whole = {record.folder: objects.get(manifest_object(record.folder)) for record in log[-1].state.checkpoints}
        missing = sorted(folder for folder, found in whole.items() if found is None)
        assert not missing, f"{missing} is live, and its data is not there"
        state = log[-1].state
        good = (all(whole[each.folder] == WHOLE for each in state.chain(record)) for record in state.checkpoints)
        assert any(good) or state.moved, "no live checkpoint is good"

    def _check_commit(self, before: State, log: list[Entry]) -> None:
        """Check that who commits after a rollback has restored what it made the newest, or what came after."""
        *_, entry = log
        back = max((n for n, each in enumerate(log) if each.kind == "rollback"), default=None)
        if entry.kind != "commit" or back is None or len(self._log(before.disk)) == len(log):
            return
        allowed = {each.state.checkpoints[-1].prefix for each in log[back:-1]}
        made = parse_folder(entry.state.checkpoints[-1].folder)
        for hand in map(self._hands.__getitem__, before.hands):
            if made and hand.world and hand.world.generation == made.generation:
                assert hand.restored in allowed, f"{made.folder} goes on from {hand.restored}, which was given up"
                self.after_rollback = True

    def _check_told(self, log: list[Entry], told: frozenset[tuple[str, int, bool]]) -> None:
        commits = [parse_folder(entry.state.checkpoints[-1].folder) for entry in log if entry.kind == "commit"]
        committed = {(attempt.generation, attempt.ordinal) for attempt in commits if attempt}
        for generation, ordinal, is_committed in told:
            save = f"save {ordinal} of {generation}"
            assert (generation, ordinal, not is_committed) not in told, f"the outcome of {save} was told both ways"
            stands = (generation, ordinal) in committed
            assert is_committed == stands, f"{save} was told committed={is_committed}, the log says otherwise"
            self.outcomes.add((ordinal, is_committed))

    def _check_ending(self, s: State) -> None:
        waiting = [f"{hand.job}{hand.index}" for hand in (self._hands[number] for number in s.hands) if hand.does]
        # One that waits for another, which is gone or has been told of a failure, waits until a deadline passes.
        assert self.bounds.workers > 1 or not waiting, f"{waiting} wait for ever"

    def _reads_back(self, disk: int, record: CheckpointRecord) -> Literal["good", "damaged", "absent"]:
        """What a reader finds of a checkpoint by itself."""
        manifest = self.disks[disk].objects.get(manifest_object(record.folder))
        return "good" if manifest == WHOLE else "damaged" if manifest else "absent"

    def _needed(self, disk: int, held: str) -> tuple[CheckpointRecord, ...]:
        """What a reader of a checkpoint needs, by the last entry in which it was live."""
        if not held:
            return ()
        states = (entry.state for entry in reversed(self._log(disk)))
        return next(state.chain(record) for state in states if (record := state.find(held)))

    def _log(self, disk: int) -> list[Entry]:
        """All entries, once they are found good."""
        if disk not in self._logs:
            objects = self.disks[disk].objects
            pages = frozenset(name for name in objects if name.startswith(PAGE_FOLDER))
            log = Log(self.disks[disk])  # type: ignore[arg-type]
            entries: list[Entry] = []
            while data := objects.get(log_entry(len(entries))):
                entry = self._entries.get((data, pages)) or log.read(len(entries))
                assert entry is not None
                self._entries[data, pages] = entry
                entries.append(entry)
            self._check_entries(entries)
            self.kinds.add(entries[-1].kind)
            self.deltas |= any(record.base for record in entries[-1].state.checkpoints)
            self._logs[disk] = entries
        return self._logs[disk]

    @staticmethod
    def _check_entries(log: list[Entry]) -> None:
        check_log(log)
        for earlier, entry in pairwise(log):
            lost = set(earlier.state.checkpoints) - set(entry.state.checkpoints)
            goes = entry.kind in ("retire", "remove", "move")
            assert not lost or goes, f"{entry.kind} entry {entry.number} drops {lost}"
            assert len(entry.state.checkpoints) >= len(earlier.state.checkpoints) + (entry.kind == "commit") - len(lost)

    # -- numbers --

    def _disk(self, objects: dict[str, bytes]) -> int:
        return self.disks.made(frozenset(objects.items()), lambda: Disk(objects))

    def _machine(self, machine: Machine) -> int:
        def kept() -> Kept:
            current = machine.ledger.current
            machine._run.begin(v.Now(0.0, 0.0))  # what the last event was is no part of its state
            return Kept(
                pickle.dumps(machine),
                machine.leader,
                machine.ledger.number,
                any(world.attempt for world in machine.worlds.values()),
                current is not None and current.again is not None,
            )

        return self.machines.made(machine.state(), kept)

    def _put(self, s: State, place: int, seat: Seat) -> State:
        return s._replace(seats=_with(s.seats, place, self.seats.of(seat)))

    def _set(self, s: State, number: int, hand: Hand) -> State:
        hand = hand if hand.does else Hand(hand.job, hand.index, hand.seat, "")
        return s._replace(hands=_with(s.hands, number, self._hands.of(hand)))

    @staticmethod
    def _story(parents: dict[State, tuple[State, str] | None], state: State) -> str:
        lines = []
        while (parent := parents[state]) is not None:
            state, line = parent
            lines.append(line)
        return "\n".join(f"  {number}. {line}" for number, line in enumerate(reversed(lines), 1))


def _with(values: tuple[T, ...], number: int, value: T) -> tuple[T, ...]:
    return (*values[:number], value, *values[number + 1 :])


def _appended(entry: Entry, outcome: Outcome) -> ev.Appended:
    """As the driver tells it."""
    match outcome:
        case Published():
            return ev.Appended(entry)
        case LostRace(taken):
            return ev.Appended(entry, taken_by=taken)
        case NotPublished(reason):
            return ev.Appended(entry, refused=reason)
        case Unknown(reason):
            return ev.Appended(entry, unknown=reason)
