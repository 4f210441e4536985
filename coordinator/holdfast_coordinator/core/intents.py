"""Entries that the machine wants in the log, as values. `RunState.change` says what each changes, when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast_storage.records import CheckpointRecord, EntryKind, Generation, Leader

from .waits import SaveId


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An entry to create on top of the last one, whatever that is by then."""

    kind: ClassVar[EntryKind]
    generation: str  # the generation that must lead when the entry is built; a lead entry makes it lead
    note: str
    save: SaveId | None = None  # the save that needs the entry: they are given up together


class Import(Intent):
    """The first entry of a log."""

    kind = "import"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead(Intent):
    """Take the lead for a world, for a save or to settle its earlier ones."""

    kind = "lead"
    world: Generation
    fork_point: str  # the fork point of the state on which the decision was based
    leader: Leader | None  # of that state: another process of this very job leaves the fork point as it is


class Mark(Intent):
    """Mark what is condemned by then."""

    kind = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBack(Intent):
    """Record what a world has gone back to, before it writes on from there."""

    kind = "restored"
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Intent):
    """Commit a checkpoint. All of its bytes are there."""

    kind = "commit"
    record: CheckpointRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire(Intent):
    """Retire what is replaced by a checkpoint that was read back."""

    kind = "retire"
    verified: str  # its prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard(Intent):
    """Retire folders that were never committed and never can be."""

    kind = "retire"
    folders: tuple[str, ...]
