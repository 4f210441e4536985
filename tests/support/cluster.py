"""A cluster in memory: workers and coordinators' state machines over one log, without threads, sleeps or I/O.

A `Coordinator` is a real `Machine` with a driver that does nothing by itself: the effects that it wants carried out
wait in `pending`, what came of them waits in `results`, and the test, or a random choice, says which is next and how it
goes. So every order of events that a network and a storage can produce can be played, and played again. Time is a
number that only `Cluster.tick` moves.

A `Worker` builds the calls of one worker process. `Worker.train` is the whole life of one, as a generator that yields
calls and is sent their answers; a `Client` plays it, repeats calls whose replies are lost, and joins again where it
must, as the real link does.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.agreement import NOTHING, Word
from holdfast_coordinator.core.attempt import Phase
from holdfast_coordinator.core.dealing import StoredObject
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.membership import REMEMBERED
from holdfast_coordinator.status import status
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, tasks_of
from holdfast_storage.decision import Decision
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import prefix
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Holding, Intervention, Leader, LogState

Build = Callable[[v.RequestId], ev.Event]
Fate = Literal[
    "good",
    "lost",  # of an append: it was done, but the answer is lost
    "late",  # of an append: no answer, and it is done at the next `land()`, if its slot is still free
    "never",  # of an append: no answer, and it will not be done
    "bad",  # the storage says no, and nothing was done
]
WALL = 1_700_000_000.0
REPLACED_BY = "replaced by "  # with which the note of an entry begins that retires
ROTS = "worker-0"  # the object of a checkpoint that is damaged


class Storage:
    """The storage that all coordinators share: the log, and the folders of checkpoints."""

    def __init__(self, imported: LogState | None = None) -> None:
        self.entries: list[Entry] = []
        self.folders: set[str] = set()
        self.damaged: set[str] = set()  # prefixes that do not read back
        self.metrics: dict[str, tuple[tuple[str, float], ...]] = {}  # by prefix, in its manifest
        self.decisions: dict[tuple[str, int], Decision] = {}  # by generation and number
        self.state_file: fx.WriteStateFile | None = None  # what it was written last with
        self._imported = imported or LogState("run")
        self._late: list[Entry] = []

    @property
    def state(self) -> LogState:
        return self.entries[-1].state if self.entries else self._imported

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]

    def read(self) -> ev.LogRead:
        return ev.LogRead(self.entries[-1]) if self.entries else ev.LogRead(None, imported=self._imported)

    def verdict(self, record: CheckpointRecord) -> Literal["good", "damaged"]:
        """Return what a reader finds. All that was imported exists."""
        there = record.folder in self.folders or record in self._imported.checkpoints
        return "good" if there and record.prefix not in self.damaged else "damaged"

    def is_lost(self, record: CheckpointRecord) -> bool:
        """Whether something that a restore of a checkpoint needs does not read back."""
        return any(self.verdict(each) != "good" for each in self.state.chain(record))

    def holds(self, record: CheckpointRecord, name: str) -> bool:
        """Return whether an object of a checkpoint is good. Of one that is damaged, one object is not."""
        return name != ROTS or self.verdict(record) == "good"

    def orphans(self, entry: Entry) -> tuple[str, ...]:
        """Find what `holdfast_storage.run_directory.orphans` finds, by looking at every entry."""
        committed = {record.folder for each in self.entries[: entry.number + 1] for record in each.state.checkpoints}
        left = sorted(self.folders - committed - set(entry.state.retired))
        return tuple(folder for folder in left if folder.split(".")[1] in entry.state.superseded)

    def create(self, entry: Entry) -> Entry | None:
        """Return None if the entry stands there now, else the one that does."""
        assert entry.number <= len(self.entries), "a hole in the log"
        if entry.number < len(self.entries):
            return self.entries[entry.number]
        self.entries.append(entry)
        return None

    def late(self, entry: Entry) -> None:
        self._late.append(entry)

    def land(self) -> None:
        """Let arrive what was sent and never answered."""
        late, self._late = self._late, []
        for entry in late:
            self.create(entry)


@dataclass
class Call:
    """A call of a worker, and what was answered."""

    event: ev.Event
    answers: list[v.Answer | Failure] = field(default_factory=list)

    @property
    def answer(self) -> v.Answer | Failure | None:
        """The answer, a Failure if it was refused, None if there is none yet."""
        assert len(self.answers) <= 1, "a call was answered twice"
        return self.answers[0] if self.answers else None


class Coordinator:
    """A state machine, and the effects that it waits for."""

    def __init__(self, cluster: Cluster, leader: Leader) -> None:
        self.machine = Machine(leader)
        self.alive = True
        self.pending: list[fx.Effect] = []
        self.results: list[ev.Event] = []
        self.notices: list[fx.Notify] = []
        self.remarks: list[str] = []
        self._cluster = cluster
        self._calls: dict[v.RequestId, Call] = {}
        self._own: dict[str, tuple[str, ...]] = {}  # by prefix: what it reads itself
        self._unread: dict[str, set[str]] = {}  # by prefix: what nobody has said to be good

    def tell(self, event: ev.Event) -> list[fx.Effect]:
        """Hand the machine an event. The effects that it had, all of them."""
        assert self.alive
        self._note_what_was_read(event)
        effects = self.machine.handle(event, self._cluster.now)
        check_invariants(self.machine)
        for effect in effects:
            match effect:
                case fx.Reply(request, answer):
                    call = self._calls[request]
                    call.answers.append(answer)
                    if isinstance(answer, v.Go):
                        self._cluster.storage.folders.add(folder_of(call.event))  # the worker begins to write
                case fx.Refuse(request, failure):
                    self._calls[request].answers.append(failure)
                case fx.Notify():
                    self.notices.append(effect)
                    self._cluster.noticed(self, effect)
                case fx.Remark(text):
                    self.remarks.append(text)
                case fx.Post():
                    pass
                case fx.ReadObjects(record, objects):
                    self._own[record.prefix] = objects
                    self.pending.append(effect)
                case fx.Append(entry) if entry.kind == "retire" and entry.note.startswith(REPLACED_BY):
                    assert self._unread[entry.note.removeprefix(REPLACED_BY)] == set(), "it was not read back whole"
                    self.pending.append(effect)
                case _:
                    self.pending.append(effect)
        return effects

    def _note_what_was_read(self, event: ev.Event) -> None:
        match event:
            case ev.ReadBack(prefix, "good"):
                self._unread[prefix] = set()
            case ev.ObjectsRead(prefix, "good"):
                self._unread[prefix].difference_update(self._own[prefix])
            case ev.Listed(prefix, "good", objects):
                self._unread.setdefault(prefix, {each.name for each in objects})
            case ev.Examined(_, prefix, good):
                self._unread.get(prefix, set()).difference_update(good)

    def call(self, build: Build) -> Call:
        request = self._cluster.next_request()
        call = self._calls[request] = Call(build(request))
        self.tell(call.event)
        return call

    def ask(self, build: Build) -> v.Answer | Failure | None:
        """Call, have all effects carried out, and look at the answer."""
        call = self.call(build)
        self.run()
        return call.answer

    def status(self) -> pb.StatusReply:
        """Return its status of the run."""
        return status(self.machine, "run", self.machine.leader, self._cluster.now.monotonic)

    def carry_out(self, index: int = 0, fate: Fate = "good") -> None:
        """Carry out one of the pending effects; its result is then to be delivered."""
        effect = self.pending.pop(index)
        self.results.append(self._carry_out(effect, fate))

    def deliver(self, index: int = 0, *, repeat: bool = False) -> list[fx.Effect]:
        event = self.results[index] if repeat else self.results.pop(index)
        return self.tell(event)

    def run(self, fates: Mapping[type, Fate] | None = None) -> list[fx.Effect]:
        """Carry out all that is pending and all that follows. The effects of the last result."""
        effects: list[fx.Effect] = []
        while self.pending:
            self.carry_out(0, (fates or {}).get(type(self.pending[0]), "good"))
            effects = self.deliver()
        return effects

    def objects(self, record: CheckpointRecord) -> Iterator[StoredObject]:
        """The objects of a checkpoint, as its manifest names them, if it was saved by as many as are there now."""
        world = self.machine.worlds.get(self.machine.leading)
        tasks = world.tasks if world else (Task("worker", 0),)
        yield StoredObject("index", 10, tasks[0])
        for task in tasks:
            yield StoredObject(str(task), 1_000, task)

    def _attends(self, caller: v.Caller) -> bool:
        world = self.machine.worlds.get(caller.generation)
        return world is not None and world.has(caller) and world.presence[caller.task].attached

    def _carry_out(self, effect: fx.Effect, fate: Fate) -> ev.Event:  # noqa: PLR0912
        storage = self._cluster.storage
        bad = Failure(Kind.STORAGE, "the storage says no") if fate == "bad" else None
        match effect:
            case fx.ReadLog():
                return ev.LogRead(None, failure=bad) if bad else storage.read()
            case fx.Append(entry):
                if bad:
                    return ev.Appended(entry, refused=bad.message)
                if fate == "late":
                    storage.late(entry)
                if fate in ("late", "never"):
                    return ev.Appended(entry, unknown="no answer")
                taken = storage.create(entry)
                if fate == "lost":
                    return ev.Appended(entry, unknown="no answer")
                return ev.Appended(entry, taken if taken and taken.write_id != entry.write_id else None)
            case fx.Probe(address, _, generation):
                return ev.Probed(address, self._cluster.living_at(address, generation))
            case fx.Finalize():
                if bad:
                    return ev.Finalized(effect.generation.id, effect.ordinal, failure=bad)
                name = f"{effect.checkpoint_name}-{effect.step}"
                folder = f"{name}.{effect.generation.id}.{effect.ordinal}"
                if folder not in storage.folders:
                    gone = Failure(Kind.STORAGE, f"{folder} is not there", phase="finalize")
                    return ev.Finalized(effect.generation.id, effect.ordinal, failure=gone)
                crc = zlib.crc32(folder.encode())
                where = f"{folder}/{name}"
                return ev.Finalized(effect.generation.id, effect.ordinal, where, crc, storage.metrics.get(where, ()))
            case fx.WriteStateFile(number):
                if not bad and (storage.state_file is None or storage.state_file.number <= number):
                    storage.state_file = effect
                shown = storage.state_file.state.stock_readable if storage.state_file and not bad else ()
                return ev.StateFileWritten(number, shown[-1].prefix if shown else "")
            case fx.ReadBackCheckpoint(record):
                return ev.ReadBack(record.prefix, "unreadable" if bad else storage.verdict(record))
            case fx.ListObjects(record):
                if bad:
                    return ev.Listed(record.prefix, "unreadable")
                return ev.Listed(record.prefix, "good", tuple(self.objects(record)))
            case fx.AskToRead(caller, record, names):
                if fate in ("lost", "late", "never") or not self._attends(caller):
                    return ev.Tick()  # no answer
                if bad:
                    return ev.Examined(caller, record.prefix, (), "unreadable", "the storage says no")
                good = tuple(name for name in names if storage.holds(record, name))
                if good == names:
                    return ev.Examined(caller, record.prefix, good, "good")
                return ev.Examined(caller, record.prefix, good, "damaged", "bits differ")
            case fx.ReadObjects(record, names):
                good = all(storage.holds(record, name) for name in names)
                return ev.ObjectsRead(record.prefix, "unreadable" if bad else "good" if good else "damaged")
            case fx.ReadMetrics(records):
                return ev.MetricsRead(
                    () if bad else tuple((r.prefix, storage.metrics.get(r.prefix, ())) for r in records)
                )
            case fx.FindOrphans(entry):
                return ev.OrphansFound(() if bad else storage.orphans(entry))
            case fx.CreateDecision(generation, decision):
                if bad:
                    return ev.Decided(generation, None)
                stands = storage.decisions.setdefault((generation, decision.number), decision)
                return ev.Decided(generation, None if fate == "lost" else stands)
            case fx.DeleteFolder(folder):
                assert folder, "the run directory itself"
                assert all(record.folder != folder for record in storage.state.checkpoints), "a live one is deleted"
                if not bad:
                    storage.folders.discard(folder)
                return ev.Deleted(folder, not bad)
            case _:
                raise AssertionError(effect)


class Worker:
    """One worker process's manager: who it is, and the calls that it can make."""

    def __init__(self, task: Task, cluster: Cluster, incarnation: str) -> None:
        self.task = task
        self.cluster = cluster
        self.incarnation = incarnation
        self.world: v.Joined | None = None
        self.restored = ""
        self.restores = 0
        self.goes_back = 0  # the save before which it restores its first one
        self.checkpoint_name = "ckpt"
        self.cost_before: float | None = None  # what it says that its save before has cost
        self.crcs: tuple[int, ...] = (1, 2, 3)
        self.guarded = b"\1\1\0"
        self.terms: dict[str, object] = {}  # fields of its ballots that are not the usual
        self.damaged: Callable[[CheckpointRecord], bool] = lambda record: False  # whether it cannot be restored
        self.full_every = 1  # it saves deltas between full checkpoints

    @property
    def caller(self) -> v.Caller:
        assert self.world is not None
        return v.Caller(self.world.generation, self.task, self.incarnation)

    def join(self, timeout: float = 600.0) -> Build:
        fresh = f"{zlib.crc32(self.incarnation.encode()):08x}"
        return lambda r: ev.Join(r, self.task, self.incarnation, self.cluster, fresh, timeout)

    def rejoin(self) -> Build:
        world = self.world
        assert world is not None
        return lambda r: ev.Rejoin(
            r, self.caller, self.cluster, world.members, world.fork_point, self.restored, self.restores
        )

    def vote(self, ordinal: int, step: int | None = None, **terms: object) -> Build:
        ballot = v.Ballot(
            step=ordinal * 10 if step is None else step,
            checkpoint_name=self.checkpoint_name,
            spec_digest=b"specs",
            crcs=struct.pack(f"<{len(self.crcs)}I", *self.crcs),
            guarded=self.guarded,
        )
        told = {name: value for name, value in {**self.terms, **terms}.items() if name != "retention"}
        ballot = replace(ballot, **told)  # type: ignore[arg-type]
        return lambda r: ev.Vote(r, self.caller, ordinal, ballot)

    def report(
        self, ordinal: int, step: int | None = None, worker_local: tuple[int, ...] = (), base: str = ""
    ) -> Build:
        retention = self.terms.get("retention", ())
        assert isinstance(retention, tuple)
        report = v.SaveReport(
            ordinal * 10 if step is None else step,
            self.checkpoint_name,
            worker_local,
            payload=self.task,
            retention=retention,
            cost_before=self.cost_before,
            base=base,
        )
        return lambda r: ev.Reported(r, self.caller, ordinal, report)

    def give_up(self, ordinal: int, message: str = "the disk is full") -> Build:
        return lambda r: ev.GaveUp(r, self.caller, ordinal, Failure(Kind.STORAGE, message, phase="write"))

    def restore(self, ordinal: int, read: str = "", verdict: str = "", target: str = "", reason: str = "") -> Build:
        return lambda r: ev.Restore(r, self.caller, ordinal, target, read, verdict, reason, 600.0)

    def await_upkeep(self) -> Build:
        return lambda r: ev.AwaitUpkeep(r, self.caller)

    def leave(self, wait: float = 0.0) -> Build:
        return lambda r: ev.Leave(r, self.caller, wait)

    def applied(self, answer: v.Apply, ordinal: int = 1) -> None:
        """Note that the worker has restored what all agreed on."""
        assert self.world is not None
        self.world = replace(self.world, fork_point=answer.fork_point)
        self.restored = answer.record.prefix if answer.record else ""
        self.restores = ordinal

    def attached(self) -> ev.Attached:
        return ev.Attached(self.caller)

    def detached(self) -> ev.Detached:
        return ev.Detached(self.caller)

    def heartbeat(self, word: Word = NOTHING, save_every: float = 0.0, *, by_advice: bool = False) -> ev.Heartbeat:
        return ev.Heartbeat(self.caller, "train", 0, 0, 0, word, save_every, by_advice)

    def train(self, saves: int) -> Generator[Build, v.Answer | Failure, None]:
        """Join, restore the newest, save so many times, perhaps going back once. Ends when it is superseded."""
        answer = yield self.join()
        while isinstance(answer, v.Waiting):
            answer = yield self.join()
        if not isinstance(answer, v.Joined):
            return
        self.world = answer
        answer = yield self.restore(1)
        while isinstance(answer, v.Read):
            answer = yield self.restore(1, answer.record.prefix, self._verdict(answer))
        if not isinstance(answer, v.Apply):
            return
        self.applied(answer)
        last = ""  # the save before, if it was committed and nothing was restored since
        for ordinal in range(1, saves + 1):
            if ordinal == self.goes_back:
                answer = yield self.restore(2, target="10")
                while isinstance(answer, v.Read):
                    answer = yield self.restore(2, answer.record.prefix, self._verdict(answer), target="10")
                if isinstance(answer, v.Apply):
                    self.applied(answer, 2)
                last = ""
            base = "" if ordinal % self.full_every == 0 else last
            answer = yield self.vote(ordinal, base=base)
            if isinstance(answer, v.Go):
                answer = yield self.report(ordinal, worker_local=answer.worker_local, base=base)
            committed = isinstance(answer, v.SaveOutcome) and answer.committed
            last = prefix("ckpt", ordinal * 10, self.world.generation, ordinal) if committed else ""
            if isinstance(answer, Failure) and answer.kind is Kind.SUPERSEDED:
                return

    def _verdict(self, read: v.Read) -> str:
        return "damaged" if self.damaged(read.record) else "good"


