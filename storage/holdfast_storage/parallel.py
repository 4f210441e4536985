"""A few threads for one list of jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """`[function(i) for i in items]`, at most `threads` at a time, in the order of `items`.

    The first error, an interrupt of the caller included, is raised when all threads have ended; items not begun by then
    are left out. Daemon threads and not an executor: this goes on while the interpreter exits, when an executor refuses
    work.
    """
    jobs = list(enumerate(items))
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    queue = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        while not errors:
            with lock:
                job = next(queue, None)
            if job is None:
                return
            try:
                results[job[0]] = function(job[1])
            except BaseException as error:
                errors.append(error)

    workers = [
        threading.Thread(target=work, name="holdfast-io", daemon=True) for _ in range(min(threads, len(jobs)) - 1)
    ]
    for worker in workers:
        worker.start()
    work()
    try:
        for worker in workers:
            worker.join()
    except BaseException as error:
        errors.append(error)
        for worker in workers:
            worker.join()
    if errors:
        raise errors[0]
    return [results[number] for number, _ in jobs]
