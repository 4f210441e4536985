"""What strangers on the network cost a living job: `python -m benchmarks.attacks [KIND ...]`.

A world of two light workers saves all the time, once with the coordinator in the chief's process and once with one
that stands alone. Beside it strangers do what `support.attackers` knows, in turns of a few seconds with and without
them. The report is a table: the median of a save in both, their ratio, and the most memory and open files of the
coordinator's process. The strangers run on this machine, at the lowest priority, and take a part of its processors.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # where workers and strangers are

from holdfast_storage.store import open_store
from support.attackers import ATTACKS
from support.coordinator_process import coordinator
from support.light_worker import LightWorker, all_join, cluster_of, outcomes

ROUNDS = 3
SECONDS = 3.0
"""Of a turn."""

MANY = 10_000
"""Connections, where an attack is about their number."""

BETWEEN_LOOKS = 0.05
"""Seconds between two looks at the coordinator's process."""


class Job:
    """The job, in a process of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        command = [sys.executable, "-m", "benchmarks.attacks", "--job", str(folder / "run"), address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().split()[1]
        self.saves: list[tuple[float, float, bool]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            began, seconds, good = line.split()
            self.saves.append((float(began), float(seconds), good == "True"))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def main(*kinds: str) -> None:
    print("| coordinator | attack | done | save without | with | ratio | saves failed | memory at most | files |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for alone in (False, True):
        for kind in kinds or ATTACKS:
            # A fresh coordinator each: what one attack has left would be in the next one's figures.
            with job(alone) as (living, process):
                print(
                    f"| {'standalone' if alone else 'embedded'} | {kind} | {measured(kind, living, process)} |",
                    flush=True,
                )


@contextmanager
def job(alone: bool) -> Iterator[tuple[Job, psutil.Process]]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, coordinator(Path(name), start=alone) as address:
        living = Job(Path(name), address or "")
        try:
            children = psutil.Process().children()
            (process,) = [each for each in children if (each.pid == living.process.pid) != alone]
            yield living, process
        finally:
            living.stop()


def measured(kind: str, living: Job, process: psutil.Process) -> str:
    """Return the cells of an attack's row."""
    turns: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    said, memory, files, over = "", 0, 0, threading.Event()

    def look() -> None:
        nonlocal memory, files
        while not over.wait(BETWEEN_LOOKS):
            memory, files = max(memory, process.memory_info().rss), max(files, process.num_fds())

    looking = threading.Thread(target=look)
    looking.start()
    time.sleep(2.0)
    for _ in range(ROUNDS):
        turns[False].append((time.monotonic(), time.monotonic() + SECONDS))
        time.sleep(SECONDS)
        command = [sys.executable, "-m", "benchmarks.attacks", "--attack", kind, living.address]
        with subprocess.Popen(["nice", "-n19", *command], stdout=subprocess.PIPE, text=True) as strangers:
            assert strangers.stdout
            strangers.stdout.readline()  # they have begun
            turns[True].append((time.monotonic(), time.monotonic() + SECONDS))
            said = strangers.stdout.read().strip()
        time.sleep(0.5)
    over.set()
    looking.join()
    medians = {}
    for attacked, spans in turns.items():
        times = [s for at, s, _ in living.saves for begin, end in spans if begin <= at and at + s <= end]
        medians[attacked] = statistics.median(times) if times else float("inf")
    failed = sum(not good for _, _, good in living.saves)
    without, beside = medians[False], medians[True]
    milliseconds = f"{without * 1e3:.0f} ms | {beside * 1e3:.0f} ms | {beside / without:.2f}"
    return f"{said} | {milliseconds} | {failed} of {len(living.saves)} | {memory >> 20} MiB | {files}"


def save_for_ever(run: str, address: str) -> None:
    """Be the job."""
    logging.disable(logging.CRITICAL)
    workers = [
        LightWorker(open_store(run), index, cluster_of(2), coordinator=address, max_to_keep=3) for index in range(2)
    ]
    all_join(workers)
    embedded = workers[0].session._embedded
    print("joined", embedded.server.address if embedded else address, flush=True)
    step = 0
    while True:
        step, began = step + 1, time.monotonic()
        errors = outcomes([worker.save(step) for worker in workers])
        print(f"{began} {time.monotonic() - began} {errors == [None, None]}", flush=True)
        time.sleep(0.05)


def attack(kind: str, address: str) -> None:
    """Be the strangers."""
    print(ATTACKS[kind](address, SECONDS, MANY, lambda: print("begun", flush=True)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--job", run, address]:
            save_for_ever(run, address)
        case ["--attack", kind, address]:
            attack(kind, address)
        case kinds:
            main(*kinds)
