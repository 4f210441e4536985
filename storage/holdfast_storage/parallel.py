"""A few threads for one list of jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LOOK_EVERY = 0.2
"""Seconds between looks at who is busy, should an interrupt have swallowed the word that somebody no longer is."""

INSISTS = 100
"""Interrupts of one caller, waiting for those who are at work, after which it has its way."""


def in_parallel(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """`[function(i) for i in items]`, at most `threads` at a time, in the order of `items`.

    The first error, an interrupt of the caller included, is raised when no call of `function` goes on any more; items
    not begun by then are left out. Where the host can start no more threads, fewer do the work.

    Daemon threads and not an executor: this goes on while the interpreter exits, when an executor refuses work.
    """
    jobs = list(enumerate(items))
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    # An exception of a signal handler may come between any two of the caller's steps. So what is shared changes in
    # single steps, and whether a thread is at work is what it says itself, never what `Thread.join` says, which takes
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
        busy.add(number)  # before it looks whether there is anything to do: the caller looks the other way round
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
    """Whether the host could start a thread for it."""
    try:
        threading.Thread(target=target, args=(number,), name="holdfast-io", daemon=True).start()
    except RuntimeError as error:
        # By its words: an interrupt amid `start` may come as a RuntimeError as well.
        if "start new thread" not in str(error):
            raise
        return False
    return True
