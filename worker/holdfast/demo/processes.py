"""The processes of the demo. Each has its own log, and is ended by its pid, whatever happens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from signal import SIGKILL, Signals

from holdfast_protos.client import is_listening

LOCALHOST = "127.0.0.1"

# Runs first in each process, so that it dies with this one: not even SIGKILL of the demo leaves any behind.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class ProcessFailed(Exception):
    """A process of the demo ended or got stuck when it should not. The message holds the ends of the logs."""


class Process:
    """A Python module that runs as a process, with stdout and stderr appended to `log`."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]):
        self.name = name
        self.log = log
        with open(log, "ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches only the demo, which then ends them in order
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the process runs; as in `subprocess`."""
        return self._popen.poll()

    def send(self, signal: Signals) -> None:
        """Send a signal, unless the process has ended."""
        self._popen.send_signal(signal)

    def end(self, signal: Signals = SIGKILL, patience_s: float = 10.0) -> None:
        """End the process by a signal, at last by SIGKILL, and wait until it is gone."""
        self.send(signal)
        try:
            self._popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, under the process's name and state."""
        state = "is running" if self.returncode is None else f"ended with status {self.returncode}"
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.name} (pid {self.pid}) {state}; the end of {self.log}:", *text])


class Fleet:
    """All processes of the demo. Leaving the context ends those that still run."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[Process] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.end()

    def start_coordinator(self, root: Path, deadline_s: float = 60.0) -> tuple[Process, str]:
        """Start `holdfast coordinator`. Return it and its address once it listens."""
        (address,) = free_addresses(1)
        arguments = ["coordinator", "--root", str(root), "--listen", address]
        process = self._start("coordinator", "holdfast.cli", arguments, {})
        wait_until(lambda: is_listening(address, 1.0), [process], deadline_s, "the coordinator to listen")
        return process, address

    def start_cluster(
        self, jobs: Mapping[str, int], run: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> list[Process]:
        """Start a program once for each task of a cluster on free local ports. jobs: how many tasks each type has."""
        free = iter(free_addresses(sum(jobs.values())))
        cluster = {job: list(islice(free, count)) for job, count in jobs.items()}
        return [
            self._start(
                f"{run}, {job} {index}",
                module,
                arguments,
                {
                    "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}),
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "OMP_NUM_THREADS": "1",
                    **environment,
                },
            )
            for job, count in jobs.items()
            for index in range(count)
        ]

    def _start(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        log = self._logs / f"{name.replace(', ', '-').replace(' ', '-')}.log"
        process = Process(name, module, arguments, log, environment)
        self._processes.append(process)
        return process


def wait_until(
    condition: Callable[[], bool],
    processes: Sequence[Process],
    deadline_s: float,
    what: str,
    poll_s: float = 0.05,
) -> None:
    """Return once `condition()` holds; raise ProcessFailed if a process ends badly first or the deadline passes."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        failed = [p for p in processes if p.returncode not in (None, 0)]
        if failed or time.monotonic() > deadline:
            why = f"{failed[0].name} failed" if failed else f"{deadline_s:.0f} s were not enough"
            tails = "\n".join(p.tail() for p in (failed or processes))
            raise ProcessFailed(f"While waiting for {what}: {why}.\n{tails}")
        time.sleep(poll_s)


def free_addresses(count: int) -> list[str]:
    """Return addresses of this machine alone on which nobody listens now."""
    sockets = [socket.create_server((LOCALHOST, 0)) for _ in range(count)]
    addresses = [f"{LOCALHOST}:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses
