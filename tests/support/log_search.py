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
written. `Log.publish` is played operation by operation, again and again from its start with the answers that it has
had, so that others may act between any two. Storage is a set of faultless names.

What is told apart nowhere is not told twice: machines, storages and seats (a machine, its clock, what it wants) are
numbers, and what one of them does with one event is computed once. TensorFlow's `checkpoint` file is written at once
where `Bounds.files` does not say otherwise: nothing else depends on when.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.machine import Machine
from holdfast_storage.cluster import Task
from holdfast_storage.entries import encode
from holdfast_storage.errors import HoldfastError, Kind, StorageError
from holdfast_storage.failure import Failure
from holdfast_storage.layout import log_entry, manifest_object, parse_folder, prefix
from holdfast_storage.log import Log, LostRace, NotPublished, Outcome, Published, Unknown
from holdfast_storage.records import CheckpointRecord, Entry, Leader, LogState
from holdfast_storage.run_directory import orphans, tail_or_import
from holdfast_storage.store.base import NotCreated
from support.cluster import Worker, check_invariants, check_log

BEGIN = "0000000e"  # the generation of the checkpoints that are there at the start
TIMEOUT = 100.0  # seconds that a save may take
WHOLE, ROTTEN, BEGUN = b"whole", b"rotten", b"begun"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may happen."""

    jobs: int = 2
    workers: int = 1  # of each job
    saves: int = 1  # of each job
    kills: int = 0
    left_behind: int = 0
    late_jobs: int = 0  # jobs that start, and restore, at any time
    lapses: int = 0  # deadlines that pass
    rotten: int = 0  # checkpoints that are durable and not what was written
    refusals: int = 0  # creates that the storage refuses for certain
    unknown: int = 0  # creates that lose their reply, or land later, or never
    rollback: bool = False  # the last job goes back to the older of two checkpoints
    pages: bool = False  # entries are not whole by themselves
    files: bool = False  # TensorFlow's file is written at any time


class Violation(AssertionError):
    """A state that must not be, and how it came about."""


# -- storage --


class Disk:
    """A storage at one instant, as a `Store` that is only read."""

    url = "disk"
    parallel = 1
    block = 1 << 20

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def size(self, name: str) -> int | None:
        return len(self.objects[name]) if name in self.objects else None

    def list(self, folder: str = "", start: str = "") -> list[str]:
        inside = (
            name.removeprefix(f"{folder}/") for name in self.objects if not folder or name.startswith(f"{folder}/")
        )
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in inside}
        return sorted(name for name in names if name.startswith(start))


Operation = tuple[str, str, bytes]  # what to do, to which name, with what
Answer = bool | bytes | None | Exception


class Next(BaseException):
    """The operation that a play of the log has come to."""


class Script:
    """A `Store` that gives the answers that were had, and then stops at the next operation."""

    url = "disk"
    parallel = 1
    block = 1 << 20

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self._answers = iter(answers)

    def _ask(self, what: str, name: str, data: bytes = b"") -> Any:
        for answer in self._answers:
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise Next(what, name, data)

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._ask("create", name, bytes(data)))

    def replace(self, name: str, data: bytes) -> None:
        self._ask("replace", name, bytes(data))

    def remove(self, name: str) -> None:
        """For protocols that lose something."""
        self._ask("remove", name)

    def read(self, name: str) -> bytes:
        found = self._ask("read", name)
        if found is None:
            raise FileNotFoundError(name)
        assert isinstance(found, bytes)
        return found


LOST = StorageError("no answer")
REFUSED = NotCreated("no space")


# -- who acts --


class Want(NamedTuple):
    """An effect, and the answers that it has had from the storage so far."""

    effect: fx.Effect
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
    does: str = "join"  # "join", "restore", "vote" or "report"; nothing: it has come to its end
    waits: bool = False
    again: bool = False  # its coordinator is another process by now: it is to join again first
    ordinal: int = 1
    world: v.Joined | None = None
    restored: str | None = None
    read: str = ""  # what it was told to read and verify
    verdict: str = ""


class State(NamedTuple):
    """Everything, at one instant. Storages and seats are numbers, see `Search`."""

    disk: int
    late: frozenset[Operation]  # creates that may still land
    told: frozenset[tuple[str, int, bool]]  # generation, ordinal, committed
    seats: tuple[int, ...]
    hands: tuple[Hand, ...]
    kills: int  # how many may still happen, as the next five
    left_behind: int
    lapses: int
    rotten: int
    refusals: int
    unknown: int


CALLS = ("join", "restore", "vote", "report", "again")


class Search:
    """All states within the bounds."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.kinds: set[str] = set()  # of the entries that came to stand in some log
        self.outcomes: set[tuple[int, bool]] = set()  # that somebody was told
        self.cleaned: set[str] = set()  # folders that were deleted and never had been committed
        self.endings = 0  # states in which nobody has anything left to do
        self.processes = 0
        self._disks: list[Disk] = []
        self._disk_numbers: dict[frozenset[tuple[str, bytes]], int] = {}
        self._machines: list[bytes] = []
        self._leaders: list[Leader] = []  # of each machine
        self._saving: list[bool] = []  # whether a deadline may pass there
        self._retrying: list[bool] = []
        self._known: list[int] = []  # number of the log's last entry that it knows
        self._machine_numbers: dict[Any, int] = {}
        self._seats: list[Seat] = []
        self._seat_numbers: dict[Seat, int] = {}
        self._steps: dict[Any, tuple[int, tuple[fx.Effect, ...]]] = {}
        self._plays: dict[Any, Operation | Outcome] = {}
        self._operations: dict[tuple[int, Operation], tuple[int, Answer]] = {}
        self._reads: dict[tuple[int, int], ev.LogRead] = {}
        self._logs: dict[int, list[Entry]] = {}  # by disk, found good
        self._entries: dict[bytes, Entry] = {}

    def run(self) -> int:
        """The number of states; Violation if one of them must not be."""
        start = self._start()
        parents: dict[State, tuple[State, str] | None] = {start: None}
        front = [start]
        while front:
            following = []
            for state in front:
                ending = True
                try:
                    for story, after in self._moves(state):
                        ending = False
                        if after in parents:
                            continue
                        parents[after] = (state, story)
                        self._check(state, after)
                        following.append(after)
                    if ending:
                        self._check_ending(state)
                        self.endings += 1
                except (AssertionError, HoldfastError) as error:
                    told = self._story(parents, after if "after" in locals() and after in parents else state)
                    raise Violation(f"{error}\n{told}") from error
            front = following
        return len(parents)

    # -- the beginning --

    def _start(self) -> State:
        """A run that has been imported, with one checkpoint, or two to choose from; jobs that have joined, or not."""
        bounds = self.bounds
        records = tuple(CheckpointRecord(prefix("ckpt", n, BEGIN, n), n, 0.0) for n in range(1 + bounds.rollback))
        first = Entry(0, "import", "first.1", 0.0, LogState("run", checkpoints=records))
        objects = {log_entry(0): encode(first, list(records))}
        objects |= {manifest_object(record.folder): WHOLE for record in records}
        seats, hands = [], []
        for job in range(bounds.jobs):
            hands += [Hand(job, index, job) for index in range(bounds.workers)]
            seats.append(self._seat(Seat(self._machine(Machine(Leader(f"c{job}-0", "", ""))), 0.0)))
        s = State(
            self._disk(objects), frozenset(), frozenset(), tuple(seats), tuple(hands),
            bounds.kills, bounds.left_behind, bounds.lapses, bounds.rotten, bounds.refusals, bounds.unknown,
        )  # fmt: skip
        for job in range(bounds.jobs - bounds.late_jobs):
            while any(hand.job == job and hand.does in ("join", "restore") for hand in s.hands):
                s = next(after for place in (job,) for _, after in self._acts(s, place))
        return s

    def _acts(self, s: State, place: int) -> Iterator[tuple[str, State]]:
        """What a coordinator and those who are at it do while all goes well."""
        for number, hand in enumerate(s.hands):
            if hand.seat == place and hand.does and not hand.waits:
                yield self._calls(s, number)
        yield from self._effects(s, place)

    # -- what can happen --

    def _moves(self, s: State) -> Iterator[tuple[str, State]]:
        for operation in s.late:
            disk, _ = self._operate(s.disk, operation)
            yield f"{operation[1]} lands", s._replace(disk=disk, late=s.late - {operation})
        for place, number in enumerate(s.seats):
            yield from self._acts(s, place)
            seat = self._seats[number]
            who = self._leaders[seat.machine].id
            if self._retrying[seat.machine]:
                yield f"{who} tries again", self._tell(s, place, ev.Tick())
            if s.lapses and self._saving[seat.machine]:
                later = self._put(s._replace(lapses=s.lapses - 1), place, seat._replace(clock=seat.clock + TIMEOUT))
                yield f"a deadline passes for {who}", self._tell(later, place, ev.Tick())
            theirs = [number for number, hand in enumerate(s.hands) if hand.seat == place and hand.world]
            if (s.kills or s.left_behind) and theirs and (seat.wants or any(s.hands[each].does for each in theirs)):
                yield from self._restarts(s, place, who, theirs)

    def _restarts(self, s: State, place: int, who: str, theirs: list[int]) -> Iterator[tuple[str, State]]:
        job, _, process = who.rpartition("-")
        new = self._seat(Seat(self._machine(Machine(Leader(f"{job}-{int(process) + 1}", "", ""))), 0.0))
        if s.kills:
            after = self._put(s._replace(kills=s.kills - 1), place, self._seats[new])
            for number in theirs:
                after = self._set(after, number, self._moved(s.hands[number]))
            yield f"{who} is killed and restarted", after
        if s.left_behind:
            left = len(s.seats)
            after = s._replace(
                seats=(*s.seats[:place], new, *s.seats[place + 1 :], s.seats[place]), left_behind=s.left_behind - 1
            )
            for number in theirs:
                caller = self._caller(s.hands[number])
                after = self._set(after, number, self._moved(s.hands[number]))
                after = self._tell(after, left, ev.Detached(caller))
            yield f"{who} is left behind", after

    def _moved(self, hand: Hand) -> Hand:
        return hand._replace(waits=False, again=bool(hand.does))

    # -- workers --

    def _worker(self, hand: Hand) -> Worker:
        cluster: v.Cluster = (("worker", tuple(f"{hand.job}-{i}:1" for i in range(self.bounds.workers))),)
        worker = Worker(Task("worker", hand.index), cluster, f"{hand.job}{hand.index}.1")
        worker.world, worker.restored, worker.restores = hand.world, hand.restored or "", int(hand.restored is not None)
        worker.terms = {"retention": v.RetentionPolicy(1), "takeover": True, "timeout": TIMEOUT}
        return worker

    def _caller(self, hand: Hand) -> v.Caller:
        return self._worker(hand).caller

    def _calls(self, s: State, number: int) -> tuple[str, State]:
        """A worker makes its next call."""
        hand = s.hands[number]
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
            case "vote":
                build = worker.vote(hand.ordinal)
            case _:
                build = worker.report(hand.ordinal)
                s = self._write(s, self._data(hand), WHOLE)
        event = build(self._request(number, hand))
        s = self._set(s, number, hand._replace(waits=True))
        return f"{worker.incarnation}: {what} {hand.ordinal}", self._tell(s, hand.seat, event)

    def _request(self, number: int, hand: Hand) -> v.RequestId:
        return (number * 100 + hand.ordinal) * 10 + CALLS.index("again" if hand.again else hand.does)

    def _hear(self, s: State, number: int, answer: v.Answer | Failure) -> tuple[State, list[ev.Event]]:
        """A worker takes an answer; and what its coordinator is told at once then."""
        hand = s.hands[number]._replace(waits=False)
        attach: list[ev.Event] = []
        match answer:
            case Failure(kind=kind) if kind == Kind.UNKNOWN_GENERATION:
                hand = hand._replace(again=True)
            case Failure():
                hand = hand._replace(does="", again=False)
            case v.Joined():
                hand = hand._replace(again=False) if hand.again else hand._replace(does="restore", world=answer)
                attach = [ev.Attached(self._caller(hand)), ev.Heartbeat(self._caller(hand), "train", 0, 0, 0)]
            case v.Read(record):
                found = self._disks[s.disk].objects.get(manifest_object(record.folder))
                verdict = "good" if found == WHOLE else "damaged" if found == ROTTEN else "absent"
                hand = hand._replace(read=record.prefix, verdict=verdict)
            case v.Apply(record):
                assert hand.world
                world = replace(hand.world, base=answer.base)
                hand = hand._replace(does="vote", world=world, restored=record.prefix if record else "", read="")
            case v.Go():
                hand = hand._replace(does="report")
                s = self._write(s, self._data(hand), BEGUN)
            case v.Outcome(ordinal, committed):
                assert hand.world
                assert ordinal == hand.ordinal
                s = s._replace(told=s.told | {(hand.world.generation, ordinal, committed)})
                does = "vote" if ordinal < self.bounds.saves else ""
                hand = hand._replace(ordinal=ordinal + 1, does=does)
            case _:
                raise AssertionError(answer)
        return self._set(s, number, hand), attach

    def _data(self, hand: Hand) -> str:
        """What a worker writes of its present save."""
        assert hand.world
        where = prefix("ckpt", hand.ordinal * 10, hand.world.generation, hand.ordinal)
        return f"{where}.data-{hand.index:05d}-of-{self.bounds.workers:05d}"

    # -- coordinators --

    def _tell(self, s: State, place: int, *events: ev.Event) -> State:
        """Hand a coordinator an event, and the workers at it what it says to them."""
        left = list(events)
        while left:
            seat = self._seats[s.seats[place]]
            machine, effects = self._step(seat.machine, seat.clock, left.pop(0))
            s = self._put(s, place, seat._replace(machine=machine))
            for effect in effects:
                match effect:
                    case fx.Reply(request, answer) | fx.Refuse(request, answer):
                        hand = request // 1000
                        there = s.hands[hand]
                        if there.seat == place and there.waits and self._request(hand, there) == request:
                            s, attach = self._hear(s, hand, answer)
                            left += attach
                    case fx.Notify(caller, failure, ordinal) if ordinal is not None:
                        for hand, there in enumerate(s.hands):
                            at = there.seat == place and there.world and there.does and self._caller(there) == caller
                            if at and there.ordinal == ordinal:
                                s, _ = self._hear(s, hand, v.Outcome(ordinal, False, failure))
                    case fx.Notify() | fx.Remark():
                        pass
                    case fx.WriteStateFile() if not self.bounds.files:
                        left.append(self._state_file(s, place, effect))
                    case _:
                        seat = self._seats[s.seats[place]]
                        s = self._put(s, place, seat._replace(wants=(*seat.wants, Want(effect))))
        return s

    def _step(self, number: int, clock: float, event: ev.Event) -> tuple[int, tuple[fx.Effect, ...]]:
        """What a machine does with an event, computed once."""
        step = (number, clock, event)
        found = self._steps.get(step)
        if found is None:
            machine = pickle.loads(self._machines[number])
            effects = machine.handle(event, v.Now(clock, 0.0))
            check_invariants(machine)
            found = self._steps[step] = self._machine(machine), tuple(effects)
        return found

    def _effects(self, s: State, place: int) -> Iterator[tuple[str, State]]:
        """Each way in which what a coordinator wants done can go."""
        seat = self._seats[s.seats[place]]
        who = self._leaders[seat.machine].id
        for number, want in enumerate(seat.wants):
            rest = self._put(s, place, seat._replace(wants=seat.wants[:number] + seat.wants[number + 1 :]))
            for story, after in self._effect(s, rest, place, number, want):
                yield f"{who} {story}", after

    def _effect(self, s: State, rest: State, place: int, number: int, want: Want) -> Iterator[tuple[str, State]]:
        """rest: the state without this want."""
        disk = self._disks[s.disk]
        match want.effect:
            case fx.ReadLog():
                yield "reads the log", self._tell(rest, place, self._read(s, place))
            case fx.Append():
                yield from self._appends(s, rest, place, number, want)
            case fx.Finalize() as effect:
                where = prefix(effect.checkpoint_name, effect.step, effect.generation.id, effect.ordinal)
                folder = where.partition("/")[0]
                parts = [f"{where}.data-{i:05d}-of-{self.bounds.workers:05d}" for i in range(self.bounds.workers)]
                done = ev.Finalized(effect.generation.id, effect.ordinal, where)
                if any(disk.objects.get(part) != WHOLE for part in parts):
                    gone = Failure(Kind.STORAGE, f"{folder} is not there", phase="finalize")
                    yield f"does not find {folder}", self._tell(rest, place, replace(done, failure=gone))
                    return
                name = manifest_object(folder)
                written = self._write(rest, name, disk.objects.get(name, WHOLE))
                yield f"finalizes {folder}", self._tell(written, place, done)
                if s.rotten and name not in disk.objects:
                    rotten = self._write(rest._replace(rotten=s.rotten - 1), name, ROTTEN)
                    yield f"finalizes {folder}, which rots", self._tell(rotten, place, done)
            case fx.WriteStateFile() as effect:
                yield "writes TensorFlow's file", self._tell(rest, place, self._state_file(s, place, effect))
            case fx.ReadBackCheckpoint(record):
                found = disk.objects.get(manifest_object(record.folder))
                back = ev.ReadBack(record.prefix, "good" if found == WHOLE else "damaged" if found else "absent")
                yield f"reads {record.folder} back: {back.verdict}", self._tell(rest, place, back)
            case fx.FindOrphans(entry):
                folders = orphans(disk, entry)  # type: ignore[arg-type]
                yield f"finds {', '.join(folders) or 'no orphans'}", self._tell(rest, place, ev.OrphansFound(folders))
            case fx.DeleteFolder(folder):
                kept = {name: data for name, data in disk.objects.items() if not name.startswith(f"{folder}/")}
                gone_disk = rest._replace(disk=self._disk(kept))
                if not any(
                    record.folder == folder for entry in self._log(s.disk) for record in entry.state.checkpoints
                ):
                    self.cleaned.add(folder)
                yield f"deletes {folder}", self._tell(gone_disk, place, ev.Deleted(folder, True))
            case fx.Probe(address):
                yield "finds nobody", self._tell(rest, place, ev.Probed(address, ""))
            case _:
                raise AssertionError(want)

    def _read(self, s: State, place: int) -> ev.LogRead:
        key = s.disk, self._known[self._seats[s.seats[place]].machine]
        if key not in self._reads:
            disk = self._disks[s.disk]
            found = tail_or_import(disk, Log(disk), "run", key[1])  # type: ignore[arg-type]
            assert isinstance(found, Entry)
            self._reads[key] = ev.LogRead(found)
        return self._reads[key]

    def _state_file(self, s: State, place: int, effect: fx.WriteStateFile) -> ev.StateFileWritten:
        """As the driver: once a newer leader's entries follow, the file is that one's to write."""
        last = self._log(s.disk)[-1].state
        ours = last.leader is not None and last.leader.id == self._leaders[self._seats[s.seats[place]].machine].id
        named = effect.state.restorable[-1:] if ours or effect.number == self._log(s.disk)[-1].number else ()
        return ev.StateFileWritten(effect.number, named[0].prefix if named else "")

    # -- the log --

    def _appends(self, s: State, rest: State, place: int, number: int, want: Want) -> Iterator[tuple[str, State]]:
        """Each way in which the next operation of a create can go."""
        assert isinstance(want.effect, fx.Append)
        entry = want.effect.entry
        operation = self._play(entry, want.answers)
        assert isinstance(operation, tuple)
        what, name, _ = operation
        story = f"{what}s {name} ({entry.kind} {entry.number}, {entry.write_id})"

        def answered(s: State, answer: Answer, disk: int | None = None) -> State:
            """The state once an answer has come; what is read in reply to it is read at once."""
            answers = (*want.answers, answer)
            s = s if disk is None else s._replace(disk=disk)
            while isinstance(following := self._play(entry, answers), tuple) and following[0] == "read":
                answers = (*answers, self._disks[s.disk].objects.get(following[1]))
            if isinstance(following, tuple):
                seat = self._seats[s.seats[place]]
                wants = (*seat.wants[:number], Want(want.effect, answers), *seat.wants[number:])
                return self._put(s, place, seat._replace(wants=wants))
            return self._tell(s, place, self._appended(entry, following))

        disk, done = self._operate(s.disk, operation)
        yield f"{story}{' in vain' * (done is False)}", answered(rest, done, disk)
        if what != "create":
            return
        if s.refusals:
            yield f"{story}: refused", answered(rest._replace(refusals=s.refusals - 1), REFUSED)
        if s.unknown:
            unsure = rest._replace(unknown=s.unknown - 1)
            yield f"{story}, reply lost", answered(unsure, LOST, disk)
            late = s.late | {operation} if done else s.late
            yield f"{story}, no reply", answered(unsure._replace(late=late), LOST)

    def _play(self, entry: Entry, answers: tuple[Answer, ...]) -> Operation | Outcome:
        """What `Log.publish` comes to, with the answers that it has had."""
        key = entry, answers
        if key not in self._plays:
            try:
                store = Script(answers)
                self._plays[key] = Log(store, clock=lambda: 0.0).publish(entry, 0.0)  # type: ignore[arg-type]
            except Next as following:
                self._plays[key] = following.args
        return self._plays[key]

    @staticmethod
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

    def _operate(self, number: int, operation: Operation) -> tuple[int, Answer]:
        """The storage after an operation, and its answer."""
        key = number, operation
        if key not in self._operations:
            what, name, data = operation
            objects = self._disks[number].objects
            if what == "create" and name in objects:
                self._operations[key] = number, False
            elif what == "remove":
                self._operations[key] = self._disk({n: d for n, d in objects.items() if n != name}), None
            else:
                self._operations[key] = self._disk(objects | {name: data}), True
        return self._operations[key]

    def _write(self, s: State, name: str, data: bytes) -> State:
        if data == BEGUN and name in self._disks[s.disk].objects:
            return s
        return s._replace(disk=self._operate(s.disk, ("replace", name, data))[0])

    # -- what must be --

    def _check(self, before: State, s: State) -> None:
        if s.disk == before.disk and s.told is before.told:
            return
        log, objects = self._log(s.disk), self._disks[s.disk].objects
        if s.disk != before.disk:
            was = self._log(before.disk)
            assert log[: len(was)] == was, "an entry was overwritten"
            state = log[-1].state
            whole = {record.folder: objects.get(manifest_object(record.folder)) for record in state.checkpoints}
            missing = sorted(folder for folder, found in whole.items() if found is None)
            assert not missing, f"{missing} is live, and its data is not there"
            assert WHOLE in whole.values(), "no live checkpoint is good"
        committed = {
            (attempt.generation, attempt.ordinal)
            for entry in log
            if entry.kind == "commit" and (attempt := parse_folder(entry.state.checkpoints[-1].folder))
        }
        for generation, ordinal, is_committed in s.told:
            save = f"save {ordinal} of {generation}"
            assert (generation, ordinal, not is_committed) not in s.told, f"the outcome of {save} was told both ways"
            stands = (generation, ordinal) in committed
            assert is_committed == stands, f"{save} was told committed={is_committed}, the log says otherwise"
            self.outcomes.add((ordinal, is_committed))

    def _check_ending(self, s: State) -> None:
        waiting = [f"{hand.job}{hand.index}" for hand in s.hands if hand.does]
        assert not waiting, f"{waiting} wait for ever"

    def _log(self, disk: int) -> list[Entry]:
        """All entries, once they are found good."""
        if disk not in self._logs:
            objects = self._disks[disk].objects
            log = Log(self._disks[disk])  # type: ignore[arg-type]
            entries: list[Entry] = []
            while (name := log_entry(len(entries))) in objects:
                data = objects[name]
                entry = self._entries.get(data)
                if entry is None or self.bounds.pages:
                    entry = log.read(len(entries))
                    assert entry is not None
                    self._entries[data] = entry
                entries.append(entry)
            self._check_entries(entries)
            self.kinds.add(entries[-1].kind)
            self._logs[disk] = entries
        return self._logs[disk]

    @staticmethod
    def _check_entries(log: list[Entry]) -> None:
        check_log(log)
        for earlier, entry in pairwise(log):
            lost = set(earlier.state.checkpoints) - set(entry.state.checkpoints)
            assert not lost or entry.kind == "retire", f"{entry.kind} entry {entry.number} drops {lost}"
            assert len(entry.state.checkpoints) >= len(earlier.state.checkpoints) + (entry.kind == "commit") - len(lost)

    # -- numbers --

    def _disk(self, objects: dict[str, bytes]) -> int:
        key = frozenset(objects.items())
        if key not in self._disk_numbers:
            self._disk_numbers[key] = len(self._disks)
            self._disks.append(Disk(objects))
        return self._disk_numbers[key]

    def _machine(self, machine: Machine) -> int:
        key = machine.state()
        if key not in self._machine_numbers:
            self._machine_numbers[key] = len(self._machines)
            self._machines.append(pickle.dumps(machine))
            self._leaders.append(machine.leader)
            self._saving.append(any(world.attempt for world in machine.worlds.values()))
            current = machine.ledger.current
            self._retrying.append(current is not None and current.again is not None)
            self._known.append(machine.ledger.number)
        return self._machine_numbers[key]

    def _seat(self, seat: Seat) -> int:
        if seat not in self._seat_numbers:
            self._seat_numbers[seat] = len(self._seats)
            self._seats.append(seat)
        return self._seat_numbers[seat]

    def _put(self, s: State, place: int, seat: Seat) -> State:
        return s._replace(seats=(*s.seats[:place], self._seat(seat), *s.seats[place + 1 :]))

    @staticmethod
    def _set(s: State, number: int, hand: Hand) -> State:
        return s._replace(hands=(*s.hands[:number], hand, *s.hands[number + 1 :]))

    @staticmethod
    def _story(parents: dict[State, tuple[State, str] | None], state: State) -> str:
        lines = []
        while (parent := parents[state]) is not None:
            state, line = parent
            lines.append(line)
        return "\n".join(f"  {number}. {line}" for number, line in enumerate(reversed(lines), 1))
