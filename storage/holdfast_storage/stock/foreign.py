"""Checkpoints that TensorFlow's manager saved into a run without the log: see docs/design/008-there-and-back.md."""

from __future__ import annotations

from dataclasses import replace

from holdfast_storage.errors import StorageError
from holdfast_storage.layout import STATE_FILE, index_object
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.store.base import Store


def with_foreign(store: Store, state: LogState) -> tuple[LogState, str]:
    """Return a run's state from the log, with what `tf.train.CheckpointManager` has saved since on top.

    If the `checkpoint` file names something that the log has never known, that is newer than all that the log knows.
    For the log never forgets what it once took over, and whoever writes the file from the log, however late, names
    nothing else. A name that the log knows is newer, too, if the file gives it a later time: after a start from
    scratch, TensorFlow begins with 1 again.

    Also returns a sentence about what was found, empty if there is nothing. Only reads: the next log entry, made on top
    of this state, records it. Raises StorageError if the store does, but never because of the `checkpoint` file.
    """
    try:
        file = state_file.read(store)
    except StorageError as error:
        return state, (
            f"{store.url}/{STATE_FILE} cannot be read, so what tf.train.CheckpointManager may have saved since "
            f"Holdfast last did is not seen: {error}"
        )
    known = {record.prefix: record.time for record in state.checkpoints}
    news = [record for record in _stock(store, file) if _is_news(known.get(record.prefix), record.time)]
    found = tuple(record for record in news if _is_there(store, record))
    late = ""
    if file.is_of_manager and news and news[-1] not in found:
        late = (
            f"{store.url}/{STATE_FILE} names {news[-1].prefix}, which is not in the log and not there. If "
            "tf.train.CheckpointManager has saved it, this host's mount may show it late: then start again in a "
            "minute, before anything is saved. "
        )
    if not found:
        return state, late
    names = ", ".join(record.prefix for record in found)
    where = f"{store.url}/{STATE_FILE} names {names}, which"
    if not file.is_of_manager:
        return state, (
            f"{where} neither Holdfast nor tf.train.CheckpointManager has saved there: it is not taken for the run's "
            "newest. To go on from it, restore it by its path"
        )
    prefixes = {record.prefix for record in found}
    kept = tuple(record for record in state.checkpoints if record.prefix not in prefixes)
    damaged = tuple(prefix for prefix in state.damaged if prefix not in prefixes)
    return replace(state, checkpoints=kept + found, damaged=damaged), (
        f"{late}{where} tf.train.CheckpointManager has saved since Holdfast last did: the newest is "
        f"{found[-1].prefix}, not verified by Holdfast. The next save records them; their files stay"
    )


def _stock(store: Store, file: state_file.StateFile) -> list[CheckpointRecord]:
    """Return the stock checkpoints that the file lists, oldest first."""
    listed = {state_file.stock_prefix(store, path): time for path, time in file.listed}
    return [state_file.stock_record(prefix, time) for prefix, time in listed.items() if prefix is not None]


def _is_news(known: float | None, time: float) -> bool:
    """Tell by its times, in the log and in the file, whether a checkpoint has been saved since. 0: nobody knew it."""
    return known is None or time > known > 0.0


def _is_there(store: Store, record: CheckpointRecord) -> bool:
    return store.size(index_object(record.prefix)) is not None
