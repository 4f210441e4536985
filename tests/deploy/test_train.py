"""launch.py and train.py as a Job runs them: one worker is killed, each container restarts by itself, the run ends."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

DEPLOY = Path(__file__).parents[2] / "deploy"
STEPS, SAVE_EVERY = 400, 100
DEADLINE_S = 150.0

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


def free_address() -> str:
    """An address with {index} in it, free for the indexes 0 and 1."""
    for tens in random.sample(range(1100, 3200), 50):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("", tens * 10))
                second.bind(("", tens * 10 + 1))
            except OSError:
                continue
            return f"localhost:{tens}{{index}}"
    raise AssertionError("no two free ports")


class Container:
    """One worker with `restart: on-failure`."""

    def __init__(self, index: int, address: str, directory: Path, logs: Path) -> None:
        self.log = logs / f"worker-{index}.log"
        self.ends: list[int] = []
        self._command = [sys.executable, str(DEPLOY / "launch.py"), sys.executable, "-u", str(DEPLOY / "train.py")]
        self._command += [str(directory), f"--steps={STEPS}", f"--save-every={SAVE_EVERY}"]
        self._environment = {
            **os.environ,
            "JOB_COMPLETION_INDEX": str(index),
            "WORKERS": "2",
            "WORKER_ADDRESS": address,
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart_if_failed(self) -> bool:
        """Whether it still has to end well."""
        status = self._process.poll()
        if status is not None:
            self.ends.append(status)
            if status != 0:
                self.start()
        return status != 0


def test_a_killed_worker_leads_to_a_world_that_resumes(tmp_path: Path) -> None:
    """After a worker was killed the world resumes. Guards against a survivor that hangs or ends with status 0, and a
    restarted worker that starts from scratch."""
    directory, address = tmp_path / "run", free_address()
    workers = [Container(index, address, directory, tmp_path) for index in range(2)]
    deadline, killed = time.monotonic() + DEADLINE_S, False
    try:
        unfinished = workers
        while unfinished:
            assert time.monotonic() < deadline, "\n".join(worker.log.read_text()[-2000:] for worker in workers)
            time.sleep(0.1)
            # The second save waits for the outcome of the first.
            if not killed and f"step {2 * SAVE_EVERY}: " in workers[0].log.read_text():
                workers[1].kill()
                killed = True
            unfinished = [worker for worker in unfinished if worker.restart_if_failed()]
        assert killed
        assert workers[1].ends == [-9, 0]
        assert workers[0].ends[-1] == 0
        assert set(workers[0].ends[:-1]) == {1}

        story = workers[0].log.read_text()
        first, second = re.findall(r"^restored (.*)$", story, re.MULTILINE)
        assert first == "None"
        assert re.search(r"/ckpt-[1-3]00$", second)
        state = read_run(open_store(str(directory)))
        assert state
        assert state.checkpoints[-1].step == STEPS

        # The run has ended: a worker that comes back alone must not wait for a world.
        workers[1].start()
        while workers[1].restart_if_failed():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert f"{directory} has ended at step {STEPS}" in workers[1].log.read_text()
    finally:
        for worker in workers:
            worker.kill()