class Client:
    """Plays a worker's life against whichever coordinator it is at."""

    def __init__(self, cluster: Cluster, worker: Worker, coordinator: Coordinator, saves: int) -> None:
        self.worker = worker
        self.coordinator = coordinator
        self.done = False
        self.attached = False
        self._cluster = cluster
        self._life = worker.train(saves)
        self._build = next(self._life)
        self._call: Call | None = None
        self._rejoining = False
        self._noticed: dict[int, v.SaveOutcome] = {}

    def send(self) -> None:
        """Make the next call; a call that is waiting for its answer is made again, the earlier answer being lost."""
        if not self._know():
            self._call = self.coordinator.call(self.worker.rejoin() if self._rejoining else self._build)

    def notice(self, outcome: v.SaveOutcome) -> None:
        """A save was given up: nothing that is known by notice is asked again."""
        self._noticed[outcome.ordinal] = outcome
        if self._call is not None:
            self._know()

    def _know(self) -> bool:
        event = self._build(0)
        if isinstance(event, ev.SaveCall) and event.ordinal in self._noticed:
            self._call = Call(event, [self._noticed[event.ordinal]])
            self._rejoining = False
            return True
        return False

    def fail(self) -> None:
        """Cannot do its part of the save that its call is about; the answer to that is the answer to the call."""
        event = self.event
        assert isinstance(event, ev.Vote | ev.Reported)
        self._call = self.coordinator.call(self.worker.give_up(event.ordinal))

    @property
    def event(self) -> ev.Event | None:
        """The call that has been made and not been answered, or whose answer has not been taken."""
        return self._call.event if self._call else None

    @property
    def answered(self) -> bool:
        return self._call is not None and bool(self._call.answers)

    @property
    def waiting(self) -> bool:
        return self._call is not None and not self._call.answers

    def receive(self) -> None:
        """Take the answer of the call."""
        assert self._call is not None
        answer, self._call = self._call.answer, None
        assert answer is not None
        if isinstance(answer, Failure) and answer.kind == Kind.UNKNOWN_GENERATION:
            self._rejoining = True
        elif self._rejoining and isinstance(answer, Failure):
            self.done = answer.kind == Kind.SUPERSEDED
        elif self._rejoining:
            self._rejoining = False
            self.attach()
        else:
            joined = self.worker.world is not None
            if isinstance(answer, v.SaveOutcome):
                self._cluster.told(self.worker, answer)
            try:
                self._build = self._life.send(answer)
            except StopIteration:
                self.done = True
            if not joined and self.worker.world:
                self.attach()

    def attach(self) -> None:
        self.attached = True
        self.coordinator.tell(self.worker.attached())
        self.coordinator.tell(self.worker.heartbeat())

    def detach(self) -> None:
        self.attached = False
        self.coordinator.tell(self.worker.detached())

    def move(self, coordinator: Coordinator) -> None:
        """Its connection breaks, and the address leads to another process now."""
        if self.attached and self.coordinator.alive:
            self.detach()
        self.coordinator, self.attached, self._call = coordinator, False, None
        self._rejoining = self.worker.world is not None


