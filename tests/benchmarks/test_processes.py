"""The processes of the benchmark: what they are told, what they answer, and what they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from benchmarks.contestants.sharer import RawSharer
from benchmarks.memory import Watch, resident
from benchmarks.process import ContestantProcess, TurnFailed, answers


class Fake:
    """Does in its process what a test says."""

    def __init__(self, number: int) -> None:
        self.number = number

    def multiply(self, factor: int) -> int:
        return self.number * factor

    def fail(self) -> None:
        if self.number == 1:
            raise ValueError("no such bucket")
        time.sleep(600.0)  # as a collective call whose other side is gone

    def die(self) -> None:
        os._exit(3)


@pytest.fixture
def start() -> Any:
    started = []

    def processes(count: int) -> list[ContestantProcess]:
        started.extend(ContestantProcess(partial(Fake, number)) for number in range(count))
        return started

    yield processes
    for process in started:
        process._process.kill()
        process.stop()


def tell(processes: list[ContestantProcess], method: str, *arguments: Any) -> list[Any]:
    for process in processes:
        process.tell(method, *arguments)
    return answers(processes)


@pytest.mark.processes
def test_one_failure_is_told_though_another_process_hangs(start: Callable[[int], list[ContestantProcess]]) -> None:
    """A failure is reported even if another process hangs. Guards against a race that waits for a worker that waits for
    one that has failed."""
    processes = start(2)

    assert tell(processes, "multiply", 5) == [0, 5], "in the order of the processes"
    with pytest.raises(TurnFailed, match="ValueError: no such bucket"):
        tell(processes, "fail")


@pytest.mark.processes
def test_a_process_that_dies_is_a_failed_turn(start: Callable[[int], list[ContestantProcess]]) -> None:
    """A process that dies is a failed turn. Guards against waiting until the end for a worker that the system has
    killed."""
    with pytest.raises(TurnFailed, match="exit code 3"):
        tell(start(1), "die")


def test_files_in_memory_count_once() -> None:
    """Files in memory count once. Guards against counting a restore's nameless files twice because TensorFlow opens
    them again."""
    descriptor = os.memfd_create("held")
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    try:
        os.posix_fallocate(descriptor, 0, 256 << 20)
        before = resident()
        with Watch() as watch:
            pass
    finally:
        os.close(again)
        os.close(descriptor)

    assert 200 << 20 < watch.peak - before < 300 << 20


class Recording(RawSharer):
    """A store of objects in a dictionary."""

    objects: dict[str, bytes]

    def connect(self, url: str, storage_options: Mapping[str, Any]) -> None:
        del url, storage_options

    def write(self, objects: Mapping[str, memoryview]) -> None:
        self.objects |= {name: bytes(data) for name, data in objects.items()}

    def read(self, sizes: Mapping[str, int]) -> list[Any]:
        return [self.objects[name][:size] for name, size in sizes.items()]


def test_raw_clients_save_every_byte_once_and_restore_all() -> None:
    """Raw clients save every byte once and restore all. Guards against a bound that means nothing because a client
    saves less, or the same twice."""
    state = [np.full((4, 4), number, np.float32) for number in range(7)]
    store: dict[str, bytes] = {}
    for rank in range(3):
        client = Recording(rank, ["127.0.0.1:1"] * 3)
        client.objects = {}
        client.open(list(state), "s3://bucket/run", {})
        client.save()
        assert not store.keys() & client.objects.keys()
        store |= client.objects

    client.objects = store
    client.forget()
    client.restore()
    assert b"".join(client.restored()) == b"".join(each.tobytes() for each in state)
