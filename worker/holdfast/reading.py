"""`holdfast.checkpoints_iterator`: for evaluators and exporters, which read a run while others train it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from numbers import Real
from typing import Any

from holdfast.leasing import Leasing
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.log.log import Log
from holdfast_storage.logger import logger
from holdfast_storage.records import LONGEST_LEASE, CheckpointRecord, Entry
from holdfast_storage.run_directory import tail_or_import
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.store import Store, open_store

log = logger("holdfast")

POLL = 1.0
"""Seconds between two looks into the run, as in `tf.train.checkpoints_iterator`."""


def checkpoints_iterator(
    checkpoint_dir: str | os.PathLike[str],
    min_interval_secs: float = 0,
    timeout: float | None = None,
    timeout_fn: Callable[[], object] | None = None,
    *,
    lease_secs: float = 3600.0,
    storage_options: Mapping[str, Any] | None = None,
) -> Generator[str, None, None]:
    """Yield the prefix of the newest committed checkpoint of a run, and again of each newer one that is found.

    The arguments and the behaviour are those of `tf.train.checkpoints_iterator`. Checkpoints that come and go while the
    caller works on one are left out. What is not committed, or is marked as damaged, is never yielded. Neither are the
    deltas of incremental saves, since `tf.train.Checkpoint.restore` cannot read them: only one of `full_every` is.

    The caller has a *lease* of what was yielded, which retention honours: the checkpoint is not removed before the
    caller asks for the next one, closes the iterator (so does leaving a `for` loop, or forgetting the iterator), or
    `lease_secs` have passed. A lease takes the right to write to the run directory. Without it, and if 64 readers have
    leases already, the iterator goes on without one and logs that once. Checkpoints that TensorFlow wrote itself are
    never removed by Holdfast and need none.

    Nothing of this needs TensorFlow, a coordinator, or a job that is running. The iterator belongs to one thread.

    Args:
        checkpoint_dir: the run directory, as a path or an fsspec URL. It may not exist yet.
        min_interval_secs: the seconds, at least, from one checkpoint to the next.
        timeout: the seconds to wait for a new checkpoint; None waits without end.
        timeout_fn: is called when `timeout` is over: the iterator ends if it returns true, and waits again if not.
            Without it, the iterator ends.
        lease_secs: the seconds for which a lease lasts at most, up to a day: longer than the caller works on one
            checkpoint. If the caller dies, its checkpoint stays for that time. 0: without leases.
        storage_options: fsspec's options for the file system.

    Raises InvalidRequest at once for arguments that cannot work, and StorageError, CheckpointDamaged and
    InvalidRequest while iterating, if the run cannot be read, or was moved.
    """
    _check("min_interval_secs", min_interval_secs)
    _check("lease_secs", lease_secs, LONGEST_LEASE)
    if timeout is not None:
        _check("timeout", timeout)
    if timeout_fn is not None and not callable(timeout_fn):
        raise InvalidRequest(f"timeout_fn is {timeout_fn!r}: it must be a function, or None", object="timeout_fn")
    reader = _Reader(open_store(checkpoint_dir, storage_options), float(lease_secs))
    return _iterate(reader, min_interval_secs, timeout, timeout_fn)


def _check(name: str, value: Any, most: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= most:
        to = "" if most == float("inf") else f" to {most:.0f}"
        raise InvalidRequest(f"{name} is {value!r}: it must be a number of seconds from 0{to}", object=name)


def _iterate(
    reader: _Reader, min_interval_secs: float, timeout: float | None, timeout_fn: Callable[[], object] | None
) -> Generator[str, None, None]:
    while True:
        prefix = _await(reader, timeout)
        if prefix is None:
            if timeout_fn is None:
                log.info("%s: no new checkpoint within %s s", reader.url, timeout)
            if timeout_fn is None or timeout_fn():
                return
            continue
        began = time.monotonic()
        try:
            yield prefix
        finally:
            reader.release()
        time.sleep(max(0.0, began + min_interval_secs - time.monotonic()))


def _await(reader: _Reader, timeout: float | None) -> str | None:
    """Return the next checkpoint, which is leased; None if there is none in time."""
    end = None if timeout is None else time.monotonic() + timeout
    while (prefix := reader.take()) is None:
        if end is not None and time.monotonic() + POLL > end:
            return None
        time.sleep(POLL)
    return prefix


class _Reader:
    """What a reader knows of a run, and its lease."""

    def __init__(self, store: Store, lease_secs: float) -> None:
        self._store = store
        self.url = store.url
        self._log = Log(store)
        self._leasing = Leasing(self._log, store.url, lease_secs)
        self._taken = ""  # prefix of the checkpoint that was taken last

    def take(self) -> str | None:
        """Lease the newest checkpoint. Return its full prefix; None if there is no other than was taken last."""
        while (record := self._newest()) is not None and record.prefix != self._taken:
            if self._leasing.lease(record):
                self._taken = record.prefix
                return f"{self.url}/{record.prefix}"
        return None

    def release(self) -> None:
        """Give the lease back. If that fails, it ends by itself."""
        self._leasing.release()

    def _newest(self) -> CheckpointRecord | None:
        found = tail_or_import(self._store, self._log, "", self._leasing.number)
        if isinstance(found, Entry):
            self._leasing.number = found.number
            if found.state.closed:
                raise InvalidRequest(f"{self.url}: {found.state.closed}", object=self.url)
            state = with_foreign(self._store, found.state)[0]
        else:
            state = found
        newest = state.stock_readable[-1:]  # what it yields, people hand to `tf.train.Checkpoint.restore`
        return newest[0] if newest else None
