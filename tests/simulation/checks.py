"""What must be true at any time: looked at whenever the log, or what somebody was told, has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Task
from holdfast_storage.layout import LOG_FOLDER, STATE_FILE, page_object, parse_log_entry
from holdfast_storage.log.entries import Records, decode, decode_page
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.stock import state_file
from simulation.contents import expected, read_chain
from simulation.storage import Truth
from support.cluster import check_log

if TYPE_CHECKING:
    from simulation.world import World


class Checks:
    """Everything that is known of a run, apart from the product.

    Attributes:
        entries: of the log, in order.
        committed: (generation, ordinal) of every commit entry.
        contents: what was saved, by the prefix of the checkpoint and the worker.
        stale: seconds by which what one host sees of the log may be behind, at most.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stale = 45.0
        self.entries: list[Entry] = []
        self.times: list[float] = []
        self.committed: set[tuple[str, int]] = set()
        self.told: dict[tuple[str, int], dict[Task, bool]] = {}
        self.contents: dict[tuple[str, Task], str] = {}
        self.restores: dict[tuple[str, int], str] = {}
        # By generation: what it restored last, whether it wanted this very one, and when it asked.
        self.goes_on_from: dict[str, tuple[str, bool, float]] = {}
        self.boundaries: dict[tuple[str, int], dict[Task, bool]] = {}  # who has saved there, who has not
        self.truth = Truth(world.bucket)
        self.targets: set[int] = set()  # steps that workers have asked for
        self.good: set[str] = set()  # prefixes of live checkpoints that were whole when they were committed
        world.bucket.changed = self._changed

    @property
    def prefixes(self) -> set[str]:
        """The prefixes of everything that was ever committed."""
        return {record.prefix for entry in self.entries for record in entry.state.checkpoints}

    @property
    def state(self) -> LogState | None:
        return self.entries[-1].state if self.entries else None

    # -- the log --

    def _changed(self, name: str) -> None:
        with self.world.scheduler.undisturbed():  # it uses functions of the product
            if name == STATE_FILE:
                self._check_state_file()
            elif name.startswith(LOG_FOLDER):
                self._grown(name)

    def _grown(self, name: str) -> None:
        last = name.rpartition("/")[2]
        entry = decode(self.truth.read(name), name, self._pages)
        if entry is None or parse_log_entry(last) != len(self.entries):
            self.world.violate("hole", f"{name} is created, and the log ends at {len(self.entries) - 1}")
            return
        self.entries.append(entry)
        self.times.append(self.world.scheduler.now)
        self.world.tell("log", _Told(entry))
        self.world.counts[f"entries: {entry.kind}"] += 1
        self.world.bucket.protected = {record.folder for record in entry.state.checkpoints}
        try:
            check_log(self.entries)
            self._check_commits(entry)
        except AssertionError as error:
            self.world.violate("log", f"entry {entry.number} ({entry.kind}): {error}")

    def _pages(self, names: Sequence[str]) -> list[Records]:
        """Return what an entry's pages hold. They exist before the entry."""
        self.world.counts["pages needed"] += len(names)
        return [decode_page(self.truth.read(page_object(name)), name, name) for name in names]

    def _check_commits(self, entry: Entry) -> None:
        state = entry.state
        if entry.kind == "commit":
            record = state.checkpoints[-1]
            generation, ordinal = record.folder.rsplit(".", 2)[-2:]
            self.committed.add((generation, int(ordinal)))
            self._check_goes_on(generation, record)
            told = self.told.get((generation, int(ordinal)), {})
            assert not [task for task, good in told.items() if not good], f"{record.prefix} was told to have failed"
            self.world.counts["commits of deltas"] += bool(record.base)
            if not self._rotten(state, record):
                if self.verify(record):
                    self._check_values(state, record)
                self.good.add(record.prefix)
        if entry.kind == "restored" and len(self.entries) > 1:
            self._check_step_back(self.entries[-2].state, entry.state)
        if self.good and not any(record.prefix in self.good for record in state.checkpoints):
            self.world.violate("forgotten", f"entry {entry.number} ({entry.kind}) leaves no good checkpoint")

    def _check_goes_on(self, generation: str, record: CheckpointRecord) -> None:
        """Who commits after a rollback has restored what it made the newest, or what came after it."""
        back = max((entry.number for entry in self.entries if entry.kind == "rollback"), default=None)
        if back is None or generation not in self.goes_on_from:
            return
        prefix, targeted, asked = self.goes_on_from[generation]
        since = {entry.state.checkpoints[-1].prefix for entry in self.entries[back:-1]}
        told = targeted and asked >= self.times[back]  # somebody wanted it afterwards
        assert told or prefix in since, f"{record.prefix} goes on from {prefix}, which was given up by entry {back}"
        self.world.counts["commits after a rollback"] += 1

    def _check_step_back(self, before: LogState, after: LogState) -> None:
        """A commit is given up for an older one only if it is damaged, or if somebody asked for that one."""
        newest, chosen = before.checkpoints[-1], after.checkpoints[-1]
        given_up = newest.prefix in self.good and not self._rotten(before, newest) and newest.prefix != chosen.prefix
        assert not given_up or chosen.step in self.targets, f"{newest.prefix} is given up for {chosen.prefix}"

    def is_good(self, state: LogState, record: CheckpointRecord) -> bool:
        """Return whether all that a restore of a checkpoint needs is as it was written, and nobody has condemned it."""
        return record in state.restorable and not self._rotten(state, record)

    def _rotten(self, state: LogState, record: CheckpointRecord) -> set[str]:
        """Return the objects of a checkpoint, and of what it needs, that are not what was written."""
        rotten = self.world.bucket.rotten
        return {name for each in state.chain(record) for name in rotten.get(each.folder, ())}

    def _check_values(self, state: LogState, record: CheckpointRecord) -> None:
        """Check that a checkpoint holds what was saved, and nothing that differs between workers and must not."""
        chief = read_manifest(self.truth, record).world[0]  # type: ignore[arg-type]
        found = read_chain(state.chain(record), self.truth.read)
        for key, value in expected(self.contents[record.prefix, chief], chief).items():
            if found.get(key) != value:
                self.world.violate("values", f"{record.prefix} holds another {key} than the chief's")

    def _check_state_file(self) -> None:
        """TensorFlow's own file names committed checkpoints alone, at any time."""
        prefixes = {record.prefix for entry in self.entries for record in entry.state.checkpoints}
        named = {text.split('"')[1] for text in self.truth.read(STATE_FILE).decode().splitlines() if '"' in text}
        if named - prefixes:
            self.world.violate("state file", f"it names {named - prefixes}, never committed")

    def verify(self, record: CheckpointRecord) -> bool:
        """Every byte of a committed checkpoint: whether all is well."""
        report = verify_checkpoint(self.truth, record, threads=1)  # type: ignore[arg-type]
        if report.problems:
            told = "; ".join(f"{problem.object} {problem.reason}" for problem in report.problems)
            self.world.violate("incomplete", f"{record.prefix} is committed and {report.verdict}: {told}")
        return not report.problems

    # -- what workers are told --

    def outcome(self, generation: str, ordinal: int, task: Task, committed: bool) -> None:
        """A worker has heard how a save ended."""
        save = f"save {ordinal} of generation {generation}"
        told = self.told.setdefault((generation, ordinal), {})
        if told.setdefault(task, committed) != committed or len(set(told.values())) > 1:
            self.world.violate("split", f"the outcome of {save} is told both ways: {told}")
        stands = (generation, ordinal) in self.committed
        if committed and not stands:
            self.world.violate("told", f"{task} was told that {save} is committed, and it is not")
        if not committed and stands:
            self.world.violate("told", f"{task} was told that {save} has failed, and it is committed")

    def saved_on_request(self, generation: str, boundary: int, task: Task) -> None:
        """A worker saves at a boundary of its loop."""
        self._at_boundary(generation, boundary, task, saved=True)

    def passed(self, generation: str, boundary: int, task: Task) -> None:
        """A worker passes a boundary without a save."""
        self._at_boundary(generation, boundary, task, saved=False)

    def _at_boundary(self, generation: str, boundary: int, task: Task, *, saved: bool) -> None:
        told = self.boundaries.setdefault((generation, boundary), {})
        told[task] = saved
        if len(set(told.values())) > 1:
            self.world.violate("lone", f"at boundary {boundary} of generation {generation} some save: {told}")

    def restored(self, generation: str, ordinal: int, task: Task, prefix: str, *, began: float, targeted: bool) -> None:
        """A worker has applied a checkpoint; empty: there was none.

        began: when it asked for it, in virtual time.
        targeted: it asked for this very one, not for the newest.
        """
        self.goes_on_from[generation] = prefix, targeted, began
        agreed = self.restores.setdefault((generation, ordinal), prefix)
        if agreed != prefix:
            self.world.violate(
                "restore", f"{task} restores {prefix or 'nothing'}, another worker {agreed or 'nothing'}"
            )
        if not targeted and prefix not in (possible := self._newest_since(began)):
            self.world.violate("restore", f"{task} restores {prefix or 'nothing'}; the newest good: {possible}")

    def _newest_since(self, began: float) -> set[str]:
        """Return what may have been the newest good checkpoint at any time since; empty for none."""
        last = 0
        while last < len(self.times) and self.times[last] <= began - self.stale:
            last += 1
        found = set() if last else {""}
        for entry in self.entries[max(0, last - 1) :]:
            found |= self._newest(entry.state)
        return found

    def _newest(self, state: LogState) -> set[str]:
        found = set()
        for record in reversed(state.checkpoints):
            rotten = self._rotten(state, record)
            if not rotten:
                return found | {record.prefix}
            own = self.world.bucket.rotten.get(record.folder, set())
            if all("/local/" in name for name in own):
                # Good for those whose own it is not, and for all if it has everything itself that is bad below it.
                found.add(record.prefix)
        return found | {""}

    # -- when all is quiet --

    def quiet(self) -> None:
        """Nothing is going on any more, and nothing goes wrong."""
        state = self.state
        if state is None:
            return
        for record in state.checkpoints:
            if record.folder not in self.world.bucket.rotten:
                self.verify(record)
        stored = self.world.bucket.objects.get(STATE_FILE)
        if stored is None:
            if state.stock_readable:
                self.world.violate("state file", "there is none")
        elif stored.data != state_file.to_bytes(state):
            self.world.violate("state file", f"it is not that of the last entry: {stored.data!r}")
        for folder in state.retired:
            if below := self.world.bucket.below(folder):
                self.world.tell("storage", f"{folder} is retired and still there: {below}")


class _Told:
    """An entry as the story has it."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __str__(self) -> str:
        e = self.entry
        live = " ".join(record.folder for record in e.state.checkpoints)
        return f"entry {e.number}: {e.kind} by {e.write_id}, live: [{live}] {e.note}"