class Cluster:
    """Everything, and the clock."""

    def __init__(self, imported: LogState | None = None) -> None:
        self.storage = Storage(imported)
        self.coordinators: list[Coordinator] = []
        self.clients: list[Client] = []
        self.outcomes: dict[tuple[str, int], dict[Task, bool]] = defaultdict(dict)
        self.served = False  # its jobs have parameter servers; of more than one task
        self._time = 0.0
        self._requests = 0
        self._processes = 0

    @property
    def now(self) -> v.Now:
        return v.Now(self._time, WALL + self._time)

    def next_request(self) -> v.RequestId:
        self._requests += 1
        return self._requests

    def tick(self, seconds: float = 0.5) -> None:
        self._time += seconds
        for coordinator in self.coordinators:
            if coordinator.alive:
                coordinator.tell(ev.Tick())

    def beat(self, workers: list[Worker], coordinator: Coordinator, seconds: float) -> None:
        """Let time pass for workers that are well."""
        while seconds > 0:
            for worker in workers:
                coordinator.tell(worker.heartbeat())
            self.tick(min(seconds, 5.0))
            seconds -= 5.0

    def coordinator(self, address: str | None = None) -> Coordinator:
        name = f"coordinator{len(self.coordinators)}"
        made = Coordinator(self, Leader(name, f"{name}:1" if address is None else address, "host"))
        self.coordinators.append(made)
        return made

    def workers(self, count: int, processes: list[Worker] | None = None) -> list[Worker]:
        """The workers of a job, not joined yet; the next managers of the same processes, if these are given."""
        hosts = tuple(f"host-{i}:1" for i in range(count))
        cluster: Cluster = (("worker", hosts),)
        if self.served:
            cluster = (("chief", hosts[:1]), ("ps", hosts[1:]), ("worker", ("elsewhere:1",)))
        made = []
        for i in range(count):
            if processes:
                process, _, manager = processes[i].incarnation.rpartition(".")
                incarnation = f"{process}.{int(manager) + 1}"
            else:
                self._processes += 1
                incarnation = f"process{self._processes}.1"
            made.append(Worker(tasks_of(cluster)[i], cluster, incarnation))
            if self.served:  # each holds values of its own
                made[-1].crcs, made[-1].guarded = (), b""
            made[-1].damaged = self.storage.is_lost
        return made

    def world(self, coordinator: Coordinator, count: int, processes: list[Worker] | None = None) -> list[Worker]:
        """A job that has joined and attached."""
        workers = self.workers(count, processes)
        calls = [coordinator.call(worker.join()) for worker in workers]
        coordinator.run()
        for worker, call in zip(workers, calls, strict=True):
            assert isinstance(call.answer, v.Joined)
            worker.world = call.answer
            coordinator.tell(worker.attached())
            coordinator.tell(worker.heartbeat())
        return workers

    def restore(self, coordinator: Coordinator, workers: list[Worker], ordinal: int = 1, target: str = "") -> v.Apply:
        """The workers restore, all with good verdicts."""
        calls = [coordinator.call(worker.restore(ordinal, target=target)) for worker in workers]
        coordinator.run()
        while isinstance(read := calls[0].answer, v.Read):
            found = read.record.prefix
            calls = [coordinator.call(w.restore(ordinal, found, "good", target)) for w in workers]
            coordinator.run()
        assert isinstance(read, v.Apply)
        for worker, call in zip(workers, calls, strict=True):
            assert call.answer == read
            worker.applied(read, ordinal)
        return read

    def save(
        self, coordinator: Coordinator, workers: list[Worker], ordinal: int, step: int | None = None, base: str = ""
    ) -> v.SaveOutcome:
        """The workers save; with an outcome that all were told. base: on which they save a delta."""
        calls = [coordinator.call(worker.vote(ordinal, step, base=base)) for worker in workers]
        coordinator.run()
        if isinstance(go := calls[0].answer, v.Go):
            base = "" if go.full else base
            calls = [coordinator.call(worker.report(ordinal, step, go.worker_local, base)) for worker in workers]
            coordinator.run()
        outcome = calls[0].answer
        assert isinstance(outcome, v.SaveOutcome), outcome
        assert all(call.answer == outcome for call in calls)
        return outcome

    def living_at(self, address: str, generation: str) -> tuple[str, ...]:
        """Return what the coordinator at an address says about a generation's workers; nothing if nobody listens."""
        for coordinator in self.coordinators:
            if coordinator.alive and coordinator.machine.leader.address == address:
                run = coordinator.status().run
                return tuple(w.worker for w in run.workers if w.alive and run.generation == generation)
        return ()

    # -- what workers have been told --

    def told(self, worker: Worker, outcome: v.SaveOutcome) -> None:
        """A worker has taken the outcome of a save."""
        known = self.outcomes[worker.caller.generation, outcome.ordinal]
        assert known.setdefault(worker.task, outcome.committed) == outcome.committed, "an outcome has changed"
        assert set(known.values()) == {outcome.committed}, "two workers were told different outcomes"
        assert outcome.committed == self.has_committed(worker.caller.generation, outcome.ordinal)

    def noticed(self, coordinator: Coordinator, notice: fx.Notify) -> None:
        if notice.ordinal is None:
            return
        for client in self.clients:
            if client.coordinator is coordinator and client.attached and client.worker.caller == notice.caller:
                outcome = v.SaveOutcome(notice.ordinal, False, notice.failure)
                self.told(client.worker, outcome)
                client.notice(outcome)

    def has_committed(self, generation: str, ordinal: int) -> bool:
        """Return whether the commit entry of a save stands in the log."""
        return any(
            entry.kind == "commit" and entry.state.checkpoints[-1].folder.endswith(f".{generation}.{ordinal}")
            for entry in self.storage.entries
        )

    def check(self) -> None:
        """Check what must be true of the log, and of what was told, at any time."""
        check_log(self.storage.entries)
        assert set(self.storage.state.damaged) <= self.storage.damaged, "a good one was condemned"
        for (generation, ordinal), told in self.outcomes.items():
            assert set(told.values()) == {self.has_committed(generation, ordinal)}, "what was told is not what stands"

    # -- at random --

    def play(self, random_: random.Random, steps: int, faults: float = 0.0) -> None:
        """Play `steps` steps of clients and effects in random order. The share `faults` of them goes wrong."""
        for _ in range(steps):
            if not self.step(random_, faults):
                self.tick()
            self.check()

    def step(self, random_: random.Random, faults: float) -> bool:
        """One step, False if there is none but to let time pass."""
        moves: list[Callable[[], object]] = []
        for client in self.clients:
            if client.done or not client.coordinator.alive:
                continue
            if client.answered:
                moves.append(client.send if random_.random() < faults else client.receive)
            elif not client.waiting or random_.random() < faults:
                moves.append(client.send)
        for coordinator in self.coordinators:
            if coordinator.alive and coordinator.results:
                index = random_.randrange(len(coordinator.results))
                moves.append(lambda c=coordinator, i=index: c.deliver(i))
            if coordinator.alive and coordinator.pending:
                index = random_.randrange(len(coordinator.pending))
                fate: Fate = random_.choice(["lost", "late", "never", "bad"]) if random_.random() < faults else "good"
                moves.append(lambda c=coordinator, i=index, f=fate: c.carry_out(i, f))
        if not moves or random_.random() < 0.05:
            return False
        random_.choice(moves)()
        return True

    def disturb(self, random_: random.Random) -> None:
        """Something that happens to a cluster."""
        client = random_.choice(self.clients)
        coordinator = random_.choice([coordinator for coordinator in self.coordinators if coordinator.alive])
        newest = self.coordinators[-1]
        match random_.randrange(11):
            case 0:
                self.tick(5.0)
            case 1:
                self.tick(12.0)
            case 2:
                self.tick(70.0)
            case 3:
                self.storage.land()
            case 4 if client.attached and client.coordinator.alive:
                client.detach()
            case 5 | 6 if client.worker.world and not client.attached and client.coordinator.alive:
                client.attach()
            case 7 if client.waiting and isinstance(client.event, ev.Vote | ev.Reported) and client.coordinator.alive:
                client.fail()
            case 8 if client.coordinator is not newest:
                client.move(newest)
            case 9 if coordinator.results:
                event = random_.choice(coordinator.results)
                if not isinstance(event, ev.LogRead | ev.Probed):
                    coordinator.tell(event)
            case 10 if self.storage.state.checkpoints:
                self.storage.damaged.add(random_.choice(self.storage.state.checkpoints).prefix)

    def restart(self, *, killed: bool) -> None:
        """The coordinator is killed; or a second one comes up while it goes on, and the workers find it one by one."""
        self.coordinators[-1].alive = not killed
        newest = self.coordinator()
        for client in self.clients if killed else self.clients[:1]:
            client.move(newest)

    def calm(self, rounds: int = 2000) -> list[Client]:
        """All goes well from now on. The clients of formed worlds that have not come to their end."""
        self.storage.land()
        newest = self.coordinators[-1]
        for coordinator in self.coordinators[:-1]:
            coordinator.alive = False
        for client in self.clients:
            if client.coordinator is not newest:
                client.move(newest)
        for _ in range(rounds):
            newest.run()
            while newest.results:
                newest.deliver()
            for client in self.clients:
                if client.done:
                    if client.attached:
                        client.detach()
                elif client.answered:
                    client.receive()
                elif not client.waiting:
                    if client.worker.world and not client.attached:
                        client.attach()
                    client.send()
            if all(client.done for client in self.clients):
                break
            self.tick(0.5)
        self.check()
        # Who waits for a world that can never be complete is told so, and knows how long it wants to.
        return [client for client in self.clients if not client.done and client.worker.world]


