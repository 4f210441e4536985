"""Removes what a commit replaces, once the new checkpoint was read back, and orphans after a change of the lead.

Whoever asks is told when that is over, so that a blocking save leaves at most `max_to_keep` checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.cluster import names
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry, LogState

from . import events as ev
from .effects import DeleteFolder, FindOrphans, ReadBackCheckpoint, ReadMetrics, Remark
from .intents import Discard, Retire
from .messages import Caller, RequestId, UpkeepOver, Verdict
from .reading_back import ReadingBack
from .retention import unmeasured
from .rules import metrics_of
from .run import RunState

AWAITED_FOR = 30.0
"""Seconds for which callers wait for upkeep, from its beginning: a storage that hangs must not stop the training."""


@dataclass
class Upkeep:
    """Retention, with one read-back at a time, and the clean-up."""

    _run: RunState = field(repr=False, compare=False)
    _shown: str = ""  # what TensorFlow's `checkpoint` file names as the newest
    _reading_back: str = ""  # prefix
    _reading_for: str = ""  # the newest checkpoint by then, which needs that one, or is it
    _good: set[str] = field(default_factory=set)  # of what the newest needs: what was read back
    _by_shares: ReadingBack | None = None  # how; None: by this coordinator alone
    _silent: dict[Caller, float] = field(default_factory=dict)  # see ReadingBack
    _measuring: bool = False
    _measured_for: str = ""  # the newest checkpoint when metrics were last asked for
    _looking: bool = False  # for orphans
    _retiring: int = 0  # entries that are being created
    _naming: int = -1  # the last entry after which TensorFlow's file is still to be written
    _deleting: set[str] = field(default_factory=set)
    _busy_since: float | None = None  # monotonic
    _awaited: list[RequestId] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        doing = self._reading_back or self._measuring or self._looking or self._retiring or self._deleting
        return bool(doing) or self._naming >= 0

    def reason(self) -> str:
        """What upkeep is doing, in a few words; empty if nothing."""
        if self._reading_back:
            readers = self._by_shares.awaited if self._by_shares else []
            by = f" by {names(readers)}" if readers else ""
            return f"reading {self._reading_back} back{by}, before what it replaces is removed"
        if self._measuring:
            return "reading the metrics of earlier checkpoints, to know the best"
        if self._deleting:
            return f"deleting {len(self._deleting)} folder(s), such as {min(self._deleting)}"
        if self._retiring or self._naming >= 0:
            return "having the log and TensorFlow's checkpoint file tell what is removed"
        return "looking for what earlier jobs have left behind" if self._looking else ""

    def await_over(self, e: ev.AwaitUpkeep) -> None:
        if self._run.world(e.caller, e.request):
            self._awaited.append(e.request)

    def watch(self) -> None:
        """Answer those who wait, once upkeep is over or has gone on for long enough. Called after every event."""
        now = self._run.now.monotonic
        if self._by_shares:
            self._by_shares.watch()
        if not self.busy:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        if self._awaited and (self._busy_since is None or now - self._busy_since >= AWAITED_FOR):
            awaited, self._awaited = self._awaited, []
            for request in awaited:
                self._run.reply(request, UpkeepOver())

    def state_file_written(self, e: ev.StateFileWritten) -> None:
        self._shown = e.newest
        if self._naming <= e.number:
            self._naming = -1
        self.consider()

    def consider(self) -> None:
        """Ask for the newest checkpoint to be read back, if something should go once it is known to be good.

        Not before stock readers find it, too: what their file names must not go.
        """
        run, state = self._run, self._run.ledger.state
        if not state or not state.checkpoints or not run.leading or self._goes_back:
            return
        self.delete(state)  # what a restore has delayed
        if self._reading_back or self._retiring:
            return  # what is in flight is not in the state yet; this is considered again when it is
        newest = state.checkpoints[-1]
        if newest.prefix != self._measured_for and not self._measuring:
            self._measured_for = newest.prefix
            if unknown := unmeasured(state.measure(run.measured), run.retention):
                self._measuring = True
                run.emit(ReadMetrics(unknown))
        if self._measuring:
            return
        chain = state.chain(newest)
        self._good &= {each.prefix for each in chain}
        if not newest.stock and chain[0].prefix == self._shown and run.sweep(state, newest.prefix):
            following = next((each for each in chain if each.prefix not in self._good), newest)
            self._reading_for = newest.prefix
            self._read_back(following)

    def _read_back(self, record: CheckpointRecord) -> None:
        """Have a checkpoint read back: by its workers, or by this coordinator for a world of one, which has no other
        reader than its writer."""
        run, now = self._run, self._run.now.monotonic
        world = run.worlds.get(run.leading)
        self._reading_back = record.prefix
        if world is None or len(world.tasks) == 1:
            run.emit(ReadBackCheckpoint(record, now))
            return
        self._silent = {caller: until for caller, until in self._silent.items() if until > now}
        self._by_shares = ReadingBack(run, record, now, self._silent)
        self._by_shares.begin()

    def listed(self, e: ev.Listed) -> None:
        if self._by_shares and e.prefix == self._reading_back:
            self._judge(self._by_shares.listed(e))

    def examined(self, e: ev.Examined) -> None:
        if self._by_shares and e.prefix == self._reading_back and self._run.present(e.caller):
            self._judge(self._by_shares.examined(e))

    def objects_read(self, e: ev.ObjectsRead) -> None:
        if self._by_shares and e.prefix == self._reading_back:
            self._judge(e.verdict)

    def _judge(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            self.read_back(ev.ReadBack(self._reading_back, verdict))

    def tick(self) -> None:
        if self._by_shares:
            self._by_shares.tick()

    def measured(self, e: ev.MetricsRead) -> None:
        self._measuring = False
        run, needed = self._run, metrics_of(self._run.retention)
        for prefix, metrics in e.found:
            given = dict(metrics)
            run.measured[prefix] = tuple((name, given.get(name)) for name in needed)
        self.consider()

    def read_back(self, e: ev.ReadBack) -> None:
        if e.prefix != self._reading_back:
            return
        self._reading_back, self._by_shares = "", None
        run, state = self._run, self._run.ledger.state
        if e.verdict == "good":
            self._good.add(e.prefix)
            run.doubted.discard(e.prefix)
        else:
            run.doubted.add(e.prefix)
            # This is a first reader. A worker that restores it will be the second.
            why = f"{e.prefix} was committed but could not be read back (it is {e.verdict})"
            run.emit(Remark(f"{why}: nothing that it replaces is removed"))
        replaces = state and e.verdict == "good" and run.leading and not self._goes_back
        if not state or not replaces or not run.sweep(state, e.prefix):
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else e.prefix
            # Next is what needs it, or what was committed meanwhile.
            if newest != (e.prefix if e.verdict == "good" else self._reading_for):
                self.consider()
            return
        self._retiring += 1
        note = f"replaced by {e.prefix}"
        run.ledger.append(Retire(generation=run.leading, note=note, verified=e.prefix))

    def retired(self, _: Retire, made: Entry | Failure) -> None:
        self._retiring -= 1
        if isinstance(made, Entry):
            self._naming = made.number
            self._run.measured.clear()
            self._run.doubted &= {record.prefix for record in made.state.checkpoints}
            self._run.published(made)
            self.consider()

    @property
    def _goes_back(self) -> bool:
        """Return whether the leading world restores, or has gone back and the log does not say so yet.

        What it has chosen may be the next to go.
        """
        world = self._run.worlds.get(self._run.leading)
        if world is None:
            return False
        chosen = world.went_back_to or (world.attempt and world.attempt.went_back_to)
        return bool(chosen) or any(round_.is_open for round_ in world.rounds.values())

    def look_for_orphans(self, entry: Entry) -> None:
        """Look, once a lead entry stands, for what the generations before have left."""
        if entry.state.superseded:
            self._looking = True
            self._run.emit(FindOrphans(entry))

    def orphans_found(self, e: ev.OrphansFound) -> None:
        self._looking = False
        run, state = self._run, self._run.ledger.state
        if not run.leading or state is None or state.discard(e.folders) == state:
            return
        self._retiring += 1
        note = f"never committed: {', '.join(e.folders)}"
        run.ledger.append(Discard(generation=run.leading, note=note, folders=e.folders))

    def discarded(self, _: Discard, made: Entry | Failure) -> None:
        self._retiring -= 1
        if isinstance(made, Entry):
            self.delete(made.state)
        self.consider()

    def delete(self, state: LogState) -> None:
        """Delete the folders that are retired and not deleted yet."""
        for folder in state.retired:
            if folder not in self._deleting and folder not in self._run.ledger.deleted:
                self._deleting.add(folder)
                self._run.emit(DeleteFolder(folder))

    def deleted(self, e: ev.Deleted) -> None:
        self._deleting.discard(e.folder)
        if e.done:
            self._run.ledger.deleted.add(e.folder)
