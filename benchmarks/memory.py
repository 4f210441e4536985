"""The memory of processes: how much one has at most while it does something, and none that is new. Linux only."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_KIB = 1024


class PeakMemory:
    """The largest resident size since the last `restart`, beside the size at that moment.

    Only the first look of a process is worth something: the allocator keeps most of what is freed, `malloc_trim` or
    not, so that whatever comes later is served from it and shows nothing.
    """

    def __init__(self) -> None:
        self._floor = 0

    def restart(self) -> None:
        """Forget earlier peaks."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries keep less
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present size
        self._floor = _status("VmRSS")

    def extra(self) -> int:
        """Bytes by which the peak since `restart` exceeds the size at that moment."""
        return _status("VmHWM") - self._floor


def touch(size: int) -> None:
    """Use so many bytes of memory once and give them back.

    On a virtual machine a page that was never used before can cost ten times what it costs later, because the host has
    to find it first. Whoever came first would pay for all who come after.
    """
    block = bytearray(b"\xff") * size
    del block


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"/proc/self/status has no {field}")
