"""The machine's view of the log: what it last read, who waits for it, and the entries to create, one at a time.

Creating entry last+1 is the only check that nobody else has taken the run. If the outcome of a create is unknown, the
entry is tried again in the same slot until it is definite. If its writer gives up, an abort entry is created in that
very slot, and only what stands there then says what happened.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, EntryKind, LogState

from .effects import Append
from .events import Appended, LogRead
from .intents import Import, Intent, Lead
from .messages import Now
from .waits import ForTheLog, SaveId


@dataclass(slots=True)
class Creation:
    """An entry that is being created in one slot."""

    intent: Intent
    before: LogState  # the entry on which it builds
    again: Entry | None = None  # what is to be tried at the next tick
    tries: dict[str, Entry] = field(default_factory=dict)  # by write id
    given_up: bool = False
    uncertain: bool = False  # some try may still land


@dataclass(slots=True)
class Ledger:
    """What is known of the log, and what should be added to it. It does nothing itself: `machine` carries it out."""

    leader_id: str
    number: int = -1  # state of the last known entry
    state: LogState | None = None  # after it
    known: int = -1  # the last known entry when the current read began
    reading: list[ForTheLog] | None = None  # who waits for the current read, if there is one
    waiting: list[ForTheLog] = field(default_factory=list)  # who waits for a read that begins from now on
    queue: deque[Intent] = field(default_factory=deque)
    current: Creation | None = None
    written: int = 0
    deleted: set[str] = field(default_factory=set)  # retired folders that are gone; the next entry leaves them out
    made: deque[tuple[Intent, Entry | Failure]] = field(default_factory=deque)
    """The results of entries, until they are taken: our entry, an abort in its place, or a failure."""

    @property
    def busy(self) -> bool:
        return self.current is not None or bool(self.queue)

    # -- reading --

    def read(self, wait: ForTheLog) -> None:
        """Ask for the tail to be read for somebody who waits. A read that began before this call does not count."""
        self.waiting.append(wait)

    def begin_reading(self) -> bool:
        """Return whether to begin a read now."""
        begins = self.reading is None and bool(self.waiting)
        if begins:
            self.reading, self.waiting = self.waiting, []
            self.known = self.number
        return begins

    def was_read(self, event: LogRead) -> tuple[list[ForTheLog], Failure | None]:
        """Take the result of a ReadLog. Return who has waited for it, and the failure for them, if there is one."""
        if event.entry is not None:
            self._learn(event.entry, again=True)
        elif event.failure is None and self.number < 0:
            self.state = event.imported
        failure = event.failure
        if failure is None and self.known > (event.entry.number if event.entry else -1):
            failure = Failure(
                Kind.STORAGE,
                f"the log of the run, known up to entry {self.known}, is not there any more: was the directory "
                "deleted, or is it not mounted? If it was deleted on purpose, restart the coordinator",
                object=f"log entry {self.known}",
            )
        waited, self.reading = self.reading or [], None
        return waited, failure

    def _learn(self, entry: Entry, *, again: bool = False) -> None:
        if entry.number > self.number - again:
            self.number, self.state = entry.number, entry.state

    # -- writing --

    def append(self, intent: Intent) -> None:
        """Ask for an entry to be created after those before it. Its result will be in `made`."""
        self.queue.append(intent)

    def give_up(self, save: SaveId, failure: Failure) -> None:
        """Stop trying to create the entries that a save needs. An entry that was never tried fails; any other must
        still be settled."""
        for intent in [each for each in self.queue if each.save == save]:
            self.queue.remove(intent)
            self.made.append((intent, failure))
        if self.current and self.current.intent.save == save:
            self.current.given_up = True

    def next(self) -> Intent | None:
        """Return the intent whose entry should be built now, if there is one."""
        while self.current is None and self.queue:
            assert self.state is not None, "the log is read before it is written"
            intent = self.queue.popleft()
            if not self._overtaken(intent, self.state):
                return intent
            self.made.append((intent, Failure(Kind.SUPERSEDED, "a newer leader has taken the run")))
        return None

    def begin(self, intent: Intent, state: LogState, now: Now) -> Append:
        """Begin to create the entry of the `next` intent, which records `state`."""
        assert self.state is not None
        self.current = Creation(intent, self.state)
        return self._try(self.current, self.number + 1, intent.kind, state.forget(self.deleted), now)

    def retry(self, now: Now) -> Append | None:
        """Try again if the outcome is unknown: the same entry or, if it was given up, an abort in its slot."""
        creation = self.current
        if creation is None or creation.again is None:
            return None
        entry, creation.again = creation.again, None
        if creation.given_up and entry.kind != "abort":
            # It goes into the slot that it settles, even if the log has been read past it since.
            return self._try(creation, entry.number, "abort", creation.before, now)
        return Append(entry)

    def _try(self, creation: Creation, number: int, kind: EntryKind, state: LogState, now: Now) -> Append:
        self.written += 1
        entry = Entry(number, kind, f"{self.leader_id}.{self.written}", now.wall, state, creation.intent.note)
        creation.tries[entry.write_id] = entry
        return Append(entry)

    def was_appended(self, event: Appended) -> None:
        """Take the result of an Append."""
        creation = self.current
        if creation is None or event.entry.write_id not in creation.tries:
            return
        if event.unknown or (event.refused and creation.uncertain):
            creation.uncertain, creation.again = True, event.entry
            return
        self.current = None
        if event.refused:
            failure = Failure(Kind.STORAGE, event.refused, object=f"log entry {event.entry.number}")
            self.made.append((creation.intent, failure))
            return
        stands = event.taken_by or event.entry
        if stands != creation.tries.get(stands.write_id):
            if self._overtaken(creation.intent, stands.state) or self._is_twins(stands):
                for lost in (creation.intent, *self.queue):  # and all entries that would build on it
                    self.made.append((lost, Failure(Kind.SUPERSEDED, "a newer leader has taken the run")))
                self.queue.clear()
                return
            # Somebody who gave up taking the run has filled the slot and changed nothing, or somebody who does not lead
            # has pinned, leased or removed a checkpoint. So decide anew, for the next slot.
            self._learn(stands)
            if creation.given_up:
                late = Failure(Kind.SAVE_FAILED, f"the {creation.intent.kind} entry could not be created in time")
                self.made.append((creation.intent, late))
            else:
                self.queue.appendleft(creation.intent)
            return
        self._learn(stands)
        self.deleted &= set(stands.state.retired)
        self.made.append((creation.intent, stands))

    def _overtaken(self, intent: Intent, state: LogState) -> bool:
        """Return whether an entry has no place any more, given what the log says by now."""
        match intent:
            case Import():
                return self.number >= 0
            case Lead():
                return bool(state.closed) or (state.fork_point, state.leader) != (intent.fork_point, intent.leader)
        leads = state.leader is not None and state.leader.id == self.leader_id
        return not (leads and state.generation is not None and state.generation.id == intent.generation)

    def _is_twins(self, entry: Entry) -> bool:
        """Return whether a copy of this very process, from a copied machine, made an entry."""
        return entry.write_id.rpartition(".")[0] == self.leader_id
