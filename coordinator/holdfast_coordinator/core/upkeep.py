"""What is done to a run's checkpoints after a commit: read back the new one, retire what it replaces, delete that."""

from __future__ import annotations

from holdfast_storage.records import Entry, LogState

from . import events as ev
from .effects import DeleteFolder, ReadBackCheckpoint, Remark
from .retention import sweep
from .run import Run
from .values import Failure, RetentionPolicy


class Upkeep:
    """Retention, one read-back at a time. `policy` is that of the last commit of the leading world."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.policy = RetentionPolicy()
        self._reading_back = ""
        self._deleting: set[str] = set()

    @property
    def busy(self) -> bool:
        return bool(self._reading_back or self._deleting)

    def consider(self) -> None:
        """Have the newest checkpoint read back, if something is to go once it is known to be good."""
        run, state = self._run, self._run.ledger.state
        if not state or not state.checkpoints or self._reading_back or not run.leading:
            return
        newest = state.checkpoints[-1]
        if not newest.stock and sweep(state, self.policy, newest.prefix):
            self._reading_back = newest.prefix
            run.emit(ReadBackCheckpoint(newest))

    def read_back(self, e: ev.ReadBack) -> None:
        self._reading_back = ""
        run, state = self._run, self._run.ledger.state
        if not e.good:
            run.emit(
                Remark(f"{e.prefix} was committed but could not be read back: nothing that it replaces is removed")
            )
            return
        if not run.leading or state is None or not sweep(state, self.policy, e.prefix):
            return

        def change(s: LogState) -> LogState:
            plan = sweep(s, self.policy, e.prefix)
            return s.retire(plan.retire, plan.preserve, plan.last_preserved)

        def done(entry: Entry | Failure) -> None:
            if isinstance(entry, Entry):
                run.published(entry)
                self.delete(entry.state)
                self.consider()

        run.append("retire", run.leading, change, done, note=f"replaced by {e.prefix}")

    def delete(self, state: LogState) -> None:
        """Have the folders deleted that are retired and have not been deleted yet."""
        for folder in state.retired:
            if folder not in self._deleting:
                self._deleting.add(folder)
                self._run.emit(DeleteFolder(folder))

    def deleted(self, e: ev.Deleted) -> None:
        self._deleting.discard(e.folder)
        if e.done:
            self._run.ledger.deleted(e.folder)
