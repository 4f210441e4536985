"""The open sessions of this process. They end in order when the interpreter exits, and not at all in a fork.

A manager that was a local variable of a function may be gone by then.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import os
import threading
import time
from dataclasses import dataclass
from functools import partial

from holdfast.session.lane import Lane, Pending
from holdfast.session.session import Session
from holdfast.session.waiting import wait_for
from holdfast_storage.logger import logger

log = logger("holdfast")

CLOSE_PATIENCE = 60.0
"""Seconds for which closing waits for the other workers."""

CLOSING = "the save in flight, and for the other workers to end"
"""What closing waits for, in words."""


@dataclass(slots=True)
class _Opened:
    lane: Lane
    ending: Pending[None] | None = None  # set by whoever ends it first
    until: float | None = None  # monotonic: the host is gone then, so nobody waits for longer

    @property
    def is_late(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until


_open: dict[Session, _Opened] = {}

_inherited: list[dict[Session, _Opened]] = []
"""In a fork: what the parent has open and will end. It is kept, since dropping it would end it."""


def enter(session: Session) -> Lane:
    """Register a session, to be ended when the program ends. Return the lane for all its work."""
    opened = _open[session] = _Opened(Lane("holdfast-calls"))
    return opened.lane


def hurry(session: Session, until: float) -> None:
    """Let nobody wait for the end of a session for longer than until a moment (monotonic)."""
    if (opened := _open.get(session)) is not None:
        opened.until = until


def leave(session: Session) -> Pending[None]:
    """End a session after all work of its lane; the result is known then. May be interrupted, and repeated."""
    opened = _open.get(session)
    if opened is None or not session.has_joined:
        # Nothing is in flight that an interrupt could lose, and a join in progress must give up.
        _close(session)
        if opened is not None:
            opened.lane.end()
        ended: Pending[None] = Pending()
        ended.set(None)
        return ended
    if opened.ending is None:
        opened.ending = opened.lane.submit(partial(_close, session))
        opened.lane.end()
    return opened.ending


def await_end(session: Session, left: Pending[None]) -> bool:
    """Wait until a session has ended, or is to be waited for no longer. Return whether it has."""
    opened = _open.get(session)
    return wait_for(session, left, CLOSING, lambda _: opened is not None and opened.is_late)


def beside(session: Session) -> list[Session]:
    """Return the open sessions of the same process and task on the same run, this one included."""
    here = (session.process, session.url, session.this_task.task)
    return [other for other in list(_open) if (other.process, other.url, other.this_task.task) == here]


def is_ours(thread: threading.Thread) -> bool:
    """Return whether a thread works for some session. What runs there must not wait for a session."""
    return thread.name.startswith("holdfast-")


def _close(session: Session) -> None:
    session.close(_patience(_open.get(session)))
    _open.pop(session, None)


def _patience(opened: _Opened | None) -> float:
    """Return the seconds for which the end of a session may wait."""
    if opened is None or opened.until is None:
        return CLOSE_PATIENCE
    return min(CLOSE_PATIENCE, max(0.0, opened.until - time.monotonic()))


def _close_all(*, last: bool = False) -> None:
    """End all sessions when the main thread ends. While other threads are still training, their sessions stay open."""
    pools = concurrent.futures.thread._threads_queues
    if _open:
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread() and thread not in pools:
                thread.join()  # Python would do so next, but only after pools refuse work
    for session, opened in list(_open.items()):
        caller = opened.lane.caller
        if not last and caller in pools and caller is not None and caller.is_alive():
            continue  # it ends with its pool, which waits for the session's work
        try:
            await_end(session, leave(session))
        except Exception as error:
            log.warning("%s: did not leave in good order: %s", session.this_task.task, error)


def _leave_to_parent() -> None:
    """Leave the parent's sessions to the parent. A fork, such as one of `multiprocessing`, would take the parent out of
    its world, or wait for threads that it does not have."""
    if _open:
        _inherited.append(dict(_open))
        _open.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

# This must come before thread pools, fsspec's included, refuse work, which is earlier than `atexit`. They do so in a
# callback of the same kind, registered when `concurrent.futures.thread` is imported. Last in, first called.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]
atexit.register(_close_all, last=True)
