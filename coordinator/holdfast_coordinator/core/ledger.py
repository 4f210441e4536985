"""The machine's side of the log: what it last read, and the entries it is creating, one at a time.

Creating entry last+1 is the check that nobody else has taken the run; there is no other. An entry whose creation has
no known outcome is tried again in the same slot until it is definite, or, when its writer gives up, an abort entry is
created in that very slot: only what then stands there says what happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast_storage.records import Entry, EntryKind, LogState

from .effects import Append, Effect, ReadLog
from .events import Appended, LogRead
from .messages import Failure, Now


@dataclass(slots=True, eq=False)
class Intent:
    """An entry that is to be created on top of whatever is then the last one."""

    kind: EntryKind
    change: Callable[[LogState], LogState]
    done: Callable[[Entry | Failure], None]  # called with our entry that stands, or with an abort one
    generation: str  # that must lead the run when the entry is built; a lead entry is what makes it so
    note: str = ""
    base: str = ""  # of a lead entry: LogState.fork_point of the state in view of which it was decided
    before: LogState | None = None  # what it builds on, once it is being created
    again: Entry | None = None  # what is to be tried at the next tick
    tries: dict[str, Entry] = field(default_factory=dict)  # by write id
    given_up: bool = False
    uncertain: bool = False  # some try may still land


class Ledger:
    """Reads and extends the log through effects."""

    def __init__(self, leader_id: str, emit: Callable[[Effect], None]) -> None:
        self.number = -1  # of the last entry known
        self.state: LogState | None = None  # after it
        self._leader_id = leader_id
        self._emit = emit
        self._written = 0
        self._known = -1  # number of the last entry known when the read that is going on began
        self._readers: list[Callable[[Failure | None], None]] = []
        self._next_readers: list[Callable[[Failure | None], None]] = []
        self._queue: deque[Intent] = deque()
        self._current: Intent | None = None
        self._deleted: set[str] = set()

    @property
    def busy(self) -> bool:
        return self._current is not None or bool(self._queue)

    # -- reading --

    def read(self, then: Callable[[Failure | None], None]) -> None:
        """Read the tail, then call `then`. Never answered by a read that began before this call."""
        if self._readers:
            self._next_readers.append(then)
        else:
            self._readers.append(then)
            self._begin_reading()

    def was_read(self, event: LogRead) -> None:
        if event.entry is not None and event.entry.number >= self.number:
            self.number, self.state = event.entry.number, event.entry.state
        elif event.entry is None and event.failure is None and self.number < 0:
            self.state = event.imported
        failure = event.failure
        if failure is None and self._known > (event.entry.number if event.entry else -1):
            failure = Failure(
                "storage",
                f"the log of the run, known up to entry {self._known}, is not there any more: was the directory "
                "deleted, or is it not mounted? If it was deleted on purpose, restart the coordinator",
                object=f"log entry {self._known}",
            )
        readers, self._readers, self._next_readers = self._readers, self._next_readers, []
        if self._readers:
            self._begin_reading()
        for then in readers:
            then(failure)

    def _begin_reading(self) -> None:
        self._known = self.number
        self._emit(ReadLog())

    # -- writing --

    def append(self, intent: Intent, now: Now) -> None:
        self._queue.append(intent)
        self._pump(now)

    def give_up(self, intent: Intent, failure: Failure) -> None:
        """Stop trying to create an entry. It fails at once if it was never tried; else what becomes of it is still
        to be settled."""
        if intent in self._queue:
            self._queue.remove(intent)
            intent.done(failure)
        else:
            intent.given_up = True

    def retry(self, now: Now) -> None:
        """Try again what has no known outcome: the same entry, or, when it was given up, an abort in its slot."""
        intent = self._current
        if intent is not None and intent.again is not None:
            entry, intent.again = intent.again, None
            self._emit(Append(self._abort(intent, entry, now) if intent.given_up else entry))

    def deleted(self, folder: str) -> None:
        """A retired folder is gone; the next entry leaves it out."""
        self._deleted.add(folder)

    def is_deleted(self, folder: str) -> bool:
        """Whether a folder that the last entry calls retired is gone."""
        return folder in self._deleted

    def was_appended(self, event: Appended, now: Now) -> None:
        """Take the result of an Append."""
        intent = self._current
        if intent is None or event.entry.write_id not in intent.tries:
            return
        if event.unknown or (event.refused and intent.uncertain):
            intent.uncertain = True
            intent.again = event.entry
            return
        self._current = None
        if event.refused:
            intent.done(Failure("storage", event.refused, object=f"log entry {event.entry.number}"))
            self._pump(now)
            return
        stands = event.taken_by or event.entry
        if stands != intent.tries.get(stands.write_id):
            if self._overtaken(intent, stands.state) or self._is_twins(stands):
                self._drop(intent, Failure("superseded", "a newer leader has taken the run"))
                return
            if not intent.given_up:
                # Somebody who gave up taking the run has filled the slot, and changed nothing: the next one it is.
                if stands.number > self.number:
                    self.number, self.state = stands.number, stands.state
                intent.uncertain = False
                self._queue.appendleft(intent)
                self._pump(now)
                return
        if stands.number > self.number:
            self.number, self.state = stands.number, stands.state
        self._deleted &= set(stands.state.retired)
        intent.done(stands)
        self._pump(now)

    def _drop(self, intent: Intent, failure: Failure) -> None:
        """Fail an intent and all that were to build on it."""
        dropped = [intent, *self._queue]
        self._queue.clear()
        for lost in dropped:
            lost.done(failure)

    def _pump(self, now: Now) -> None:
        while self._current is None and self._queue:
            assert self.state is not None, "the log is read before it is written"
            intent = self._queue.popleft()
            if self._overtaken(intent, self.state):
                intent.done(Failure("superseded", "a newer leader has taken the run"))
                continue
            self._current = intent
            intent.before = self.state
            state = intent.change(self.state).forget(self._deleted)
            self._emit(Append(self._entry(intent, self.number + 1, intent.kind, state, now)))

    def _overtaken(self, intent: Intent, state: LogState) -> bool:
        """Whether what the log says by now leaves no place for an entry."""
        if intent.kind == "import":
            return self.number >= 0
        if intent.kind == "lead":
            return state.fork_point != intent.base
        leads = state.leader is not None and state.leader.id == self._leader_id
        return not (leads and state.generation is not None and state.generation.id == intent.generation)

    def _is_twins(self, entry: Entry) -> bool:
        """Whether a copy of this very process has made it: two that were restored from one checkpoint of a machine."""
        return entry.write_id.rpartition(".")[0] == self._leader_id

    def _abort(self, intent: Intent, entry: Entry, now: Now) -> Entry:
        if entry.kind == "abort":
            return entry
        assert intent.before is not None
        # In the slot of what it settles: the log may have been read past it since.
        return self._entry(intent, entry.number, "abort", intent.before, now)

    def _entry(self, intent: Intent, number: int, kind: EntryKind, state: LogState, now: Now) -> Entry:
        self._written += 1
        write_id = f"{self._leader_id}.{self._written}"
        entry = Entry(number, kind, write_id, now.wall, state, intent.note)
        intent.tries[write_id] = entry
        return entry
