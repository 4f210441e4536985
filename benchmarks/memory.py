"""The memory of processes: how much one has at most while it does something, and none that is new. Linux only."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_KIB = 1024
_INTERVAL = 0.01


class PeakMemory:
    """The largest resident size since the last `restart`, beside the size at that moment.

    Only the first look of a process is worth something: the allocator keeps most of what is freed, `malloc_trim` or
    not, so that whatever comes later is served from it and shows nothing.
    """

    def __init__(self) -> None:
        self._floor = 0

    def restart(self) -> None:
        """Forget earlier peaks."""
        self._floor = resident()
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present size

    def extra(self) -> int:
        """Return the bytes by which the peak since `restart` exceeds the size at that moment."""
        return _status("VmHWM") - self._floor


class Watch:
    """What a process has at most meanwhile, nameless files in memory included, which are in no process's size.

    Looks a hundred times a second: whoever is timed is not watched.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.peak = max(self.peak, _status("VmRSS") + _in_files())
            if self._done.wait(_INTERVAL):
                return


def resident() -> int:
    """Return the bytes that this process has in memory, after giving back all that it can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries keep less
    if trim is not None:
        trim(0)
    return _status("VmRSS")


def touch(size: int) -> None:
    """Use so many bytes of memory once and give them back.

    On a virtual machine a page that was never used before can cost ten times what it costs later, because the host has
    to find it first. Whoever came first would pay for all who come after.
    """
    block = bytearray(b"\xff") * size
    del block


def _in_files() -> int:
    sizes = {}  # a file may be open more than once
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed in between
            if os.readlink(link).startswith("/memfd:"):
                file = link.stat()
                sizes[file.st_ino] = file.st_blocks * 512
    return sum(sizes.values())


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"/proc/self/status has no {field}")
