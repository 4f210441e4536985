"""Waiting for what one host has made durable and another host's mount shows late.

A mount that trusts its cache may deny an object that exists, or show it too short. So an object counts as missing only
when `LAG` has passed since it was known to exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast_storage.errors import StorageError
from holdfast_storage.logger import logger
from holdfast_storage.pauses import pauses
from holdfast_storage.store.base import Store, TooLarge

log = logger("holdfast.storage")

LAG = 60.0
"""Seconds within which every mount shows what another host has made durable. Linux's NFS client trusts what it knows of
a folder for up to 60 s, even that a name is missing (`acdirmax` in nfs(5)). Object stores show everything at once."""

TOLD_AFTER = 5.0
"""Seconds after which a wait is logged, with what it waits for."""


class Wait:
    """A bounded wait: `while not found() and wait.again("x is missing"): pass`, or the like.

    Everything that must have existed at one moment can share one wait, so that its time is spent only once.

    patience: the seconds to wait; None: `LAG`; 0: not at all.
    since: the monotonic time from which they count; None: from now.
    over: tells whether nobody is interested in the outcome any more.
    """

    def __init__(
        self,
        patience: float | None = None,
        *,
        since: float | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._began = time.monotonic()
        self._end = (self._began if since is None else since) + (LAG if patience is None else patience)
        self._over = over
        self._pauses = pauses()
        self._told = False

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def again(self, missing: str) -> bool:
        """Pause and return True, to look again; return False at once if the time is over.

        missing: says what is missing; it is logged if the wait takes longer than a few seconds.
        """
        left = self.left
        if left <= 0.0 or self._over():
            return False
        if not self._told and time.monotonic() - self._began >= TOLD_AFTER:
            self._told = True
            log.warning("%s; waiting up to %.0f s more, in case this host's mount shows it late", missing, left)
        time.sleep(min(next(self._pauses), left))
        return True


def holds(store: Store, name: str, data: bytes) -> bool:
    """Return whether an object, which must exist since its name is taken, holds exactly these bytes.

    Raises StorageError if it does not appear in time.
    """
    wait, missing = Wait(), f"{store.url}/{name} exists and is not seen here"
    while True:
        try:
            return store.read(name, limit=len(data)) == data
        except TooLarge:
            return False
        except FileNotFoundError:
            if not wait.again(missing):
                raise StorageError(missing, object=name) from None
