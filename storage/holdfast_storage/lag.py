"""What one host has made durable, another host's mount may show late: how long that is waited for, and how.

A mount that trusts what it has cached may deny an object that is there, or show it shorter than it is. So nothing is
missing for good before `LAG` has passed since it is known that it must be there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .errors import StorageError
from .store.base import Store

log = logging.getLogger("holdfast.storage")

LAG = 60.0
"""Seconds within which every mount shows what another host has made durable. The NFS client of Linux trusts for up to
60 s what it knows of a folder, also that a name is not there (`acdirmax` in nfs(5)); object stores show it at once."""

TOLD_AFTER = 5.0
"""Seconds after which a wait is told of, with what it waits for."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Wait:
    """A bounded wait: `while not found() and wait.again(what is not there): pass`, or the like.

    What must have been there at one moment can share one wait from then on, and so costs its time once.

    patience: seconds; None: `LAG`. With 0 nothing is waited for.
    since: monotonic, from when they count; None: from now.
    over: whether nobody waits for the outcome any more.
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
        self._pause = _FIRST_PAUSE
        self._told = False

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._end - time.monotonic())

    def again(self, missing: str) -> bool:
        """Whether to look again, after a pause; False, without one, if the time is over.

        missing: a sentence on what is not there, told if that takes longer than a few seconds.
        """
        left = self.left
        if left <= 0.0 or self._over():
            return False
        if not self._told and time.monotonic() - self._began >= TOLD_AFTER:
            self._told = True
            log.warning("%s; waiting up to %.0f s more, in case this host's mount shows it late", missing, left)
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


def read_there(store: Store, name: str) -> bytes:
    """An object that is known to be there, since to create it was refused. StorageError if it is not seen in time."""
    wait, missing = Wait(), f"{store.url}/{name} is there and cannot be found"
    while True:
        try:
            return store.read(name)
        except FileNotFoundError:
            if not wait.again(missing):
                raise StorageError(missing, object=name) from None
