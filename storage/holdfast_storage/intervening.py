"""Changes of what is live by somebody who does not lead: see docs/design/035-changes-by-outsiders.md."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import parse_folder
from holdfast_storage.log.holding import hold
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, Intervention, LogState
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.stock.state_file import write_current
from holdfast_storage.store.base import Store

Select = Callable[[LogState], CheckpointRecord]
"""Selects a live checkpoint of a state, and raises InvalidRequest if there is none that is meant."""


def roll_back(store: Store, select: Select) -> LogState | None:
    """Make a checkpoint the newest of a run, and end the job that leads it: its next save is refused, and so is the
    first one of a job that has restored before.

    Return what was before; None if the checkpoint is the newest already. TensorFlow's `checkpoint` file follows. If
    this fails in between, the same call goes on.

    Raises InvalidRequest if the checkpoint is marked as damaged, and what `hold` raises.
    """
    before: LogState | None = None

    def change(state: LogState, number: int) -> LogState | None:
        nonlocal before
        state = with_foreign(store, state)[0]  # or what TensorFlow's manager has saved since would stay the newest
        record, before = select(state), None
        if record not in state.restorable:
            raise InvalidRequest(f"{record.prefix} is marked as damaged, or needs what is: nobody can go on from there")
        if record == state.checkpoints[-1]:
            return None
        before = state
        return state.rollback(record.prefix, number)

    _add(store, "rollback", change)
    return before


def remove(store: Store, select: Select) -> CheckpointRecord:
    """Take a checkpoint out of a run, and delete its folder. Return what it was.

    Raises InvalidRequest if something keeps it (see `LogState.keeps`), what `hold` raises, and StorageError if the
    folder cannot be deleted, which `delete_retired` or the next job then does.
    """
    gone: CheckpointRecord | None = None

    def change(state: LogState, _: int) -> LogState:
        nonlocal gone
        state = with_foreign(store, state)[0]
        gone = select(state)
        if why := state.keeps(gone):
            raise InvalidRequest(f"{gone.prefix} {why}")
        return state.remove(gone.prefix)

    _add(store, "remove", change)
    assert gone is not None
    store.delete_folder(gone.folder)
    return gone


def delete_retired(store: Store, step: int | str) -> bool:
    """Delete what is left of checkpoints of a step that were removed. Return whether something was, or would have been
    if it had not gone before, unless there is a live one of that step. Of a tag there is nothing: what has one is not
    removed."""
    entry = Log(store).tail()
    if entry is None or entry.state.closed:
        return False
    folders = [each for each in entry.state.retired if (attempt := parse_folder(each)) and attempt.number == step]
    left = [folder for folder in folders if store.list(folder)]
    for folder in left:
        store.delete_folder(folder)
    return bool(left or (folders and all(record.step != step for record in entry.state.checkpoints)))


def _add(store: Store, kind: Intervention, change: Callable[[LogState, int], LogState | None]) -> Entry:
    log = Log(store)
    entry = hold(log, kind, change, "")
    if entry is None:
        raise InvalidRequest(f"{store.url} has no log of Holdfast's: no job has saved there yet")
    if with_foreign(store, entry.state)[0] == entry.state:  # or the file knows more than the log
        write_current(store, log, entry.number, entry.state)
    return entry
