"""Real TensorFlow processes that a test commands: the workers of a `tf.distribute` cluster.

Importing TensorFlow takes a core for five seconds. So one process imports it, and nothing else, once, and the workers
are forks of it; and a world of workers runs one scenario after the other: a function `module.name` of
tests/training/programs, called with the same arguments in all workers. Everything has a deadline, and the processes
die with the one that started them.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import Any

from support.ports import free_address
from support.small_disk import SmallDisk

PROGRAMS = Path(__file__).parent.parent / "training" / "programs"
QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
DEADLINE = 120.0
"""Seconds for one scenario: many times what it takes."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tensorflow", "keras", "tf_keras"])


class WorldFailed(AssertionError):
    """A worker raised, died, or did not answer in time. The message ends with what it printed."""


class Worker:
    """One process of a world."""

    def __init__(self, name: str, log: Path, environment: Mapping[str, str], disk: SmallDisk | None) -> None:
        self.name = name
        self._log = log
        self._commands, theirs = _processes.Pipe()
        arguments = (theirs, str(log), environment, disk)
        self._process = _processes.Process(target=_obey, args=arguments, name=name, daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, scenario: str, arguments: Mapping[str, Any]) -> None:
        self._commands.send((scenario, arguments))

    def answer(self, deadline: float) -> Any:
        """Return the result of the scenario. WorldFailed if it raised or died, or if `deadline` (monotonic) passes."""
        if not self._commands.poll(max(0.0, deadline - time.monotonic())):
            raise WorldFailed(f"{self.name} did not answer in time\n{self.tail()}")
        try:
            returned, raised = self._commands.recv()
        except (EOFError, ConnectionResetError):
            raise WorldFailed(f"{self.name} died\n{self.tail()}") from None
        if raised:
            raise WorldFailed(f"{self.name} raised\n{raised}\n{self.tail()}")
        return returned

    def wait(self, seconds: float) -> int:
        """Its exit status, once it has ended; of a signal, the negative."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise WorldFailed(f"{self.name} has not ended in {seconds:.0f} s\n{self.tail()}")
        return self._process.exitcode

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, signal: Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.join()
        self._process.close()
        self._commands.close()

    def tail(self, lines: int = 40) -> str:
        text = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join([f"--- the end of what {self.name} printed ({self._log}):", *text[-lines:]])


class TrainingWorld:
    """The workers of one cluster; one alone is a process without a strategy.

    environments: variables of each worker, beside those that all have.
    disk: which they live inside.
    """

    def __init__(
        self,
        size: int,
        logs: Path,
        environments: Sequence[Mapping[str, str]] = (),
        *,
        disk: SmallDisk | None = None,
    ) -> None:
        self.size = size
        logs.mkdir(parents=True, exist_ok=True)
        cluster = {"worker": [free_address() for _ in range(size)]}
        self.failed = False
        self.workers = []
        for index in range(size):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": cluster, "task": task}) if size > 1 else "{}"
            environment = {"TF_CONFIG": config, **QUIET, **(environments[index] if environments else {})}
            self.workers.append(Worker(f"worker-{index}", logs / f"worker-{index}.log", environment, disk))

    def run(self, scenario: str, deadline_s: float = DEADLINE, **arguments: Any) -> list[Any]:
        """Run a scenario in all workers; what it returned in each, chief first. WorldFailed ends the world."""
        self.start(scenario, **arguments)
        return self.answers(deadline_s)

    def start(self, scenario: str, **arguments: Any) -> None:
        """Begin a scenario, which need not end."""
        self.failed = True  # for others, until it has ended
        for worker in self.workers:
            worker.tell(scenario, arguments)

    def answers(self, deadline_s: float = DEADLINE) -> list[Any]:
        """Return the results of the scenario that was started, as from `run`."""
        end = time.monotonic() + deadline_s
        answers = [worker.answer(end) for worker in self.workers]
        self.failed = False
        return answers

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def _obey(commands: Connection, log: str, environment: Mapping[str, str], disk: SmallDisk | None) -> None:
    """The main loop of a worker."""
    if disk is not None:
        disk.enter()
    os.environ.update(environment)
    tempfile.tempdir = None  # what was forked has looked already, perhaps
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, str(PROGRAMS))
    world = importlib.import_module("world").enter()
    for scenario, arguments in _received(commands):
        module, _, name = scenario.partition(".")
        try:
            answer = getattr(importlib.import_module(module), name)(world, **arguments), ""
        except BaseException:
            answer = None, traceback.format_exc()
        commands.send(answer)


def _received(commands: Connection) -> Any:
    """Commands, until there can be no more; ends the process if that is so in the midst of one, which may hang."""
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    idle = threading.Event()

    def receive() -> None:
        while True:
            try:
                arrived.put(commands.recv())
            except (EOFError, OSError):
                if not idle.is_set():
                    os._exit(1)
                arrived.put(None)
                return

    threading.Thread(target=receive, daemon=True).start()
    while True:
        idle.set()
        command = arrived.get()
        idle.clear()
        if command is None:
            return
        yield command
