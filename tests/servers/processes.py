"""The processes of one server: a temporary folder for them, a log, and an end for all of them together."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PATIENCE = 60.0
"""Seconds for a server to come up: many times what it takes."""


class ServerFailed(RuntimeError):
    """A server, or a command that sets it up, failed or did not answer in time. The message says where its log is."""


class Processes:
    """The processes of one server, until `stop()`. They also die with the process that started them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"holdfast-{name}-"))
        self.log = self.folder / "log"
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start a program that goes on running; what it prints goes to the log."""
        if threading.current_thread() is not threading.main_thread():
            # Linux tells the children of the death of the thread that started them, not of the process.
            raise ServerFailed(f"{self.name} is to be started from the main thread")
        with self.log.open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=os.environ | dict(environment or {}),
                    start_new_session=True,
                )
            )

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Run a program to its end; what it prints goes to the log."""
        with self.log.open("ab") as log:
            try:
                ended = subprocess.run(
                    list(map(str, command)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=os.environ | dict(environment or {}),
                    timeout=PATIENCE,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise self.failure(f"{command[0]} did not end within {PATIENCE:.0f} s") from None
        if ended.returncode:
            raise self.failure(f"{command[0]} ended with {ended.returncode}")

    def wait_for(self, port: int) -> None:
        """Return once HTTP is answered at a port of 127.0.0.1, whatever the answer."""
        end = time.monotonic() + PATIENCE
        while not _answers(port):
            if any(process.poll() is not None for process in self._running):
                raise self.failure("it ended")
            if time.monotonic() > end:
                raise self.failure(f"it did not answer at port {port} within {PATIENCE:.0f} s")
            time.sleep(0.02)

    def failure(self, what: str) -> ServerFailed:
        """The error to raise; nothing runs any more, but the log stays."""
        self._kill()
        end = self.log.read_text(errors="replace").splitlines()[-30:] if self.log.exists() else []
        return ServerFailed("\n".join([f"{self.name} could not be started: {what}. Its log is {self.log}:", *end]))

    def stop(self) -> None:
        """End all of them with their children, and remove their folder."""
        self._kill()
        shutil.rmtree(self.folder)

    def _kill(self) -> None:
        for process in reversed(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