def folder_of(event: ev.Event) -> str:
    """The folder of the attempt that a vote is for."""
    assert isinstance(event, ev.Vote)
    ballot = event.ballot
    return f"{ballot.checkpoint_name}-{ballot.step}.{event.caller.generation}.{event.ordinal}"


def check_log(entries: list[Entry]) -> None:
    """Check what must be true of any log."""
    retired: set[str] = set()
    reigns: list[Generation | None] = []
    before: Entry | None = None
    for number, entry in enumerate(entries):
        state, writer = entry.state, entry.write_id.rpartition(".")[0]
        prefixes = [record.prefix for record in state.checkpoints]
        assert entry.number == number
        assert len(prefixes) == len(set(prefixes)), "a checkpoint is live twice"
        bases = {record.base for record in state.checkpoints if record.base}
        assert bases <= set(prefixes), "a delta is live without what it needs"
        assert not retired & {record.folder for record in state.checkpoints}, "a retired name is live again"
        if entry.kind == "abort":
            # Who gives up taking the lead does not have it.
            assert before is None or state == before.state, "an abort changed something"
        elif entry.kind in get_args(Holding):
            assert before is not None
            held = replace(before.state, pinned=state.pinned, tags=state.tags, leases=state.leases)
            assert state == held, "somebody who does not lead changed more than what is held"
        elif entry.kind in get_args(Intervention):
            assert before is not None
            check_intervention(before.state, entry)
        elif entry.kind not in ("import", "lead"):
            assert before is not None
            assert before.state.leader is not None
            assert before.state.leader.id == writer, "somebody who does not lead wrote an entry"
            assert before.state.generation == state.generation
        if entry.kind == "commit":
            assert state.generation is not None
            newest = state.checkpoints[-1]
            assert f".{state.generation.id}." in newest.folder, "a world that does not lead committed"
            assert not newest.base or newest in state.restorable, "a delta on what is damaged"
            assert not newest.base or newest.base == state.checkpoints[-2].prefix, "a delta on what is not the newest"
        if before is not None:
            assert state.checkpoints or state.moved or not before.state.checkpoints, "the last checkpoint was given up"
            if entry.kind not in (*get_args(Holding), "move"):
                assert state.pinned == before.state.pinned, "a pin was dropped, or a pinned checkpoint retired"
                assert state.tags == before.state.tags, "a tag was dropped, or a tagged checkpoint retired"
                assert set(state.leases) <= set(before.state.leases), "a lease came back"
            freed = set(before.state.damaged) - set(state.damaged)
            assert not freed & set(prefixes), "what was condemned is restored again"
            dead = set(state.retired) - set(before.state.retired) - {c.folder for c in before.state.checkpoints}
            assert {folder.split(".")[-2] for folder in dead} <= set(state.superseded), "it may still be committed"
        if state.generation and (before is None or state.generation != before.state.generation):
            assert state.generation not in reigns, "a generation that had lost the lead leads again"
            reigns.append(state.generation)
        assert not state.moved or state.generation is None, "somebody leads a run that was moved"
        assert set(state.damaged) <= set(prefixes), "a mark on what is not there"
        retired |= set(state.retired)
        before = entry


