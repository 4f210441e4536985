"""`holdfast save-now`: has a running job save at the next step that its workers agree on."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from holdfast.cli.target import RUN, open_directory

if TYPE_CHECKING:
    from holdfast_protos.v1 import coordinator_pb2 as pb
    from holdfast_storage.records import LogState
    from holdfast_storage.store import Store


ANSWERED_WITHIN = 30.0
"""Seconds for the workers' agreement."""

LOOKS_EVERY = 0.2
"""Seconds between two looks at the log."""


@click.command(name="save-now")
@RUN
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for the commit.")
def command(run: str, timeout: float) -> None:
    """Have the job that trains in RUN save, and wait until that is committed.

    Its program must call save_if_requested(). Whoever can read RUN may ask for this.
    """
    from holdfast.cli.output import Output
    from holdfast_storage.decision import CANCEL
    from holdfast_storage.errors import InvalidRequest, SaveFailed
    from holdfast_storage.log.log import Log
    from holdfast_storage.run_directory import read_run

    store = open_directory(run)
    state = read_run(store)
    if state and state.closed:
        raise InvalidRequest(f"{store.url}: {state.closed}")
    before = {record.prefix for record in state.checkpoints} if state else set()
    decision = _agreed(store, state)
    if decision.verb == CANCEL:
        raise SaveFailed(f"the workers have not agreed on a step to save: {decision.reason}", phase="ask")
    Output(stderr=True).say(f"all workers save at their boundary {decision.boundary}")
    log, end = Log(store), time.monotonic() + timeout
    while time.monotonic() < end:
        entry = log.tail()
        new = [record.prefix for record in entry.state.checkpoints if record.prefix not in before] if entry else []
        if new:
            Output().say(f"{store.url}/{new[-1]}")
            return
        time.sleep(LOOKS_EVERY)
    raise SaveFailed(
        f"boundary {decision.boundary} was agreed on, and nothing was committed within {timeout:.0f} s: does the "
        "program call save_if_requested() at each step?",
        phase="ask",
    )


def _agreed(store: Store, state: LogState | None) -> pb.Decision:
    """Return what the workers of the run have agreed on. Raises what keeps them from it."""
    from holdfast.cli.run_status import access_to, places_of
    from holdfast.session.hint import read_hint
    from holdfast_protos.client import Link, Refusal, Unreachable, is_of_another_host
    from holdfast_protos.v1 import coordinator_pb2 as pb
    from holdfast_storage.errors import CoordinatorUnavailable, Kind
    from holdfast_storage.failure_message import decode

    hint = read_hint(store)
    reasons = []
    for source, address, host in places_of(state, hint.address if hint else ""):
        if host and is_of_another_host(address, host):
            reasons.append(f"{address}, named by {source}: it can be asked only on {host}")
            continue
        try:
            with closing(Link(address, access_to(store, source))) as link:
                return link.request_save(pb.SaveRequest(run=link.run, timeout_s=ANSWERED_WITHIN), 2 * ANSWERED_WITHIN)
        except Refusal as refusal:
            failure = decode(refusal.failure)
            if failure.kind is not Kind.INVALID_REQUEST:
                raise failure.to_error() from None
            reasons.append(f"{address}, named by {source}: {failure.message}")
        except Unreachable as error:
            reasons.append(f"{address}, named by {source}: {error}")
    told = "; ".join(reasons) or "no coordinator is named there"
    raise CoordinatorUnavailable(f"nobody who trains in {store.url} can be asked to save ({told})", phase="ask")
