"""The lease of a reader that is at work on a checkpoint: retention does not remove it meanwhile.

See docs/design/023-pins-and-leases.md.
"""

from __future__ import annotations

import os
import secrets
import time

from holdfast_storage.errors import HoldfastError
from holdfast_storage.log.holding import NotHeld, hold
from holdfast_storage.log.log import Log
from holdfast_storage.logger import logger
from holdfast_storage.records import MOST_LEASES, CheckpointRecord, Lease, LogState

log = logger("holdfast")


class Leasing:
    """What one reader leases, a checkpoint at a time. What cannot be leased is read without, which is logged once.

    Attributes:
        number: the number of a log entry that is known to exist, or -1: where to look first.
    """

    def __init__(self, log: Log, url: str, seconds: float, reader: str = "") -> None:
        """seconds: how long a lease lasts at most. 0: without leases. reader: its id, if it is known by one already."""
        self.number = -1
        self._log = log
        self._url = url
        self._seconds = seconds
        self._id = reader or secrets.token_hex(16)
        self._prefix = ""
        self._leased: float | None = None  # monotonic, when what may be a lease was asked for
        self._told = False  # that there is no lease
        self._process = os.getpid()

    def lease(self, record: CheckpointRecord) -> bool:
        """Lease a checkpoint, or go on without if that is not possible. Return False if it is not there any more."""
        if record.stock or not self._seconds:
            return True
        self._prefix = record.prefix
        gone = full = False

        def lease(state: LogState, number: int) -> LogState | None:
            nonlocal gone, full
            gone, full = record not in state.restorable, len(state.leases) >= MOST_LEASES
            wanted = Lease(record.prefix, self._id, self._seconds, number)
            return None if gone or full else state.lease(wanted)

        began = time.monotonic()
        try:
            entry = hold(self._log, "lease", lease, record.prefix, self.number)
        except NotHeld as error:
            self._leased = began  # it may still come to stand
            self._go_without(str(error))
            return True
        if entry is None or gone:
            return entry is None  # without a log nobody removes anything
        if full:
            self._go_without(f"{MOST_LEASES} readers have leases already")
        else:
            self.number, self._leased = entry.number, began
        return True

    def _go_without(self, why: str) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "%s: checkpoints are read without a lease, so retention may remove one meanwhile: %s", self._url, why
            )

    def release(self) -> None:
        """Give the lease back. If that fails, it ends by itself."""
        if self._leased is None or self._process != os.getpid():  # a fork comes to its end with a copy of the iterator
            return
        held, self._leased = time.monotonic() - self._leased, None
        if held > self._seconds and not self._told:
            log.warning(
                "%s: the work on %s has taken %.0f s and its lease ended after %.0f s: raise lease_secs",
                self._url,
                self._prefix,
                held,
                self._seconds,
            )

        def release(state: LogState, _: int) -> LogState | None:
            after = state.release(self._id)
            return None if after == state else after

        try:
            hold(self._log, "release", release, self._prefix, self.number)
        except HoldfastError as error:
            log.info("%s: the lease of %s ends by itself: %s", self._url, self._prefix, error)