def check_intervention(before: LogState, entry: Entry) -> None:
    """Check what somebody who does not lead has made of a run: what he says, and nothing else."""
    state = entry.state
    if entry.kind == "rollback":
        assert state == before.rollback(state.checkpoints[-1].prefix, entry.number), "more than a rollback"
        assert state.checkpoints[-1] in before.restorable, "rolled back to what is damaged"
    elif entry.kind == "remove":
        (gone,) = set(before.checkpoints) - set(state.checkpoints)
        assert state == before.remove(gone.prefix), "more than a removal"
        needed = {each.base for each in state.checkpoints} | before.kept | {lease.prefix for lease in before.leases}
        assert gone != before.checkpoints[-1], "the newest was removed"
        assert gone.prefix not in needed, "what is pinned, tagged, leased or needed was removed"
    else:
        assert state == before.move(state.moved), "more than a move"


def check_invariants(machine: Machine) -> None:
    """Check what must be true of a machine after every event."""
    if machine.forming is not None:
        assert machine.forming.joiners, "a world that nobody is joining"
        waiting = {j.request: task for task, j in machine.forming.joiners.items() if j.request is not None}
        assert machine.forming.asking == waiting
        assert machine.forming.missing, "a world that is complete and was not formed"
    if machine.leading:
        assert machine.ledger.state is not None
    state = machine.ledger.state
    if state is not None:
        prefixes = [record.prefix for record in state.checkpoints]
        assert len(prefixes) == len(set(prefixes))
    for generation, world in machine.worlds.items():
        assert world.generation.id == generation
        for calls in (world.saves_at, world.restores_at):
            told = [calls.at.get(task, 0) for task in world.tasks]
            assert calls.counts == {ordinal: told.count(ordinal) for ordinal in told}
        heard = world.saves_at.earliest
        assert len([ordinal for ordinal in world.outcomes if ordinal < heard]) <= REMEMBERED + 1
        assert not world.committed or world.outcomes[world.committed].committed
        assert all(outcome.committed == (outcome.failure is None) for outcome in world.outcomes.values())
        heard = world.restores_at.earliest
        assert len([ordinal for ordinal in world.rounds if ordinal < heard]) <= REMEMBERED
        undecided = [round_.ordinal for round_ in world.rounds.values() if round_.decision is None]
        assert undecided in ([], [max(world.rounds, default=0)]), "an earlier restore is still waited for"
        assert all(round_.decision is None or not round_.waiting for round_ in world.rounds.values())
        attempt = world.attempt
        if attempt is None:
            continue
        assert world.unsettled is None, "a save went on before the earlier ones were settled"
        assert attempt.phase not in (Phase.COMMITTED, Phase.FAILED)
        assert attempt.ordinal > max(world.outcomes, default=0), "a save that is over goes on"
        assert set(attempt.ballots) | set(attempt.reports) <= set(attempt.members)
        assert not (world.fenced and attempt.undecided), "a fenced world saves"
        if attempt.phase is Phase.VOTING:
            assert attempt.go is None
            assert not attempt.all_voted
        else:
            assert attempt.go is not None
        if attempt.phase is Phase.WRITING:
            assert machine.leading == generation, "workers write for a world that does not lead"
            assert not attempt.voters, "a worker is not told to go"
            assert not attempt.all_reported
        if attempt.phase in (Phase.FINALIZING, Phase.COMMITTING, Phase.ABORTING, Phase.PUBLISHING):
            assert attempt.all_reported, "a commit without a report"
        if attempt.phase in (Phase.COMMITTING, Phase.ABORTING):
            assert machine.ledger.busy, "nothing is being done about a commit"


def checkpoint(
    step: int, *, stock: bool = False, preserved: bool = False, time: float | None = None, **metrics: float | None
) -> CheckpointRecord:
    """A record of a checkpoint of an earlier generation."""
    where = f"ckpt-{step}" if stock else prefix("ckpt", step, "0000000a", step)
    when = WALL + step if time is None else time
    return CheckpointRecord(where, step, when, stock=stock, preserved=preserved, metrics=tuple(sorted(metrics.items())))
