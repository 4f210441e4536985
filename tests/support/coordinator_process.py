"""`holdfast coordinator`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.training_world import free_addresses


@contextmanager
def coordinator(folder: Path, root: str = "", start: bool = True) -> Iterator[str | None]:
    """`holdfast coordinator`, for the runs below a root; its address.

    folder: for its log, and the root unless there is another.
    start: otherwise there is none, and its address is None.
    """
    if not start:
        yield None
        return
    (address,) = free_addresses(1)
    log = folder / "coordinator.log"
    command = [sys.executable, "-m", "holdfast.cli", "coordinator", "--root", root or str(folder), "--listen", address]
    with open(log, "wb") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            end = time.monotonic() + 60
            while f"listens on {address}" not in (text := log.read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.05)
            yield address
        finally:
            process.kill()
