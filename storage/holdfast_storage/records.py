"""The contents of log entries: the whole state of a run, and how each kind of entry changes it.

This module is pure: only the standard library, no I/O, no clock. The coordinator's state machine decides with these
values, the log stores them, and the search over interleavings drives the same transitions. See docs/design/001-log.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from holdfast_storage.cluster import Task
from holdfast_storage.layout import delta_prefix, parse_prefix

Holding = Literal["pin", "unpin", "tag", "untag", "lease", "release"]
"""The kinds of entries that anybody who can write to the run may add. They change `pinned`, `tags`, `leases` alone."""

Intervention = Literal["rollback", "remove", "move"]
"""Those that anybody may add as well, and that change what is live: see docs/design/035-changes-by-outsiders.md."""

EntryKind = Literal["import", "lead", "commit", "retire", "damaged", "restored", "abort", Holding, Intervention]

REIGNS = 64
"""The number of earlier generations that a state remembers: far more than can still have a living process."""

MOST_PINS, MOST_TAGS, MOST_LEASES = 1_000, 1_000, 64
"""The most of them at a time: each entry holds them all."""

MOST_METRICS = 64
"""The most metrics of a record: far more than the rules of one job need."""

LONGEST_LEASE = 86_400.0
"""Seconds."""


Metrics = tuple[tuple[str, float | None], ...]
"""Names and values. None: it was looked for, and there is none. A name that is not there was never looked for."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The coordinator process that leads the run."""

    id: str
    address: str  # "host:port"; empty if it cannot be asked
    host: str  # where it runs: a loopback address can be asked only from there


@dataclass(frozen=True, slots=True)
class Generation:
    """One world of workers, from its join to the next one's first save."""

    id: str
    members: tuple[tuple[Task, str], ...]  # task and incarnation, in task order


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One committed checkpoint."""

    prefix: str  # relative to the run directory: "ckpt-1000.7f3a2c1b.12/ckpt-1000", or "ckpt-7" for a stock one
    step: int
    time: float  # wall clock, seconds since the epoch
    stock: bool = False  # written by TensorFlow itself: restored without a manifest, never deleted
    preserved: bool = False  # kept for ever, as a rule of retention has decided once
    manifest_crc32c: int = 0  # of manifest.json, so that the log vouches for every byte
    metrics: Metrics = ()  # those that retention needs
    base: str = ""  # prefix of the checkpoint of the same generation on which this one is a delta; empty: it is full

    @property
    def folder(self) -> str:
        """The checkpoint's folder below the run directory; empty for a stock checkpoint."""
        return self.prefix.rpartition("/")[0]

    @property
    def bundle(self) -> str:
        """The prefix of the checkpoint's own tensors: TensorFlow's, or that of a delta, which TensorFlow cannot use."""
        return delta_prefix(self.prefix) if self.base else self.prefix


@dataclass(frozen=True, slots=True)
class Pin:
    """Keeps a checkpoint until somebody takes the pin away."""

    prefix: str
    time: float  # wall clock, seconds since the epoch
    reason: str  # for people


