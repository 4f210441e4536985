"""The language of transcripts: workers, coordinators, a storage and a clock that do as a script says.

WHO is a worker (`a0`), all workers of a job (`a`), or several (`a0,b1`). A coordinator (`c0`, `c1`, ...) is there from
when it is first named. What is told of a coordinator is of the one that lives, unless it is named. Each command prints
the effects that the state machine had at once; those that a driver carries out wait until they are told to be.

    directory STEP... [last_preserved=S]    TensorFlow's own checkpoints are there already
    coordinator c1 [address=none]           comes up
    kill c0                                 is there no more
    job a N [at=c1] [after=b] [TERMS]       N workers join and attend; after: the next managers of the processes of b
    job a N unjoined                        they do not join yet
    job a N digits                          their generation is 0000000a, not a, so that they can save deltas
    set WHO TERMS                           what they say from now on

    WHO vote N [TERMS]                      a call of the protocol; N is the ordinal of a save or of a restore
    WHO report N [worker_local=POSITIONS] [step=N] [base=FOLDER]
    WHO give-up N [MESSAGE]
    WHO restore N [target=T] [read=FOLDER verdict=V]
    WHO await-upkeep, WHO leave, WHO join [at=c1]
    WHO rejoin [at=c1] [restores=N restored=FOLDER]     they say that they have restored this; otherwise the truth
    WHO move at=c1                          what they call next goes to another coordinator
    WHO attach, WHO detach                  presence
    WHO heartbeat [decided=N] [promised=N limit=N] [wish=REASON] [exits] [grace=S] [every=S]
    save-now                                an operator asks for a save
    status                                  asks as `holdfast status` does

    step [EFFECT] [FATE]                    carry out an effect, the first that waits or the first of a kind, and tell
                                            its result. FATE: good, lost, late, never, bad (see `support.cluster`)
    carry-out [EFFECT] [FATE]               the same, but the result waits
    deliver [EVENT] [again]                 tell a result; again: and keep it, to be told once more
    run [until=EFFECT[:KIND]] [EFFECT=FATE] step, until nothing waits or the first that does is such a one
    hold EFFECT, release                    it is not begun until it is released
    land                                    what was sent to the storage and never answered arrives there
    others pin|unpin|tag|untag|lease|release FOLDER [seconds=S]   somebody who does not lead adds an entry
    others rollback|remove|move FOLDER      the same

    WHO begin N [TERMS]                     all vote, and are told to go
    WHO save N [base=FOLDER], WHO go-back N [target=T]  a whole save, or restore; all are told the same
    restart WHO                             their coordinator is killed, and they rejoin the next one
    tick [S]                                time passes, half a second by default, for all
    WHO beats S                             time passes, with their heartbeats
    log, state, pending                     what is in the log, in the state machine, and what waits

TERMS: step=N crcs=1,2,3 digest=TEXT specs=NAME:SIZE keep=N takeover timeout=S base=FOLDER (of what it is a delta on).
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.agreement import Wish, Word
from holdfast_coordinator.core.rules import Newest
from holdfast_storage.cluster import Task
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, Leader, Lease, LogState, Pin, Tag
from support.cluster import WALL, Build, Call, Cluster, Coordinator, Fate, Worker, checkpoint

from .printing import Printer, caller_name
from .words import Unknown, Words

EFFECTS = {kind.__name__: kind for kind in get_args(fx.Effect)}
EVENTS = {kind.__name__: kind for kind in get_args(ev.Event)}
SETTLED_WITHIN = 1000  # effects that follow from each other; more is a machine that never comes to rest


class Watched(Coordinator):
    """A coordinator that shows what it is told, and what comes of it."""

    def __init__(self, stage: Stage, leader: Leader) -> None:
        super().__init__(stage.cluster, leader)
        self.held: list[fx.Effect] = []
        self._stage = stage

    def tell(self, event: ev.Event) -> list[fx.Effect]:
        effects = super().tell(event)
        self._stage.happened(self, event, effects)
        return effects

    def call(self, build: Build) -> Call:
        self._stage.name_call(build(self._stage.next_request + 1))
        return super().call(build)


class Stage:
    """Plays one scenario."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._coordinators: dict[str, Watched] = {}
        self._jobs: dict[str, list[Worker]] = {}
        self._generations: dict[str, str] = {}
        self._at: dict[Worker, Watched] = {}
        self._by_name: dict[str, Worker] = {}
        self._calls: Counter[str] = Counter()
        self._printer = Printer(self.cluster.storage)
        self._printed: list[str] = []
        self._entries: list[str] = []  # those that were wanted, in brief

    def do(self, text: str) -> list[str]:
        """Carry out a command. What it prints. Raises Unknown for what is no command."""
        self._printed = []
        words = Words(text)
        first = words.next()
        if command := getattr(self, f"_do_{first.replace('-', '_')}", None):
            command(words)
        elif re.fullmatch(r"[a-z]\d*(,[a-z]\d*)*", first):
            workers = self._workers(first)
            verb = words.next()
            command = getattr(self, f"_all_{verb.replace('-', '_')}", None)
            if command is None:
                raise Unknown(f"workers cannot {verb}")
            command(workers, words)
        else:
            raise Unknown(f"{first} is no command")
        words.end()
        self.cluster.check()
        return self._printed

    # -- what is printed --

    @property
    def next_request(self) -> int:
        return self.cluster._requests

    def name_call(self, event: ev.Event) -> None:
        """Give a request a name that says who calls for what: the second such call of a scenario is `(2)`."""
        assert hasattr(event, "request")
        verb = {"Reported": "report", "GaveUp": "give-up", "AwaitUpkeep": "await-upkeep", "AskSave": "save-now"}.get(
            type(event).__name__, type(event).__name__.lower()
        )
        ordinal = f" {event.ordinal}" if hasattr(event, "ordinal") else ""
        if isinstance(event, ev.Join):
            who = event.incarnation.partition(".")[0]
        else:
            who = caller_name(event.caller) if hasattr(event, "caller") else "anybody"
        name = f"{who} {verb}{ordinal}"
        self._calls[name] += 1
        count = self._calls[name]
        self._printer.calls[event.request] = f"{name} ({count})" if count > 1 else name

    def happened(self, coordinator: Watched, event: ev.Event, effects: list[fx.Effect]) -> None:
        self._check_told(coordinator, effects)
        self._entries += [f"{e.entry.number} {e.entry.kind}" for e in effects if isinstance(e, fx.Append)]
        lines = self._printer.effects(effects)
        of = f"{coordinator.machine.leader.id} " if len(self._coordinators) > 1 else ""
        if isinstance(event, ev.Tick):
            head = [f"{of}Tick at {self.cluster.now.monotonic:g}"] if lines else []
        elif hasattr(event, "request") or isinstance(event, ev.Attached | ev.Detached | ev.Heartbeat):
            head = [of.strip()] if of and lines else []
        else:
            head = [of + self._printer.event(event)]
        self._printed += [*head, *lines]

    def _check_told(self, coordinator: Watched, effects: list[fx.Effect]) -> None:
        """All workers are told the same of a save, and what stands in the log."""
        for effect in effects:
            if isinstance(effect, fx.Reply) and isinstance(effect.answer, v.SaveOutcome):
                event = coordinator._calls[effect.request].event
                assert isinstance(event, ev.SaveCall)
                self.cluster.told(self._by_name[caller_name(event.caller)], effect.answer)

    def _briefly(self, do: Callable[[], v.Answer | Failure | None]) -> None:
        """Do all of something. Prints the entries that it wanted, what was said unasked, and the last answer."""
        before, self._printed = self._printed, []
        self._entries = []
        answer = do()
        unasked = [line for line in self._printed if line.split()[0] in ("Notify", "Remark", "Refuse")]
        self._printed = before
        if self._entries:
            self._printed.append(f"  Append {', '.join(self._entries)}")
        self._printed += unasked
        self._show(answer)

    # -- who --

    def _coordinator(self, name: str) -> Watched:
        """The one of this name; it comes up if it is the next one."""
        if name not in self._coordinators:
            if name != f"c{len(self._coordinators)}":
                raise Unknown(f"there is no coordinator {name}")
            self._come_up(name, f"{name}:1")
        return self._coordinators[name]

    def _come_up(self, name: str, address: str) -> None:
        coordinator = self._coordinators[name] = Watched(self, Leader(name, address, "host"))
        self.cluster.coordinators.append(coordinator)

    def _named(self, words: Words) -> Watched:
        """The coordinator that a command names, or the only one that lives."""
        name = words.one_of(self._coordinators)
        living = [each for each in self._coordinators.values() if each.alive]
        if not name and len(living) != 1:
            raise Unknown("which coordinator?")
        return self._coordinators[name] if name else living[0]

    def _workers(self, names: str) -> list[Worker]:
        found = []
        for name in names.split(","):
            if name not in self._jobs and name not in self._by_name:
                raise Unknown(f"there is no worker or job {name}")
            found += self._jobs.get(name) or [self._by_name[name]]
        return found

    def _terms(self, words: Words) -> dict[str, object]:
        terms: dict[str, object] = {}
        for name, kind in (("step", int), ("timeout", float)):
            if given := words.option(name):
                terms[name] = kind(given)
        if crcs := _numbers(words.option("crcs")):
            terms["crcs"] = struct.pack(f"<{len(crcs)}I", *crcs)
        if digest := words.option("digest"):
            terms["spec_digest"] = digest.encode()
        if specs := words.option("specs"):
            named = [each.partition(":") for each in specs.split(",")]
            terms["specs"] = tuple(v.TensorSpec(key, 1, (int(size),)) for key, _, size in named)
        if keep := words.option("keep"):
            terms["retention"] = (Newest(int(keep)),)
        if base := _prefix(words.option("base")):
            terms["base"] = base
        if words.flag("takeover"):
            terms["takeover"] = True
        return terms

    # -- setting up --

    def _do_directory(self, words: Words) -> None:
        preserved = words.option("last_preserved")
        records = tuple(checkpoint(int(step), stock=True) for step in words.words)
        words.words.clear()
        state = LogState("run", checkpoints=records, last_preserved=WALL + float(preserved) if preserved else None)
        self.cluster.storage._imported = state

    def _do_coordinator(self, words: Words) -> None:
        name = words.next()
        if name != f"c{len(self._coordinators)}":
            raise Unknown(f"the next coordinator is c{len(self._coordinators)}")
        address = words.option("address")
        if address not in ("", "none"):
            raise Unknown(f"address={address}")
        self._come_up(name, "" if address else f"{name}:1")

    def _do_kill(self, words: Words) -> None:
        self._coordinators[words.next()].alive = False

    def _do_job(self, words: Words) -> None:
        name, count = words.next(), int(words.next())
        if not re.fullmatch("[abd-z]", name) or name in self._jobs:
            raise Unknown(f"a job has a letter of its own, and c is for coordinators: {name}")
        after = words.option("after")
        self._generations[name] = name.zfill(8) if words.flag("digits") else name
        coordinator = self._coordinator(words.option("at", "c0"))
        cluster = (("worker", tuple(f"host-{name}{i}:1" for i in range(count))),)
        workers = self._jobs[name] = []
        for i in range(count):
            process, manager = f"{name}{i}", 0
            if after:
                process, _, before = self._jobs[after][i].incarnation.rpartition(".")
                manager = int(before)
            worker = Worker(Task("worker", i), cluster, f"{process}.{manager + 1}")
            worker.damaged = self.cluster.storage.is_lost
            workers.append(worker)
            self._by_name[f"{name}{i}"], self._at[worker] = worker, coordinator
        self._set(workers, words)
        if words.flag("unjoined"):
            return
        self._briefly(lambda: self._join(coordinator, workers))

    def _join(self, coordinator: Watched, workers: list[Worker]) -> v.Answer | Failure | None:
        calls = [coordinator.call(self._joining(worker)) for worker in workers]
        coordinator.run()
        for worker, call in zip(workers, calls, strict=True):
            assert isinstance(call.answer, v.Joined), call.answer
            worker.world = call.answer
            coordinator.tell(worker.attached())
            coordinator.tell(worker.heartbeat())
        return workers[0].world

    def _joining(self, worker: Worker) -> Build:
        """Its call to join, with the job's name for the generation."""
        (job,) = (name for name, workers in self._jobs.items() if worker in workers)
        generation = self._generations[job]
        return lambda r: ev.Join(r, worker.task, worker.incarnation, worker.cluster, generation, 600.0)

    def _show(self, answer: v.Answer | Failure | None) -> None:
        self._printed.append(f"  {self._printer.answer(answer)}")

    def _do_set(self, words: Words) -> None:
        self._set(self._workers(words.next()), words)

    def _set(self, workers: list[Worker], words: Words) -> None:
        terms = self._terms(words)
        for worker in workers:
            worker.terms = {**worker.terms, **terms}

    # -- calls --

    def _call(self, workers: list[Worker], build: Callable[[Worker], Build]) -> None:
        for worker in workers:
            self._at[worker].call(build(worker))

    def _all_vote(self, workers: list[Worker], words: Words) -> None:
        ordinal, terms = int(words.next()), self._terms(words)
        self._call(workers, lambda worker: worker.vote(ordinal, **terms))  # type: ignore[arg-type]

    def _all_report(self, workers: list[Worker], words: Words) -> None:
        ordinal, local, step = int(words.next()), _numbers(words.option("worker_local")), words.option("step")
        base = _prefix(words.option("base"))
        self._call(workers, lambda worker: worker.report(ordinal, int(step) if step else None, local, base))

    def _all_give_up(self, workers: list[Worker], words: Words) -> None:
        ordinal, message = int(words.next()), words.next("the disk is full")
        self._call(workers, lambda worker: worker.give_up(ordinal, message))

    def _all_restore(self, workers: list[Worker], words: Words) -> None:
        ordinal, target = int(words.next()), words.option("target")
        read, verdict = words.option("read"), words.option("verdict")
        self._call(workers, lambda worker: worker.restore(ordinal, _prefix(read), verdict, target))

    def _all_await_upkeep(self, workers: list[Worker], _: Words) -> None:
        self._call(workers, lambda worker: worker.await_upkeep())

    def _all_leave(self, workers: list[Worker], _: Words) -> None:
        self._call(workers, lambda worker: worker.leave())

    def _all_join(self, workers: list[Worker], words: Words) -> None:
        self._all_move(workers, words)
        self._call(workers, self._joining)

    def _all_rejoin(self, workers: list[Worker], words: Words) -> None:
        self._all_move(workers, words)
        restores, restored = words.option("restores"), words.option("restored")
        for worker in workers if restores else ():
            worker.restores = int(restores)
            worker.restored = _prefix(restored)
        self._call(workers, lambda worker: worker.rejoin())

    def _all_move(self, workers: list[Worker], words: Words) -> None:
        if at := words.option("at"):
            for worker in workers:
                self._at[worker] = self._coordinator(at)

    def _do_status(self, words: Words) -> None:
        self._printed.append(f"  {self._printer.status(self._named(words).status())}")

    # -- presence --

    def _all_attach(self, workers: list[Worker], _: Words) -> None:
        for worker in workers:
            self._at[worker].tell(worker.attached())

    def _all_heartbeat(self, workers: list[Worker], words: Words) -> None:
        reason, exits, grace = words.option("wish"), words.flag("exits"), words.option("grace")
        deadline = self.cluster.now.monotonic + float(grace) if grace else None
        numbers = (int(words.option(name, "0")) for name in ("decided", "promised", "limit"))
        word = Word(*numbers, Wish(reason, exits, deadline) if reason else None)
        every = float(words.option("every", "0"))
        for worker in workers:
            self._at[worker].tell(worker.heartbeat(word, every))

    def _do_save_now(self, words: Words) -> None:
        self._named(words).call(lambda request: ev.AskSave(request, 30.0))

    def _all_detach(self, workers: list[Worker], _: Words) -> None:
        for worker in workers:
            self._at[worker].tell(worker.detached())

    # -- effects --

    def _do_step(self, words: Words) -> None:
        coordinator = self._named(words)
        self._carry_out(coordinator, words)
        coordinator.deliver(-1)

    def _do_carry_out(self, words: Words) -> None:
        self._carry_out(self._named(words), words)

    def _carry_out(self, coordinator: Watched, words: Words) -> None:
        index = _first(coordinator.pending, EFFECTS, words)
        coordinator.carry_out(index, _fate(words.one_of(get_args(Fate), "good")))

    def _do_deliver(self, words: Words) -> None:
        coordinator = self._named(words)
        index = _first(coordinator.results, EVENTS, words)
        coordinator.deliver(index, repeat=words.flag("again"))

    def _do_run(self, words: Words) -> None:
        coordinator = self._named(words)
        until, _, entry = words.option("until").partition(":")
        if until and until not in EFFECTS:
            raise Unknown(f"there is no effect {until}")
        fates = {kind: _fate(fate) for name, kind in EFFECTS.items() if (fate := words.option(name))}
        for _ in range(SETTLED_WITHIN):
            first = coordinator.pending[0] if coordinator.pending else None
            kind = first.entry.kind if isinstance(first, fx.Append) else ""
            if first is None or (type(first).__name__ == until and entry in ("", kind)):
                break
            coordinator.carry_out(0, fates.get(type(first), "good"))
            coordinator.deliver(-1)
        else:
            raise AssertionError(f"{SETTLED_WITHIN} effects have followed from each other, and the next one waits")
        if until and first is None:
            raise Unknown(f"nothing waits any more, and {until} never did")

    def _do_hold(self, words: Words) -> None:
        coordinator = self._named(words)
        coordinator.held.append(coordinator.pending.pop(_first(coordinator.pending, EFFECTS, words)))

    def _do_release(self, words: Words) -> None:
        coordinator = self._named(words)
        coordinator.pending += coordinator.held
        coordinator.held = []

    def _do_land(self, _: Words) -> None:
        self.cluster.storage.land()

    # -- more than one step --

    def _do_others(self, words: Words) -> None:
        storage, kind, folder = self.cluster.storage, words.next(), words.next()
        number, state = len(storage.entries), storage.state
        prefix = next(record.prefix for record in state.checkpoints if record.folder == folder)
        match kind:
            case "pin":
                state = state.pin(Pin(prefix, WALL, ""))
            case "unpin":
                state = state.unpin(prefix)
            case "tag":
                state = state.tag(Tag("production", prefix, WALL))
            case "untag":
                state = state.untag("production")
            case "lease":
                state = state.lease(Lease(prefix, "reader", float(words.option("seconds", "60")), number))
            case "release":
                state = state.release("reader")
            case "rollback":
                state = state.rollback(prefix, number)
            case "remove":
                state = state.remove(prefix)
            case "move":
                state = state.move("s3://elsewhere")
            case _:
                raise Unknown(f"nobody can {kind}")
        entry = Entry(number, kind, f"others.{number}", WALL, state)  # type: ignore[arg-type]
        self._printed.append(f"  {self._printer.entry(entry)}")
        storage.create(entry)

    def _all_begin(self, workers: list[Worker], words: Words) -> None:
        ordinal, terms, coordinator = int(words.next()), self._terms(words), self._together(workers)

        def begin() -> v.Answer | Failure | None:
            calls = [coordinator.call(worker.vote(ordinal, **terms)) for worker in workers]  # type: ignore[arg-type]
            coordinator.run()
            assert isinstance(calls[0].answer, v.Go), calls[0].answer
            assert all(call.answer == calls[0].answer for call in calls)
            return calls[0].answer

        self._briefly(begin)

    def _all_save(self, workers: list[Worker], words: Words) -> None:
        ordinal, coordinator, base = int(words.next()), self._together(workers), _prefix(words.option("base"))
        self._briefly(lambda: self.cluster.save(coordinator, workers, ordinal, base=base))

    def _all_go_back(self, workers: list[Worker], words: Words) -> None:
        ordinal, target = int(words.next()), words.option("target")
        self._briefly(lambda: self.cluster.restore(self._together(workers), workers, ordinal, target))

    def _do_restart(self, words: Words) -> None:
        workers = self._workers(words.next())
        self._together(workers).alive = False
        coordinator = self._coordinator(f"c{len(self._coordinators)}")

        def come() -> v.Answer | Failure | None:
            for worker in workers:
                self._at[worker] = coordinator
                assert coordinator.ask(worker.rejoin()) == worker.world
                coordinator.tell(worker.attached())
                coordinator.tell(worker.heartbeat())
            return workers[0].world

        self._briefly(come)

    def _together(self, workers: list[Worker]) -> Watched:
        (coordinator,) = {self._at[worker] for worker in workers}
        return coordinator

    # -- time --

    def _do_tick(self, words: Words) -> None:
        self.cluster.tick(float(words.next("0.5")))

    def _all_beats(self, workers: list[Worker], words: Words) -> None:
        seconds = float(words.next())
        while seconds > 0:
            self._all_heartbeat(workers, words)
            self.cluster.tick(min(seconds, 5.0))
            seconds -= 5.0

    # -- looking --

    def _do_log(self, _: Words) -> None:
        self._printed += self._printer.log()

    def _do_state(self, words: Words) -> None:
        self._printed += self._printer.machine(self._named(words).machine)

    def _do_pending(self, words: Words) -> None:
        self._printed += self._printer.effects(self._named(words).pending) or ["  nothing"]


def _prefix(folder: str) -> str:
    """The prefix of the checkpoint in a folder; empty for none."""
    return f"{folder}/{folder.partition('.')[0]}" if folder else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


def _fate(text: str) -> Fate:
    if text not in get_args(Fate):
        raise Unknown(f"{text} is no fate")
    return text  # type: ignore[return-value]


def _first(waiting: Sequence[object], kinds: Mapping[str, type], words: Words) -> int:
    """Index of the first that waits, or of the first of the kind that a command names."""
    name = words.one_of(kinds)
    for index, each in enumerate(waiting):
        if not name or isinstance(each, kinds[name]):
            return index
    raise Unknown(f"no {name or 'effect or result'} waits")
