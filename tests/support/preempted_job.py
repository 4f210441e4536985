"""Jobs of light workers in processes of their own, with notice for some of them: see tests/processes/programs."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGTERM
from typing import Any

from holdfast_storage.store import Store
from support.child import Child
from support.light_job import PROGRAMS, Start
from support.light_worker import committed

PREEMPTED = 143
ALONE = 77  # of a worker that has lost another one


def _serve(server: socket.socket, size: int) -> None:
    """A barrier: lets all go on when all are there, until one is gone."""
    links = []
    try:
        for _ in range(size):
            links.append(server.accept()[0])
            links[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while all(link.recv(1) == b"x" for link in links):
            for link in links:
                link.sendall(b"g")
    except OSError:
        pass
    finally:
        for link in links:
            link.close()


@contextmanager
def barrier(size: int) -> Iterator[int]:
    """The port of a barrier for so many workers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, size), daemon=True)
        thread.start()
        yield server.getsockname()[1]


@contextmanager
def job(start: Start, store: Store, size: int, **options: Any) -> Iterator[list[Child]]:
    """The workers of a job, once they train."""
    with barrier(size) as port:
        program = PROGRAMS / "preempted.py"
        workers = [start(program, store.url, index, size, port, json.dumps(options)) for index in range(size)]
        for worker in workers:
            worker.expect("training")
        yield workers
        for worker in workers:
            worker.kill()


def saves(worker: Child) -> list[tuple[int, int]]:
    """Boundary and step of each save of a worker that was asked for."""
    return [(int(b), int(s)) for line in worker.output for b, s in re.findall(r"^saves (\d+) (\d+)$", line)]


def notice(workers: list[Child], chance: random.Random, count: int = 1) -> float:
    """SIGTERM to some of them, at a random moment. When it was sent (monotonic)."""
    time.sleep(chance.uniform(0.0, 0.5))
    sent = time.monotonic()
    for worker in chance.sample(workers, count):
        worker.send(SIGTERM)
    return sent


def check_preempted(store: Store, workers: list[Child]) -> None:
    """All have saved at one boundary, that checkpoint is committed and whole, and all have ended by it."""
    codes = [worker.wait() for worker in workers]
    told = "\n".join(f"-- {index}\n" + "\n".join(worker.output) for index, worker in enumerate(workers))
    assert codes == [PREEMPTED] * len(workers), told
    assert len({tuple(saves(worker)) for worker in workers}) == 1, told
    assert saves(workers[0])[-1][1] == committed(store)[-1].step, told


def check_survivors(workers: list[Child]) -> None:
    """Nobody hangs, and no survivor has saved where another one has gone on."""
    codes = [worker.wait() for worker in workers]
    told = "\n".join(f"-- {index}\n" + "\n".join(worker.output) for index, worker in enumerate(workers))
    assert set(codes) <= {PREEMPTED, ALONE}, told
    assert len({tuple(saves(worker)) for worker in workers}) == 1, told
