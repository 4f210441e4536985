"""Waiting for what goes on on a lane. Whoever waits long is told for whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from holdfast.session.lane import Lane, Pending
from holdfast.session.session import ASK_WITHIN, Session
from holdfast_storage.logger import logger

log = logger("holdfast")

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds after which a wait is told for the first time. Python shows warnings on stderr unless told otherwise."""


def wait_for(
    session: Session, pending: Pending[T], what: str, given_up: Callable[[float], bool] = lambda seconds: False
) -> bool:
    """Wait until the value is known or `given_up(seconds so far)` is true, and return whether it is known.

    After 5 seconds, and again whenever as many have passed, a warning says for whom this worker waits.
    """
    begun, patience = time.monotonic(), PATIENCE
    while not pending.wait(0.2):
        waited = time.monotonic() - begun
        if given_up(waited):
            return False
        if waited >= patience:
            reason = _reason(session)
            if not pending.is_known:
                log.warning("%s has been waiting %.0f s for %s: %s", session.this_task.task, waited, what, reason)
            patience *= 2
    return True


def _reason(session: Session) -> str:
    asking = Lane("holdfast-ask")
    try:
        answer = asking.submit(session.waits_for)
        return answer.result() if answer.wait(2 * ASK_WITHIN) else "the coordinator does not say for whom"
    except Exception as error:  # whoever was asked has failed, which changes nothing for the wait
        return str(error) or repr(error)
    finally:
        asking.end()  # otherwise an interrupt would leave its thread, which waits for a job for ever
