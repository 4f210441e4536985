"""A cluster with parameter servers, each of whose processes a test starts, commands, ends and starts again.

A task is named as everywhere: `chief-0`, `worker-0`, `ps-1`. The chief runs one scenario after the other, as the
workers of a `TrainingWorld` do; the others run one that does not end. TensorFlow's servers ignore SIGTERM, so whatever
is left is ended by SIGKILL.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from support.ports import free_address
from support.training_world import QUIET, Worker

CHIEF = "chief-0"
DEADLINE = 60.0
"""Seconds for one scenario. TensorFlow's chief waits without end for a server that is not there."""

ROLES = {"worker": "serving.work", "ps": "serving.serve"}
"""The scenario of each job type but the chief's."""


class ServerWorld:
    """The processes of one cluster. They are started by `start`, and end with `close`.

    folder: for what they print, and for the faults that a test arranges (see programs/serving.py).
    """

    def __init__(self, folder: Path, servers: int = 2, workers: int = 1) -> None:
        self._folder = folder
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        sizes = {"chief": 1, "worker": workers, "ps": servers}
        self.cluster = {job: [free_address() for _ in range(size)] for job, size in sizes.items()}
        self.names = [f"{job}-{index}" for job, size in sizes.items() for index in range(size)]
        self.running: dict[str, Worker] = {}
        self._left: list[Worker] = []

    @property
    def chief(self) -> Worker:
        return self.running[CHIEF]

    def start(self, *names: str) -> None:
        """Start those of these tasks, or of all, that do not run."""
        for name in names or self.names:
            if name in self.running and not self.running[name].is_alive:
                self.kill(name)
            if name not in self.running:
                job, _, index = name.partition("-")
                task = {"type": job, "index": int(index)}
                config = json.dumps({"cluster": self.cluster, "task": task})
                # As TensorFlow's tutorial has it, so that the loss of a server is reported at once.
                environment = {"TF_CONFIG": config, "GRPC_FAIL_FAST": "use_caller", **QUIET}
                log = self._folder / f"{name}.log"
                self.running[name] = Worker(name, log, environment, None)
                if job in ROLES:
                    arguments = {"faults": str(self.faults)} if job == "ps" else {}
                    self.running[name].tell(ROLES[job], arguments)

    def kill(self, *names: str) -> None:
        """SIGKILL these tasks; they are gone."""
        for name in names:
            self.running.pop(name).close()

    def replace_chief(self) -> Worker:
        """Start another chief, at another address, beside the one there is, which is returned and may be frozen."""
        before = self.running.pop(CHIEF)
        self._left.append(before)
        self.cluster = {**self.cluster, "chief": [free_address()]}
        self.start(CHIEF)
        return before

    def restart(self, *dead: str) -> None:
        """Kill these tasks and the chief, and start them anew: what a cluster manager does when a task has failed."""
        self.kill(*(name for name in {CHIEF, *dead} if name in self.running))
        self.start()

    def run(self, scenario: str, deadline_s: float = DEADLINE, **arguments: Any) -> Any:
        """Run a scenario in the chief; what it returned. WorldFailed."""
        return ask(self.chief, scenario, deadline_s, **arguments)

    def arrange(self, name: str, phase: str, fault: str) -> None:
        """Have a server meet a fault when it next comes to a phase."""
        (self.faults / f"{name}.{phase}").write_text(fault)

    def hold(self, name: str, phase: str) -> Path:
        """Have a server wait when it next comes to a phase: then there is this file, and it goes on without it."""
        self.arrange(name, phase, "hold")
        return self.faults / f"{name}.{phase}.held"

    def close(self) -> None:
        for worker in [*self.running.values(), *self._left]:
            worker.close()
        self.running.clear()
        self._left.clear()


def ask(worker: Worker, scenario: str, deadline_s: float = DEADLINE, **arguments: Any) -> Any:
    """Run a scenario in a process; what it returned. WorldFailed."""
    worker.tell(scenario, arguments)
    return worker.answer(time.monotonic() + deadline_s)
