"""The object store that is saved to: the one of the tests, Ceph's S3 gateway with its data in memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # where the servers are

from servers.ceph import Ceph

if TYPE_CHECKING:
    from servers.base import Location

DESCRIPTION = "S3 by Ceph's radosgw on memstore, on this machine"
QUIET, PATIENCE = 0.02, 60.0


class Server:
    """A store of its own, until `stop()`.

    pause: seconds for which it is left alone after a deletion. Ceph frees the memory one to three seconds later.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._ceph = Ceph()
        self._processes = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name() in ("ceph-mon", "ceph-osd", "radosgw")
        ]

    @staticmethod
    def missing() -> str:
        """Return what is not installed here; empty if nothing is missing."""
        return str(Ceph.missing())

    def location(self) -> Location:
        """A fresh place."""
        return self._ceph.location()

    def clear(self, location: Location) -> None:
        """Delete everything there, and return when the store has nothing to do any more."""
        if self._ceph.files.exists(location.url):
            self._ceph.files.rm(location.url, recursive=True)
        time.sleep(self._pause)
        end = time.monotonic() + PATIENCE
        while True:
            before = self.processor_time()
            time.sleep(0.5)
            if self.processor_time() - before <= QUIET:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"the store has not come to rest within {PATIENCE:.0f} s")

    def processor_time(self) -> float:
        """Return the processor seconds that the store has used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def stop(self) -> None:
        self._ceph.stop()
