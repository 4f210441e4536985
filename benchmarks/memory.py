"""How much memory this process has at most while it does something. Linux only."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_KIB = 1024


class PeakMemory:
    """The largest resident size since `restart`, beside what the process had when this object was made.

    Before each measurement freed memory is handed back to the system: otherwise what an earlier save left in the
    allocator would hide what the next one takes. Memory that a contestant keeps for ever after its first save, such as
    the copy of the state that TensorFlow's `enable_async` keeps, counts.
    """

    def __init__(self) -> None:
        _give_back_free_memory()
        self._floor = _status("VmRSS")

    def restart(self) -> None:
        """Forget earlier peaks."""
        _give_back_free_memory()
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present size

    def extra(self) -> int:
        """Bytes that the peak since `restart` lies above the floor."""
        return _status("VmHWM") - self._floor


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"/proc/self/status has no {field}")


def _give_back_free_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries keep less
    if trim is not None:
        trim(0)
