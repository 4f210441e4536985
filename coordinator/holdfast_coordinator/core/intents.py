"""Entries that the machine wants in the log, as values. What an entry changes is decided only when it is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from holdfast_storage.records import CheckpointRecord, EntryKind, Generation, Leader, LogState

from .messages import Now, RetentionPolicy
from .retention import sweep
from .waits import SaveId


class Known(Protocol):
    """What an entry may record of what its coordinator knows by then: it is the machine's `RunState`."""

    leader: Leader
    now: Now
    condemned: set[str]
    retention: RetentionPolicy

    def went_back_to(self, save: SaveId | None) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An entry to create on top of the last one, whatever that is by then."""

    kind: ClassVar[EntryKind]
    generation: str  # the generation that must lead when the entry is built; a lead entry makes it lead
    note: str
    save: SaveId | None = None  # the save that needs the entry: they are given up together

    def change(self, run: Known, state: LogState) -> LogState:
        """Return the state that the entry records if `state` is that of the last entry."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Import(Intent):
    """The first entry of a log."""

    kind: ClassVar[EntryKind] = "import"

    def change(self, run: Known, state: LogState) -> LogState:
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead(Intent):
    """Take the lead for a world, for a save or to settle its earlier ones."""

    kind: ClassVar[EntryKind] = "lead"
    world: Generation
    fork_point: str  # the fork point of the state on which the decision was based
    leader: Leader | None  # of that state: another process of this very job leaves the fork point as it is

    def change(self, run: Known, state: LogState) -> LogState:
        # As in TensorFlow: after a clock was set back, a preserved time in its future does not count.
        preserved = run.now.wall if state.last_preserved is None else min(state.last_preserved, run.now.wall)
        return replace(state.lead(run.leader, self.world), last_preserved=preserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(Intent):
    """Mark what is condemned by then."""

    kind: ClassVar[EntryKind] = "damaged"

    def change(self, run: Known, state: LogState) -> LogState:
        return state.condemn(run.condemned)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBack(Intent):
    """Record what a world has gone back to, before it writes on from there."""

    kind: ClassVar[EntryKind] = "restored"
    prefix: str

    def change(self, run: Known, state: LogState) -> LogState:
        return state.restored(self.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Intent):
    """Commit a checkpoint. All of its bytes are there."""

    kind: ClassVar[EntryKind] = "commit"
    record: CheckpointRecord

    def change(self, run: Known, state: LogState) -> LogState:
        # If the entry for it could not be made, this one records it.
        back, state = run.went_back_to(self.save), state.condemn(run.condemned)
        return (state.restored(back) if back and state.find(back) else state).commit(self.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire(Intent):
    """Retire what is replaced by a checkpoint that was read back."""

    kind: ClassVar[EntryKind] = "retire"
    verified: str  # its prefix

    def change(self, run: Known, state: LogState) -> LogState:
        plan = sweep(state, run.retention, self.verified)
        return state.retire(plan.retire, plan.preserve, plan.last_preserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard(Intent):
    """Retire folders that were never committed and never can be."""

    kind: ClassVar[EntryKind] = "retire"
    folders: tuple[str, ...]

    def change(self, run: Known, state: LogState) -> LogState:
        return state.discard(self.folders)
