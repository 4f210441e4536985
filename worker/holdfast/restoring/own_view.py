"""What this worker itself sees of a run, to hold against what its coordinator says."""

from __future__ import annotations

from holdfast_storage.errors import CheckpointAbsent, HoldfastError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import check_relative, parse_folder
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.run_directory import import_state
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.store.base import Store


class OwnView:
    """A run as one worker sees it, from the beginning of a restore on.

    Its mount may be behind the coordinator's. So it waits for what it does not see yet. But what it has seen once, an
    honest coordinator sees, too.
    """

    def __init__(self, store: Store, known: int) -> None:
        """known: the number of log entries of which the coordinator has told, to look there first."""
        self.store = store
        self._log = Log(store)
        self._entry: Entry | None = None
        self._unread = False
        try:
            self._look(known - 1)
        except HoldfastError:
            self._unread = True  # a worker that cannot read knows no better, and says so when it must know
        self.entries = max(known, self._entry.number + 1 if self._entry else 0)
        """The log entries that the coordinator must see before it proposes anything."""

    def has_checkpoints(self) -> bool:
        """Return whether there was a checkpoint when this view began, damaged ones included. Raises StorageError."""
        if self._unread:
            self._look(-1)
        if self._entry is None and (first := self._log.read(0)) is not None:
            return bool(first.state.checkpoints)  # another job began the log since; its first entry says what there was
        return bool(self._state().checkpoints)

    def holds(self, prefix: str) -> bool:
        """Return whether a live checkpoint of that name is seen at once. Raises StorageError."""
        return self._state().find(prefix) is not None

    def find(self, prefix: str, wait: Wait) -> CheckpointRecord:
        """Return the run's live checkpoint of that name. Raises CheckpointAbsent if it is not seen in time, and
        StorageError."""
        missing = f"{self.store.url} does not show {prefix} as a checkpoint of the run, as seen here"
        found = self._state().find(prefix)
        while found is None:
            self._look(self._entry.number if self._entry else -1)
            found = self._state().find(prefix)
            if found is None and not wait.again(missing):
                raise CheckpointAbsent(missing, object=prefix)
        return found

    @property
    def has_log(self) -> bool:
        """Whether a log vouches for the checkpoints."""
        return self._entry is not None

    def _look(self, hint: int) -> None:
        # What the coordinator tells is a hint: where there is no such entry, the log is searched for.
        self._entry, self._unread = (self._log.tail(hint) if hint >= 0 else None) or self._log.tail(), False

    def _state(self) -> LogState:
        if self._entry is None:
            return import_state(self.store, "")
        return with_foreign(self.store, self._entry.state)[0]


def may_be_of_run(prefix: str, *, stock: bool) -> bool:
    """Return whether a checkpoint of a run directory can have this name: it leads nowhere else."""
    folder = prefix.rpartition("/")[0]
    attempt = parse_folder(folder) if folder else None
    try:
        check_relative(prefix)
    except ValueError:
        return False
    return stock if attempt is None else not stock and attempt.prefix == prefix
