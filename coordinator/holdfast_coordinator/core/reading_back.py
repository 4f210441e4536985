"""A new checkpoint is read back by shares: every object by a worker that has not written it, if there is one.

The workers of the leading world are asked for a few objects at a time. Whoever does not answer in time, is gone, or
cannot read is not asked any more, and others read what it was to read. What is left then, this coordinator reads
itself. An object counts as read only if somebody has said so. Nothing of this is kept anywhere else: a restarted
coordinator begins again. See docs/design/033-read-back.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.cluster import Task
from holdfast_storage.records import CheckpointRecord

from . import events as ev
from .attempt import Phase
from .dealing import StoredObject, deal, written
from .effects import AskToRead, ListObjects, ReadObjects, Remark
from .membership import World
from .messages import Caller, Verdict
from .run import RunState
from .waits import SaveId

ASKED_AT_ONCE, MOST_ASKED = 256 << 20, 1_000
"""The bytes, unless one object has more, and the objects that a worker is asked for at a time."""

ANSWERED_WITHIN = 90.0
"""Seconds that an answer may take beside the reading. A worker waits for up to 60 for what its mount shows late."""

SLOWEST = 4 << 20
"""Bytes a second: who reads fewer takes too long."""

TRIES = 2
"""The workers that are asked for an object, one after the other, before the coordinator reads it."""

GIVES_WAY = 60.0
"""Seconds, from the beginning, for which nobody is asked while a save is being written, at most."""

SILENT_FOR = 600.0
"""Seconds for which a worker is not asked again after it has not answered."""


@dataclass(slots=True)
class Question:
    """What a worker was asked to read."""

    objects: list[StoredObject]
    until: float  # monotonic


@dataclass
class ReadingBack:
    """The reading of one checkpoint. What may end it returns the verdict, or None if it goes on."""

    _run: RunState = field(repr=False, compare=False)
    record: CheckpointRecord
    begun: float  # monotonic
    silent: dict[Caller, float]  # who did not answer before, in any reading: until when it is not asked (monotonic)
    _asked: dict[Caller, Question] = field(default_factory=dict)  # those who have not answered
    _out: set[Caller] = field(default_factory=set)  # those for whom nobody waits, and who are not asked any more
    _unread: dict[str, StoredObject] = field(default_factory=dict)  # what nobody has found good yet, by name
    _free: dict[str, StoredObject] = field(default_factory=dict)  # of that, what somebody can be asked for
    _shares: dict[Caller, list[StoredObject]] | None = None  # how it was dealt out; None: it is to be dealt anew
    _wrote: dict[Task, int] = field(default_factory=dict)  # bytes
    _load: dict[Task, int] = field(default_factory=dict)  # bytes that each was asked for
    _tries: dict[str, int] = field(default_factory=dict)  # by name
    _held: bool = False  # nobody is asked for now
    _gave_way_to: SaveId | None = None
    _own: bool = False  # this coordinator reads what is left

    @property
    def awaited(self) -> list[Task]:
        """Those who are reading."""
        return [caller.task for caller in self._asked if caller not in self._out]

    def begin(self) -> None:
        self._run.emit(ListObjects(self.record, self.begun))

    def listed(self, e: ev.Listed) -> Verdict | None:
        if e.verdict != "good" or self._unread:
            return None if self._unread else e.verdict
        self._unread = {each.name: each for each in e.objects}
        self._free = dict(self._unread)
        self._wrote = written(e.objects)
        self._go_on()
        return None

    def examined(self, e: ev.Examined) -> Verdict | None:
        self.silent.pop(e.caller, None)
        question = self._asked.pop(e.caller, None)
        if question is None:
            return None
        good = set(e.good)
        for each in question.objects:
            if each.name in good:
                self._unread.pop(each.name, None)
                self._free.pop(each.name, None)
        if e.verdict != "good":
            why = e.reason or "it does not say why"
            self._run.emit(Remark(f"{e.caller.task} finds {self.record.prefix} {e.verdict}: {why}"))
            if e.verdict == "damaged":
                return "damaged"
            self._out.add(e.caller)
            self._shares = None
        self._return(question)
        if not self._unread:
            return "good"
        self._go_on(e.caller)
        return None

    def watch(self) -> None:
        """Go on once a save is written. Called after every event."""
        if self._held:
            self._go_on()

    def tick(self) -> None:
        """Do without those who have not answered in time, or are gone."""
        run, now = self._run, self._run.now.monotonic
        gone = {generation: world.gone(now) for generation, world in run.worlds.items()}
        for caller, question in self._asked.items():
            left = run.present(caller) is None or caller.task in gone[caller.generation]
            if caller not in self._out and (left or now >= question.until):
                self._out.add(caller)
                self.silent[caller] = now + SILENT_FOR
                self._return(question)
                asked = f"{caller.task} was asked to read {len(question.objects):,} object(s) of {self.record.prefix}"
                run.emit(Remark(f"{asked} back, such as {question.objects[0].name}, and does not answer"))
        if self._unread:
            self._go_on()

    def _go_on(self, answered: Caller | None = None) -> None:
        """Ask those who have nothing to read: one who has just answered, or all. If nobody reads, read what is left."""
        run, world = self._run, self._run.worlds.get(self._run.leading)
        if self._own:
            return
        if world and self._free:
            if self._gives_way(world):
                return
            if self._shares is None:
                self._shares, answered = self._dealt(world), None
            for caller in self._shares if answered is None else (answered,):
                if caller not in self._asked:
                    self._ask(caller, [each for each in self._shares.get(caller, ()) if each.name in self._free])
        if all(caller in self._out for caller in self._asked):
            self._own = True
            run.emit(ReadObjects(self.record, tuple(self._unread), self.begun))

    def _gives_way(self, world: World) -> bool:
        """Return whether to ask nobody for now, since a save is being written.

        That is done for one save alone: otherwise saves that follow each other closely would keep all they replace.
        """
        attempt = world.attempt
        self._held = (
            attempt is not None
            and attempt.phase is Phase.WRITING
            and self._run.now.monotonic < self.begun + GIVES_WAY
            and self._gave_way_to in (None, attempt.id)
        )
        if self._held and attempt is not None:
            self._gave_way_to = attempt.id
        return self._held

    def _return(self, question: Question) -> None:
        """Let others be asked for what a worker was asked for and has not found good."""
        for each in question.objects:
            if each.name in self._unread:
                self._shares = None
                if self._tries[each.name] < TRIES:
                    self._free[each.name] = each

    def _dealt(self, world: World) -> dict[Caller, list[StoredObject]]:
        now = self._run.now.monotonic
        callers = {
            task: Caller(world.generation.id, task, world.presence[task].incarnation) for task in world.living(now)
        }
        able = {
            task: caller
            for task, caller in callers.items()
            if caller not in self._out and self.silent.get(caller, now) <= now
        }
        shares = deal(self._free.values(), able, self._wrote, self._load)
        return {able[task]: share for task, share in shares.items()}

    def _ask(self, caller: Caller, share: list[StoredObject]) -> None:
        """Ask for the first of a share, as much as may be asked for at once."""
        if not share:
            return
        chosen: list[StoredObject] = []
        size = 0
        for each in share[:MOST_ASKED]:
            if chosen and size + each.size > ASKED_AT_ONCE:
                break
            chosen.append(each)
            size += each.size
            del self._free[each.name]
            self._tries[each.name] = self._tries.get(each.name, 0) + 1
        self._load[caller.task] = self._load.get(caller.task, 0) + size
        self._asked[caller] = Question(chosen, self._run.now.monotonic + ANSWERED_WITHIN + size / SLOWEST)
        self._run.emit(AskToRead(caller, self.record, tuple(each.name for each in chosen)))
