"""The machine's side of the log: what it last read, and the entries it is creating, one at a time.

Creating entry last+1 is the check that nobody else has taken the run; there is no other. An entry whose creation has
no known outcome is tried again in the same slot until it is definite, or, when its writer gives up, an abort entry is
created in that very slot: only what then stands there says what happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from holdfast_storage.records import Entry, EntryKind, LogState

from .effects import Append, Effect, ReadLog
from .events import Appended, LogRead
from .values import Failure, Now


@dataclass(slots=True)
class Intent:
    """An entry that is to be created on top of whatever is then the last one."""

    kind: EntryKind
    change: Callable[[LogState], LogState]
    done: Callable[[Entry | Failure], None]  # called with our entry that stands, an abort one included
    generation: str  # that must lead the run when the entry is built; a lead entry is what makes it so
    note: str = ""
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
            self._emit(ReadLog())

    def was_read(self, event: LogRead) -> None:
        if event.entry is not None and event.entry.number >= self.number:
            self.number, self.state = event.entry.number, event.entry.state
        elif event.entry is None and event.failure is None and self.number < 0:
            self.state = event.imported
        readers, self._readers, self._next_readers = self._readers, self._next_readers, []
        for then in readers:
            then(event.failure)
        if self._readers:
            self._emit(ReadLog())

    # -- writing --

    def append(self, intent: Intent, now: Now) -> None:
        self._queue.append(intent)
        self._pump(now)

    def give_up(self) -> None:
        """Stop trying to create the current entry; what becomes of it is still to be settled."""
        if self._current is not None:
            self._current.given_up = True

    def deleted(self, folder: str) -> None:
        """A retired folder is gone; the next entry leaves it out."""
        self._deleted.add(folder)

    def was_appended(self, event: Appended, now: Now) -> bool:
        """Take the result of an Append. False if the log turned out to belong to somebody else."""
        intent = self._current
        if intent is None or event.entry.write_id not in intent.tries:
            return True
        if event.unknown or (event.refused and intent.uncertain):
            intent.uncertain = True
            self._emit(Append(self._abort(intent, event.entry, now) if intent.given_up else event.entry))
            return True
        self._current = None
        if event.refused:
            self._drop(intent, Failure("storage", event.refused, object=f"log entry {event.entry.number}"))
            return True
        stands = event.entry if event.taken_by is None else intent.tries.get(event.taken_by.write_id)
        if stands is None:
            self._drop(intent, Failure("superseded", "a newer leader has taken the run"))
            return False
        if stands.number > self.number:
            self.number, self.state = stands.number, stands.state
        self._deleted &= set(stands.state.retired)
        intent.done(stands)
        self._pump(now)
        return True

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
            if intent.kind not in ("import", "lead") and not self._leads(self.state, intent.generation):
                intent.done(Failure("superseded", "a newer leader has taken the run"))
                continue
            self._current = intent
            state = intent.change(self.state).forget(tuple(self._deleted))
            self._emit(Append(self._entry(intent, state, now)))

    def _leads(self, state: LogState, generation: str) -> bool:
        return (
            state.leader is not None
            and state.leader.id == self._leader_id
            and state.generation is not None
            and state.generation.id == generation
        )

    def _abort(self, intent: Intent, entry: Entry, now: Now) -> Entry:
        if entry.kind == "abort":
            return entry
        assert self.state is not None
        return self._entry(replace(intent, kind="abort"), self.state, now)

    def _entry(self, intent: Intent, state: LogState, now: Now) -> Entry:
        self._written += 1
        write_id = f"{self._leader_id}.{self._written}"
        entry = Entry(self.number + 1, intent.kind, write_id, now.wall, state, intent.note)
        intent.tries[write_id] = entry
        return entry