@dataclass(frozen=True, slots=True)
class Tag:
    """A name that people give to a checkpoint. It keeps it, as a pin does, until it is moved or taken away."""

    name: str  # see `kinds.TAG`
    prefix: str
    time: float  # wall clock, seconds since the epoch


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps a checkpoint for a reader that is at work on it: until it is released, or for some time."""

    prefix: str
    reader: str  # a random id; a reader has one lease at a time
    seconds: float  # counted by each coordinator from when it first meets the lease
    taken: int  # number of the entry that took it: no two leases are equal


def newest_of(fork_point: str) -> str:
    """Return the prefix of what was the newest checkpoint at a `LogState.fork_point`; empty: there was none."""
    return fork_point.partition("/")[2]


def rollback_of(fork_point: str) -> str:
    """Return the last rollback before a `LogState.fork_point`: the number of its entry; empty: there was none."""
    return fork_point.partition("/")[0].partition("@")[2]


@dataclass(frozen=True, slots=True)
class Past:
    """The generations that led before: how many, and for how long they saved."""

    generations: int = 0
    seconds: float = 0.0  # from the lead of each to its last commit, together


@dataclass(frozen=True, slots=True)
class LogState:
    """The state of a run after some log entry."""

    run_id: str
    leader: Leader | None = None
    generation: Generation | None = None
    checkpoints: tuple[CheckpointRecord, ...] = ()  # live, in commit order: the last is the newest
    retired: tuple[str, ...] = ()  # folders to delete, if they have not been deleted yet
    damaged: tuple[str, ...] = ()  # prefixes of live checkpoints that two readers found damaged
    last_preserved: float | None = None  # TensorFlow's last_preserved_timestamp
    led: float | None = None  # wall clock, when the generation took the lead
    past: Past = Past()
    superseded: tuple[str, ...] = ()  # generations that led before, the latest last: none of them leads again
    pinned: tuple[Pin, ...] = ()  # of live checkpoints of Holdfast's, each at most once
    tags: tuple[Tag, ...] = ()  # of such as well: each name at most once, and a checkpoint may have several
    leases: tuple[Lease, ...] = ()  # of such as well; a reader has one, and a checkpoint may have several
    rolled_back: int = 0  # number of the last `rollback` entry; 0: there was none
    moved: str = ""  # where the run is now, a URL: nobody leads it here any more

    def find(self, prefix: str) -> CheckpointRecord | None:
        return next((c for c in reversed(self.checkpoints) if c.prefix == prefix), None)

    def tagged(self, name: str) -> CheckpointRecord | None:
        """Return the checkpoint that a tag names."""
        return next((self.find(tag.prefix) for tag in self.tags if tag.name == name), None)

    @property
    def kept(self) -> set[str]:
        """The prefixes of checkpoints that people keep: pinned or tagged."""
        return {pin.prefix for pin in self.pinned} | {tag.prefix for tag in self.tags}

    @property
    def fork_point(self) -> str:
        """Identifies who leads, what is newest, and the last rollback. While it stays the same, nobody else has taken
        the run further."""
        back = f"@{self.rolled_back}" if self.rolled_back else ""
        newest = self.checkpoints[-1].prefix if self.checkpoints else ""
        return f"{self.generation.id if self.generation else ''}{back}/{newest}"

    @property
    def closed(self) -> str:
        """Why nobody saves into this run any more, in a sentence; empty if somebody may."""
        return f"this run was moved to {self.moved}: go on there" if self.moved else ""

    @property
    def restorable(self) -> tuple[CheckpointRecord, ...]:
        """Live checkpoints of which nobody has condemned anything that a restore of them needs, in commit order."""
        lost = self.built_on(self.damaged)
        return tuple(c for c in self.checkpoints if c.prefix not in lost) if lost else self.checkpoints

    @property
    def stock_readable(self) -> tuple[CheckpointRecord, ...]:
        """Those of them that TensorFlow itself can read: all but the deltas."""
        return tuple(c for c in self.restorable if not c.base)

    def chain(self, record: CheckpointRecord) -> tuple[CheckpointRecord, ...]:
        """Return what a restore of a checkpoint needs, as far as it is live: from the full one up to itself."""
        found: tuple[CheckpointRecord | None, ...] = (record,)
        while found[0] is not None and found[0].base:
            found = (self.find(found[0].base), *found)
        return tuple(each for each in found if each is not None)

    def built_on(self, prefixes: Collection[str]) -> set[str]:
        """Return these prefixes, and those of all live deltas that need one of them."""
        found = set(prefixes)
        if not found:
            return found
        deltas: dict[str, list[str]] = {}
        for each in self.checkpoints:
            if each.base:
                deltas.setdefault(each.base, []).append(each.prefix)
        new = list(found)
        while new:
            new = [delta for prefix in new for delta in deltas.get(prefix, ()) if delta not in found]
            found.update(new)
        return found

    def last_committed(self, generation: str) -> int:
        """Return the ordinal of a generation's last committed save, taken from its folder's name, or 0.

        Retention spares that checkpoint for as long as the generation leads.
        """
        mark = f".{generation}."  # looked for first: there may be very many
        owners = (record.folder.rsplit(".", 2)[-2:] for record in self.checkpoints if mark in record.prefix)
        return max((int(owner[1]) for owner in owners if owner[0] == generation and owner[-1].isdigit()), default=0)

    @property
    def led_for(self) -> float:
        """The seconds from when the generation took the lead to its last commit."""
        return max(0.0, self.checkpoints[-1].time - self.led) if self.checkpoints and self.led is not None else 0.0

    def lead(self, leader: Leader, generation: Generation, time: float | None = None) -> LogState:
        """A coordinator takes the lead. If it is for another generation, the one before never leads again."""
        if self.generation is not None and self.generation.id == generation.id:
            return replace(self, leader=leader)
        return replace(self._unled(), leader=leader, generation=generation, led=time)

    def _unled(self) -> LogState:
        """Nobody leads any more, and the generation that did never does again."""
        before = self.generation
        if before is None:
            return self
        past = Past(self.past.generations + 1, self.past.seconds + self.led_for)
        superseded = (*self.superseded, before.id)[-REIGNS:]
        return replace(self, leader=None, generation=None, led=None, past=past, superseded=superseded)

    def commit(self, record: CheckpointRecord) -> LogState:
        # In one copy, not two: they may be very many.
        return replace(self, checkpoints=self.checkpoints + (record,))  # noqa: RUF005

    def retire(self, prefixes: Collection[str], preserved: Collection[str], last_preserved: float | None) -> LogState:
        """Take checkpoints out of the live ones, to be deleted, and mark others as kept for ever.

        The files of a stock checkpoint are never deleted, even if it is taken out.
        """
        prefixes, preserved = set(prefixes), set(preserved)
        gone = [c for c in self.checkpoints if c.prefix in prefixes]
        kept = tuple(
            replace(c, preserved=True) if c.prefix in preserved else c
            for c in self.checkpoints
            if c.prefix not in prefixes
        )
        return replace(
            self,
            checkpoints=kept,
            retired=(*self.retired, *(c.folder for c in gone if not c.stock)),
            damaged=tuple(p for p in self.damaged if p not in prefixes),
            last_preserved=last_preserved,
            pinned=tuple(pin for pin in self.pinned if pin.prefix not in prefixes),
            tags=tuple(tag for tag in self.tags if tag.prefix not in prefixes),
            leases=tuple(lease for lease in self.leases if lease.prefix not in prefixes),
        )

    def discard(self, folders: Collection[str]) -> LogState:
        """Retire folders that hold no live checkpoint, so that they are deleted."""
        known = {*self.retired, *(record.folder for record in self.checkpoints)}
        return replace(self, retired=(*self.retired, *(folder for folder in folders if folder not in known)))

    def forget(self, folders: Collection[str]) -> LogState:
        """Drop retired folders that have been deleted."""
        folders = set(folders)
        return replace(self, retired=tuple(f for f in self.retired if f not in folders))

    def measure(self, found: Mapping[str, Metrics]) -> LogState:
        """Add metrics of live checkpoints, by prefix, that nobody needed when they were committed.

        If they are too many by now, those go that jobs long ago needed.
        """

        def added(record: CheckpointRecord) -> CheckpointRecord:
            new = dict(found[record.prefix])
            before = (each for each in record.metrics if each[0] not in new)
            return replace(record, metrics=(*before, *new.items())[-MOST_METRICS:])

        if not found:
            return self
        return replace(self, checkpoints=tuple(added(c) if c.prefix in found else c for c in self.checkpoints))

    def condemn(self, prefixes: Collection[str]) -> LogState:
        """Mark live checkpoints as damaged, for ever. They are kept until retention would have removed them."""
        if not prefixes:
            return self
        prefixes = set(prefixes)
        found = (c.prefix for c in self.checkpoints if c.prefix in prefixes and c.prefix not in self.damaged)
        return replace(self, damaged=(*self.damaged, *found))

    def restored(self, prefix: str) -> LogState:
        """Make the checkpoint that the world went back to the newest. What came after it is an abandoned branch.

        What it needs comes before it, so that the newest full one is of this branch, too.
        """
        record = self.find(prefix)
        chosen = self.chain(record) if record else ()
        return replace(self, checkpoints=(*(c for c in self.checkpoints if c not in chosen), *chosen))

    def rollback(self, prefix: str, number: int) -> LogState:
        """Make a live checkpoint the newest, by the entry of this number, and end the generation that leads: none that
        builds on what was the newest commits any more. Nothing is removed."""
        return replace(self._unled().restored(prefix), rolled_back=number)

    def remove(self, prefix: str) -> LogState:
        """Take a live checkpoint that nothing `keeps` out of the live ones, to be deleted."""
        return self.retire([prefix], (), self.last_preserved)

    def move(self, url: str) -> LogState:
        """Close the run here for good, since it is at `url` now. TensorFlow's own checkpoints stay."""
        own = [record.prefix for record in self.checkpoints if not record.stock]
        return replace(self._unled().retire(own, (), self.last_preserved), moved=url)

    def arrive(self) -> LogState:
        """Return with what the run begins where it is moved to, given what it is here before `move`."""
        own = tuple(record for record in self.restorable if not record.stock)
        live = {record.prefix for record in own}
        return replace(
            self._unled(),
            checkpoints=own,
            retired=(),
            damaged=(),
            pinned=tuple(pin for pin in self.pinned if pin.prefix in live),
            tags=tuple(tag for tag in self.tags if tag.prefix in live),
            leases=(),
            rolled_back=0,
            moved="",
        )

    def keeps(self, record: CheckpointRecord) -> str:
        """Return why somebody who does not lead may not `remove` a live checkpoint, in words; empty if he may.

        The last save of the generation that leads tells its coordinator, if it is restarted, which saves it has made.
        """
        prefix, own = record.prefix, [c for c in self.restorable if not c.stock]
        deltas = ", ".join(str(c.step) for c in self.checkpoints if c.base == prefix)
        attempt, leads = parse_prefix(prefix), self.generation.id if self.generation else ""
        if record.stock:
            return "was written by TensorFlow itself, and Holdfast never removes it: delete its files"
        if any(pin.prefix == prefix for pin in self.pinned):
            return "is pinned: unpin it first"
        if tags := ", ".join(tag.name for tag in self.tags if tag.prefix == prefix):
            return f"is tagged {tags}: move the tag, or untag it first"
        if any(lease.prefix == prefix for lease in self.leases):
            return (
                "is being read: wait until its reader has given it back, or for the next save after its lease is over"
            )
        if deltas:
            return f"is what the incremental save of step {deltas} needs: remove that first"
        if record in (self.checkpoints[-1], *own[-1:]):
            return "is the newest: roll the run back to another one first"
        if attempt and (attempt.generation, attempt.ordinal) == (leads, self.last_committed(leads)):
            return "is the last save of the job that leads: wait for its next one"
        return ""

    def pin(self, pin: Pin) -> LogState:
        """Pin a live checkpoint, or give its pin another reason."""
        return replace(self, pinned=(*self.unpin(pin.prefix).pinned, pin))

    def unpin(self, prefix: str) -> LogState:
        return replace(self, pinned=tuple(pin for pin in self.pinned if pin.prefix != prefix))

    def tag(self, tag: Tag) -> LogState:
        """Give a live checkpoint a name, and take it from the one that had it."""
        return replace(self, tags=(*self.untag(tag.name).tags, tag))

    def untag(self, name: str) -> LogState:
        return replace(self, tags=tuple(tag for tag in self.tags if tag.name != name))

    def lease(self, lease: Lease) -> LogState:
        """Lease a live checkpoint, in place of what its reader has leased before."""
        return replace(self, leases=(*self.release(lease.reader).leases, lease))

    def release(self, reader: str) -> LogState:
        return replace(self, leases=tuple(lease for lease in self.leases if lease.reader != reader))

    def expire(self, leases: Collection[Lease]) -> LogState:
        return replace(self, leases=tuple(lease for lease in self.leases if lease not in leases)) if leases else self


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    number: int
    kind: EntryKind
    write_id: str  # random for each try to write: it tells our entry, after a lost reply, from somebody else's
    time: float
    state: LogState
    note: str = field(default="")  # for people: what the entry is about
