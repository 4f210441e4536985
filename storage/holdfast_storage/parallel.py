"""A few threads for one list of jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LOOK_EVERY = 0.2
"""Seconds between checks of who is busy, in case an interrupt has swallowed the message that somebody has ended."""

WAVE = 1_000
"""Items that are taken at a time."""

INSISTS = 100
"""Interrupts after which a caller no longer waits for the threads that are still at work."""


def in_parallel(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Return `[function(i) for i in items]`, calling at most `threads` at a time, in the order of `items`.

    The first error, or an interrupt of the caller, is raised when no call of `function` is running any more; the other
    items are skipped. If the host cannot start more threads, fewer do the work. The caller takes a thousand items at a
    time, when those before are done: they may be more than memory can hold, and end early.

    The threads are daemons, not an executor's: an executor refuses work while the interpreter exits.
    """
    results: list[R] = []
    remaining = iter(items)
    while wave := list(islice(remaining, WAVE)):
        results += _wave(function, wave, threads)
    return results


def _wave(function: Callable[[T], R], items: list[T], threads: int) -> list[R]:
    jobs = list(enumerate(items))
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    # An exception of a signal handler may come between any two steps of the caller. So shared state changes in
    # single steps, and a thread itself says whether it is at work. `Thread.join` does not know: it takes
    # a thread for ended once it was interrupted there.
    queue = iter(jobs)
    busy: set[int] = set()
    changed: SimpleQueue[None] = SimpleQueue()

    def work() -> None:
        while not errors:
            job = next(queue, None)
            if job is None:
                return
            try:
                results[job[0]] = function(job[1])
            except BaseException as error:
                errors.append(error)

    def help_out(number: int) -> None:
        busy.add(number)  # before it looks for work: the caller checks in the other order
        try:
            work()
        finally:
            busy.discard(number)
            changed.put(None)

    begun = False
    while len(errors) < INSISTS:
        try:
            if not begun:
                begun = True
                for number in range(1, min(threads, len(jobs))):
                    if not _started(help_out, number):
                        break
            work()
            while busy:
                try:
                    changed.get(timeout=LOOK_EVERY)
                except Empty:
                    continue
            break
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return [results[number] for number, _ in jobs]


def _started(target: Callable[[int], None], number: int) -> bool:
    """Start a thread, and return whether the host could."""
    try:
        threading.Thread(target=target, args=(number,), name="holdfast-io", daemon=True).start()
    except RuntimeError as error:
        # Told by its words: an interrupt in `start` may come as a RuntimeError as well.
        if "start new thread" not in str(error):
            raise
        return False
    return True
