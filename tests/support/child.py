"""Programs that run as processes and are talked with line by line. They end with the test, whatever happens."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals

import psutil

TESTS = Path(__file__).parents[1]
PATIENCE = 60.0


class Child:
    """A Python program with its stdin, stdout and stderr.

    Args:
        arguments: of the interpreter: "-m" and a module, or a file, and what it is to be told.
        environment: added to this process's own.
        prefix: of the command, such as that of a `SmallDisk`.
        patience: seconds for anything that is expected of it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._process = subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
            | dict(environment or {}),
        )
        self.output: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="child")
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def expect(self, part: str) -> str:
        """The next line of the output that holds a text."""
        while True:
            try:
                line = self._lines.get(timeout=self._patience)
            except queue.Empty:
                line = None
            assert line is not None, f"{part!r} did not come:\n" + "\n".join(self.output)
            if part in line:
                return line

    def send(self, signal: Signals) -> None:
        self._process.send_signal(signal)

    def await_stop(self) -> None:
        """Wait until a signal has stopped the child."""
        end = time.monotonic() + PATIENCE
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end, "it goes on:\n" + "\n".join(self.output)
            time.sleep(0.002)

    def wait(self) -> int:
        """Its exit status, and all of its output is there."""
        status = self._process.wait(self._patience)
        self._reader.join(PATIENCE)
        return status

    def kill(self) -> None:
        """SIGKILL, if it still runs; it is gone, and all of its output is there."""
        self._process.kill()
        self.wait()

    def end(self) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line.rstrip("\n"))
            self._lines.put(self.output[-1])
        self._lines.put(None)
