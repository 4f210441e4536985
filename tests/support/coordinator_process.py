"""`holdfast coordinator`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_address


class CoordinatorProcess:
    """One process after the other, at one address, for the runs below a root.

    folder: for its log, and the root unless there is another.
    """

    def __init__(self, folder: Path, root: str = "") -> None:
        self.address = free_address()
        self.log = folder / "coordinator.log"
        arguments = ["coordinator", "--root", root or str(folder), "--listen", self.address]
        self._command = [sys.executable, "-m", "holdfast.cli", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start one. It need not listen yet."""
        assert self._process is None
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log)

    def await_listening(self) -> None:
        assert self._process is not None
        end = time.monotonic() + 60
        while f"listens on {self.address}" not in (text := self.log.read_text()):
            assert self._process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def coordinator(folder: Path, root: str = "", start: bool = True) -> Iterator[str | None]:
    """The address of a `CoordinatorProcess` that listens. start: otherwise there is none, and its address is None."""
    if not start:
        yield None
        return
    process = CoordinatorProcess(folder, root)
    process.start()
    try:
        process.await_listening()
        yield process.address
    finally:
        process.kill()
