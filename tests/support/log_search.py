"""Every history of a few coordinators over one log, state by state.

An `Actor` is one coordinator process: the project's own `Ledger`, and around it the order in which a coordinator
reads, leads, writes, commits, reads back, retires, cleans up and deletes. All transitions of the run's state are those
of `holdfast_storage.records`, and what may go is what `core.retention.sweep` says. A `State` is the storage, what is
still on its way to it, what workers have been told, and the actors. `Search.run` goes through all states that can be
reached, breadth first, and raises `Violation`, with the shortest story that leads there, at the first that must not be.

In each state anything that can happen next may: any wanted effect of any actor is carried out; the create of an entry
succeeds, fails for certain, loses its reply, or is to land at any later time or never; an unknown one is tried again or
given up; an actor is killed and a successor started, or is left behind alive while its workers turn to a successor; a
checkpoint turns out not to hold what was written. Storage is a set of faultless names; the protocol is searched.

With `Bounds.pages`, an entry says all but its newest checkpoint in a page, an object of its own named by its contents.

Actors are deterministic: what one does with one event is computed once, and a state holds only their numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.ledger import Intent, Ledger
from holdfast_coordinator.core.messages import Failure, Now, RetentionPolicy
from holdfast_coordinator.core.retention import sweep
from holdfast_storage.layout import prefix
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from support.cluster import check_log

NOW = Now(0.0, 0.0)
KEEP_ONE = RetentionPolicy(max_to_keep=1)
GIVEN_UP = Failure("save_failed", "in time")
BEGIN = "0000000e"  # the generation of the checkpoints that are there at the start
JOBS = ("0000000a", "0000000b")


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol: each of these, changed, is a protocol that loses something."""

    exclusive: bool = True  # an entry is created under a name that must be free
    data_first: bool = True  # the commit entry comes after the data
    entry_first: bool = True  # a folder is deleted after its retire entry
    read_back: bool = True  # nothing is replaced by what has not been read back
    missing_settles_nothing: bool = True  # an empty slot after a lost reply does not mean that the create failed
    asks_again: bool = True  # who finds that yet another one has led its job has the workers say again what they want
    same_slot: bool = True  # an entry is for one slot: whoever finds it taken does not try the next one
    reigns_once: bool = True  # a job that has led and lost the lead does not lead again
    leads_first: bool = True  # orphans are removed once their job has lost the lead
    spares_own: bool = True  # a job's own folders are no orphans
    page_first: bool = True  # an entry is sent when its pages are there
    pages_stay: bool = True  # whoever has lost the race for a slot leaves the pages that it made
    pages_outlive: bool = True  # pages that the last entry does not need any more stay


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may happen."""

    jobs: int = 2
    saves: int = 1  # of each job
    kills: int = 0
    left_behind: int = 0
    rotten: int = 0  # checkpoints that are durable and not what was written
    refusals: int = 0  # creates that the storage refuses for certain
    unknown: int = 0  # creates that lose their reply, or land later, or never
    rollback: bool = False  # the last job goes back to the older of two checkpoints
    orphans: bool = False  # who takes the lead removes what never was committed
    pages: bool = False  # entries are not whole by themselves


class Actor:
    """One coordinator process of a job, with its real ledger. What it wants done is in `wants`."""

    def __init__(self, job: str, process: int, ordinal: int, *, rules: Rules, bounds: Bounds, base: str) -> None:
        self.job, self.process, self.ordinal, self.base = job, process, ordinal, base
        self.rules, self.last = rules, bounds.saves
        self.cleans_up = bounds.orphans
        self.rolls_back = bounds.rollback and job == JOBS[bounds.jobs - 1]
        self.leader = Leader(f"{job}-{process}", "", "")
        self.wants: list[tuple[str, Any]] = []
        self.told: list[tuple[int, bool]] = []  # outcomes, to be taken by who asked
        self.led_by: str | None = None if process else ""  # the job's leader when its workers came to this one
        self.led = False
        self.left = False  # its workers have turned to another one
        self.over = False  # superseded: it may only finish deleting what is retired
        self.saving: Intent | None = None  # its commit entry
        self.ledger = Ledger(self.leader.id, self._emit)
        self.ledger.read(self._look)

    @property
    def key(self) -> tuple[Any, ...]:
        """All that it remembers and can still act upon."""
        if self.over:
            return self.job, self.process, tuple(self.wants)
        ledger, intent = self.ledger, self.ledger._current
        return (
            self.job, self.process, self.ordinal, self.last, self.led_by, self.led, self.left, self.saving is None,
            tuple(self.wants),
            ledger.number, ledger.state, ledger._written, frozenset(ledger._deleted), len(ledger._readers),
            tuple(each.kind for each in ledger._queue),
            intent and (intent.kind, intent.before, intent.again, intent.given_up, intent.uncertain),
            intent and tuple(intent.tries.values()),
        )  # fmt: skip

    # -- what it is told --

    def read(self, entry: Entry) -> None:
        self.ledger.was_read(ev.LogRead(entry))

    def appended(self, event: ev.Appended) -> None:
        taken = event.taken_by.state if event.taken_by else None
        if taken and taken.leader != self.leader and taken.generation and taken.generation.id == self.job:
            self._stop()  # a successor goes on with this job: what becomes of its calls is known there alone
            return
        self.ledger.was_appended(event, NOW)

    def wrote(self, record: CheckpointRecord) -> None:
        if self.rules.data_first:
            self._commit(record)
        else:
            self._begin()

    def verified(self, record: CheckpointRecord, good: bool) -> None:
        state = self.ledger.state
        plan = sweep(state, KEEP_ONE, record.prefix) if good and state and not self.over else None
        if plan and self.rules.entry_first:
            self._retire(record)
        elif plan and state:
            self.wants += [
                ("delete", (each.folder, record)) for each in state.checkpoints if each.prefix in plan.retire
            ]

    def found(self, folders: tuple[str, ...]) -> None:
        """Orphans; or, where that is the protocol, what looks as if it were."""
        state = self.ledger.state
        assert state is not None
        if not self.rules.leads_first:
            self.wants += [("delete", (folder, None)) for folder in folders]
        elif state.discard(folders) != state and not self.over:
            self._append("retire", lambda s: s.discard(folders), self._retired)

    def deleted(self, what: tuple[str, CheckpointRecord | None]) -> None:
        if what[1] is not None:
            self._retire(what[1])
        else:
            self.ledger.deleted(what[0])

    def retry(self) -> None:
        self.ledger.retry(NOW)

    def give_up(self) -> None:
        assert self.saving is not None
        self.ledger.give_up(self.saving, GIVEN_UP)

    def leave(self) -> None:
        """Its workers have turned to another coordinator process: no save begins here but one that they reported.

        Workers write only once it leads; but those who came from another one bring their reports with them.
        """
        self.left = True
        self.last = self.ordinal if self.led or (self.process and self.led_by is not None) else 0

    @property
    def may_retry(self) -> bool:
        return not self.over and self.ledger._current is not None and self.ledger._current.again is not None

    @property
    def may_give_up(self) -> bool:
        waits = self.saving is not None and (self.saving in self.ledger._queue or self.saving.again is not None)
        return not self.over and waits and self.saving is not None and not self.saving.given_up

    @property
    def working(self) -> bool:
        return bool(self.wants) or (self.ledger.busy and not self.over)

    # -- what it does --

    def _emit(self, effect: fx.Effect) -> None:
        self.wants.append(("append", effect.entry) if isinstance(effect, fx.Append) else ("read", None))

    def _append(self, kind: Any, change: Any, done: Any) -> Intent:
        state = self.ledger.state
        assert state is not None
        intent = Intent(kind, change, done, self.job, base=state.fork_point)
        self.ledger.append(intent, NOW)
        return intent

    def _look(self, _: Failure | None) -> None:
        """The log was read: take the lead, unless this job has lost it to another."""
        state = self.ledger.state
        assert state is not None
        if self.job in state.superseded and self.rules.reigns_once:
            self._stop()
            return
        ours = state.generation is not None and state.generation.id == self.job
        leader = state.leader.id if ours and state.leader else ""
        if self.led_by is None or (leader not in ("", self.leader.id, self.led_by) and self.rules.asks_again):
            # Its workers come, or come again, and say what they still wait for.
            if self.left:
                self._stop()
            else:
                self.led_by = leader
                self.ledger.read(self._look)
            return
        if ours:
            committed = state.last_committed(self.job)
            if committed >= self.ordinal:
                self.told.append((committed, True))
                self.ordinal = committed + 1
        elif self.process and state.fork_point != self.base:
            self._stop()
            return
        if self.cleans_up and not self.rules.leads_first:
            self.wants.append(("look", (self.ledger.number, state)))
        generation = Generation(self.job, ())
        self._append("lead", lambda s: s.lead(self.leader, generation), self._led)

    def _led(self, entry: Entry | Failure) -> None:
        if isinstance(entry, Failure):
            if entry.kind != "superseded" and not self.process:
                self._outcome(False)
            if self.ordinal <= self.last:
                self.ledger.read(self._look)
            return
        self.led = True
        self._delete(entry.state)
        if self.cleans_up and self.rules.leads_first and entry.state.superseded:
            self.wants.append(("look", (entry.number, entry.state)))
        oldest = entry.state.checkpoints[0].prefix
        if self.rolls_back and len(entry.state.checkpoints) > 1:
            self._append("restored", lambda s: s.restored(oldest), self._ignore)
        self._begin()

    def _ignore(self, _: Entry | Failure) -> None:
        """Nobody waits for it."""

    def _begin(self) -> None:
        if self.ordinal > self.last:
            return
        where = prefix("ckpt", self.ordinal, self.job, self.ordinal)
        record = CheckpointRecord(where, self.ordinal, 0.0)
        if self.rules.data_first:
            self.wants.append(("write", record))
        else:
            self._commit(record)

    def _commit(self, record: CheckpointRecord) -> None:
        if not self.over:
            self.saving = self._append("commit", lambda s: s.commit(record), self._committed)

    def _committed(self, entry: Entry | Failure) -> None:
        self.saving = None
        stands = isinstance(entry, Entry) and entry.kind == "commit"
        self._outcome(stands)
        if isinstance(entry, Failure) and entry.kind == "superseded":
            self._stop()
            return
        if not stands or self.rules.data_first:
            self._begin()
        if stands:
            newest = entry.state.checkpoints[-1]
            if not self.rules.data_first:
                self.wants.append(("write", newest))
            if sweep(entry.state, KEEP_ONE, newest.prefix):
                self.wants.append(("verify", newest))

    def _stop(self) -> None:
        self.over = True
        self.wants = [want for want in self.wants if want[0] == "delete" and want[1][1] is None]

    def _outcome(self, committed: bool) -> None:
        self.told.append((self.ordinal, committed))
        self.ordinal += 1

    def _retire(self, record: CheckpointRecord) -> None:
        def change(s: LogState) -> LogState:
            plan = sweep(s, KEEP_ONE, record.prefix)
            return s.retire(plan.retire, plan.preserve, plan.last_preserved)

        self._append("retire", change, self._retired)

    def _retired(self, entry: Entry | Failure) -> None:
        if isinstance(entry, Entry):
            self._delete(entry.state)

    def _delete(self, state: LogState) -> None:
        for folder in state.retired:
            if ("delete", (folder, None)) not in self.wants:
                self.wants.append(("delete", (folder, None)))


class State(NamedTuple):
    """Everything, at one instant. Entries and actors are numbers, see `Search`."""

    log: tuple[int, ...]
    folders: frozenset[str]  # that hold all their data
    rotten: frozenset[str]  # that do not read back
    late: frozenset[int]  # entries that may still land
    pages: frozenset[str]
    told: frozenset[tuple[str, int, bool]]  # job, ordinal, committed
    actors: tuple[int, ...]
    attended: int  # so many of the actors are the jobs' present ones, the rest was left behind
    kills: int  # how many may still happen, as the next two
    left_behind: int
    refusals: int
    unknown: int


class Violation(AssertionError):
    """A state that must not be, and how it came about."""


class Search:
    """All states within the bounds."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds, self.rules = bounds, rules or Rules()
        self.entries: list[Entry] = []
        self.kinds: set[str] = set()  # of the entries that came to stand in some log
        self.outcomes: set[tuple[int, bool]] = set()  # that somebody was told
        self.cleaned: set[str] = set()  # folders that were deleted and never had been committed
        self.endings = 0  # states in which nobody has anything left to do
        self._entry_numbers: dict[Entry, int] = {}
        self._actors: list[Actor] = []
        self._actor_numbers: dict[tuple[Any, ...], int] = {}
        self._steps: dict[Any, tuple[int, list[tuple[int, bool]]]] = {}
        self._logs: set[tuple[int, ...]] = set()  # that were found good

    def run(self) -> int:
        """The number of states; Violation if one of them must not be."""
        start = self._start()
        parents: dict[State, tuple[State, str] | None] = {start: None}
        front = [start]
        while front:
            following = []
            for state in front:
                ending = True
                for story, after in self._moves(state):
                    ending = False
                    if after in parents:
                        continue
                    parents[after] = (state, story)
                    try:
                        self._check(state, after)
                    except AssertionError as error:
                        raise Violation(f"{error}\n{self._story(parents, after)}") from None
                    following.append(after)
                self.endings += ending
            front = following
        return len(parents)

    def _start(self) -> State:
        """A run that has been imported: one checkpoint, or two to choose from."""
        records = [CheckpointRecord(prefix("ckpt", n, BEGIN, n), n, 0.0) for n in range(1 + self.bounds.rollback)]
        first = LogState("run", checkpoints=tuple(records))
        self._base = first.fork_point
        actors = [self._actor(job, 0, 1) for job in JOBS[: self.bounds.jobs]]
        return State(
            (self._entry(Entry(0, "import", "first.1", 0.0, first)),),
            frozenset(record.folder for record in records),
            frozenset(),
            frozenset(),
            self._pages(first),
            frozenset(),
            tuple(self._number(actor) for actor in actors),
            len(actors),
            self.bounds.kills,
            self.bounds.left_behind,
            self.bounds.refusals,
            self.bounds.unknown,
        )

    # -- what can happen --

    def _moves(self, s: State) -> Iterator[tuple[str, State]]:
        for number in s.late:
            yield f"{self._named(number)} lands", self._create(s._replace(late=s.late - {number}), number)[0]
        for place, actor_number in enumerate(s.actors):
            actor = self._actors[actor_number]
            who = actor.leader.id
            for want, what in actor.wants:
                for story, after in self._effect(s, place, want, what):
                    yield f"{who}: {story}", after
            if actor.may_retry:
                yield f"{who} tries again", self._tell(s, place, "retry")
            if actor.may_give_up:
                yield f"{who} gives up", self._tell(s, place, "give_up")
            if actor.working and place < s.attended:
                heard = [ordinal for job, ordinal, _ in s.told if job == actor.job]
                ordinal = max(heard, default=0) + 1
                new = self._actor(actor.job, actor.process + 1, ordinal)
                actors = (*s.actors[:place], self._number(new), *s.actors[place + 1 :])
                if s.kills:
                    yield f"{who} is killed and restarted", s._replace(actors=actors, kills=s.kills - 1)
                if s.left_behind:
                    left = s._replace(actors=(*actors, actor_number), left_behind=s.left_behind - 1)
                    yield f"{who} is left behind", self._tell(left, len(actors), "leave")

    def _effect(self, s: State, place: int, want: str, what: Any) -> Iterator[tuple[str, State]]:
        """Each way in which a wanted effect can go."""
        tell = self._tell
        done = (want, what)
        match want:
            case "read":
                yield "reads the log", tell(s, place, "read", self.entries[s.log[-1]], done=done)
            case "append":
                yield from self._appends(s, place, what)
            case "write":
                written = s._replace(folders=s.folders | {what.folder})
                yield f"writes {what.folder}", tell(written, place, "wrote", what, done=done)
                if len(s.rotten) < self.bounds.rotten and what.folder not in s.folders:
                    rotten = written._replace(rotten=s.rotten | {what.folder})
                    yield f"writes {what.folder}, which rots", tell(rotten, place, "wrote", what, done=done)
            case "verify":
                good = what.folder in s.folders - s.rotten or not self.rules.read_back
                yield f"reads {what.folder} back", tell(s, place, "verified", what, good, done=done)
            case "look":
                found = self._orphans(s, self._actors[s.actors[place]].job, *what)
                yield f"finds {', '.join(found) or 'no orphans'}", tell(s, place, "found", found, done=done)
            case "delete":
                gone = s._replace(folders=s.folders - {what[0]})
                self.cleaned |= {what[0]} - self._committed(s, len(s.log))
                yield f"deletes {what[0]}", tell(gone, place, "deleted", what, done=done)

    def _appends(self, s: State, place: int, what: Entry) -> Iterator[tuple[str, State]]:
        """Each way in which the create of an entry can go."""
        tell, done = self._tell, ("append", what)
        number = self._entry(what)
        name = self._named(number)
        missing = self._pages(what.state) - s.pages
        paged = s._replace(pages=s.pages | missing)
        if missing:
            # Told or not: whoever is not sure makes it again, and it is the same.
            yield f"writes the page of {name}", paged
            if self.rules.page_first:
                return
        created, taken = self._create(s, number)
        if taken and not self.rules.pages_stay:
            s = created = s._replace(pages=s.pages - self._pages(what.state))
        if not taken and not self.rules.pages_outlive:
            created = created._replace(pages=self._pages(what.state))
        settled = ev.Appended(what, taken)
        yield f"creates {name}{' in vain' * bool(taken)}", tell(created, place, "appended", settled, done=done)
        if s.refusals:
            refused = s._replace(refusals=s.refusals - 1)
            no = ev.Appended(what, refused="no space")
            yield f"is refused {name}", tell(refused, place, "appended", no, done=done)
        if s.unknown:
            created, unsent = (each._replace(unknown=s.unknown - 1) for each in (created, s))
            lost, late = ev.Appended(what, unknown="no answer"), ev.Appended(what, unknown="no answer")
            if not self.rules.missing_settles_nothing:
                lost = settled
                late = ev.Appended(what, taken, refused="" if taken else "it is not there")
            yield f"creates {name}, reply lost", tell(created, place, "appended", lost, done=done)
            dead = taken is not None and self.rules.same_slot
            sent = unsent if dead else unsent._replace(late=s.late | {number})
            yield f"sends {name}, no reply", tell(sent, place, "appended", late, done=done)

    def _pages(self, state: LogState) -> frozenset[str]:
        """The pages of an entry, by what they say."""
        sealed = ", ".join(record.prefix for record in state.checkpoints[:-1])
        return frozenset({sealed} if sealed and self.bounds.pages else ())

    def _orphans(self, s: State, job: str, number: int, state: LogState) -> tuple[str, ...]:
        """What `run_directory.orphans` finds after an entry. A folder is there when the writing begins."""
        wants = (want for number in s.actors for want in self._actors[number].wants)
        begun = {what.folder for want, what in wants if want == "write"}
        known = self._committed(s, number + 1) | set(state.retired)
        dead = state.superseded if self.rules.leads_first else [each for each in JOBS if each != job]
        if not self.rules.spares_own:
            dead = (*dead, job)
        return tuple(sorted(folder for folder in (s.folders | begun) - known if folder.split(".")[-2] in dead))

    def _committed(self, s: State, entries: int) -> set[str]:
        """Folders of the checkpoints that the first so many entries tell of."""
        return {c.folder for number in s.log[:entries] for c in self.entries[number].state.checkpoints}

    def _create(self, s: State, number: int) -> tuple[State, Entry | None]:
        """The storage after a create, and what was in its way; nothing if the very same try is there already."""
        slot = self.entries[number].number
        assert slot <= len(s.log), "a hole in the log"
        if slot == len(s.log):
            late = s.late
            if self.rules.exclusive:
                # What is for the same slot lands nowhere any more.
                late = frozenset(each for each in late if self.entries[each].number != slot)
            return s._replace(log=(*s.log, number), late=late), None
        if not self.rules.exclusive:
            return s._replace(log=(*s.log[:slot], number, *s.log[slot + 1 :])), None
        there = self.entries[s.log[slot]]
        if there.write_id == self.entries[number].write_id:
            return s, None
        if not self.rules.same_slot:
            return s._replace(log=(*s.log, self._entry(replace(self.entries[number], number=len(s.log))))), None
        return s, there

    def _tell(self, s: State, place: int, how: str, *what: Any, done: Any = None) -> State:
        """What an actor does with an event, computed once."""
        number = s.actors[place]
        step = (number, how, what, done)
        if step not in self._steps:
            actor = copy.deepcopy(self._actors[number])
            if done is not None:
                actor.wants.remove(done)
            getattr(actor, how)(*what)
            told, actor.told = actor.told, []
            self._steps[step] = self._number(actor), told
        after, told = self._steps[step]
        if told and place < s.attended:
            job = self._actors[number].job
            s = s._replace(told=s.told | {(job, ordinal, committed) for ordinal, committed in told})
        return s._replace(actors=(*s.actors[:place], after, *s.actors[place + 1 :]))

    # -- what must be --

    def _check(self, before: State, s: State) -> None:
        log = [self.entries[number] for number in s.log]
        if s.log[: len(before.log)] != before.log:
            check_log(log)
            raise AssertionError("an entry was overwritten")
        if s.log not in self._logs:
            self._check_entries(log)
            self._logs.add(s.log)
            self.kinds |= {log[-1].kind}
        torn = [entry.number for entry in log if not self._pages(entry.state) <= s.pages]
        assert not torn, f"entries {torn} cannot be read: a page is not there"
        live = {record.folder for record in log[-1].state.checkpoints}
        assert live <= s.folders, f"{live - s.folders} is live, and its data is not there"
        assert live - s.rotten, "no live checkpoint is good"
        if s.told is not before.told:
            ever = {record.folder for entry in log if entry.kind == "commit" for record in entry.state.checkpoints[-1:]}
            for job, ordinal, committed in s.told:
                folder = prefix("ckpt", ordinal, job, ordinal).partition("/")[0]
                assert (job, ordinal, not committed) not in s.told, f"the outcome of {folder} was told both ways"
                assert committed == (folder in ever), f"{folder} was told committed={committed}, the log says otherwise"
                self.outcomes.add((ordinal, committed))
        elif len(s.log) > len(before.log) and log[-1].kind == "commit":
            self._check(before._replace(told=frozenset()), s)  # one that was told failed must not land now

    def _check_entries(self, log: list[Entry]) -> None:
        check_log(log)
        for earlier, entry in pairwise(log):
            lost = set(earlier.state.checkpoints) - set(entry.state.checkpoints)
            assert not lost or entry.kind == "retire", f"{entry.kind} entry {entry.number} drops {lost}"
            assert len(entry.state.checkpoints) >= len(earlier.state.checkpoints) + (entry.kind == "commit") - len(lost)

    # -- numbers and names --

    def _actor(self, job: str, process: int, ordinal: int) -> Actor:
        return Actor(job, process, ordinal, rules=self.rules, bounds=self.bounds, base=self._base)

    def _entry(self, entry: Entry) -> int:
        if entry not in self._entry_numbers:
            self._entry_numbers[entry] = len(self.entries)
            self.entries.append(entry)
        return self._entry_numbers[entry]

    def _number(self, actor: Actor) -> int:
        if actor.key not in self._actor_numbers:
            self._actor_numbers[actor.key] = len(self._actors)
            self._actors.append(actor)
        return self._actor_numbers[actor.key]

    def _named(self, number: int) -> str:
        entry = self.entries[number]
        return f"entry {entry.number} ({entry.kind}, {entry.write_id})"

    @staticmethod
    def _story(parents: dict[State, tuple[State, str] | None], state: State) -> str:
        lines = []
        while (parent := parents[state]) is not None:
            state, line = parent
            lines.append(line)
        return "\n".join(f"  {number}. {line}" for number, line in enumerate(reversed(lines), 1))
