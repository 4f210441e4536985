"""`holdfast rollback`: makes a checkpoint the newest of its run."""

from __future__ import annotations

import click

from holdfast.cli.target import given, open_run, reading
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.records import CheckpointRecord, LogState


@click.command(name="rollback")
@click.argument("target", metavar="RUN@STEP")
def command(target: str) -> None:
    """Make a checkpoint the newest of RUN: the next job goes on from there.

    It is read back first. Nothing is removed: what was newer becomes older, and retention treats it as such after the
    next save. A job that trains in RUN ends with an error at its next save, and so does one that has restored before,
    even with takeover=True. Start it again.
    """
    from holdfast.cli.output import Output, count, progress
    from holdfast_storage.checkpoint.verify import verify_checkpoint, verify_size
    from holdfast_storage.intervening import roll_back

    url, step = given(target)
    run = open_run(url)
    wanted = run.select(step)
    chain = run.state.chain(wanted)

    def select(state: LogState) -> CheckpointRecord:
        record = state.find(wanted.prefix)
        if record is None:
            raise InvalidRequest(f"{wanted.prefix} has been removed meanwhile: choose another, or pin it first")
        return record

    with reading(run, wanted):
        with progress("verify", lambda: sum(verify_size(run.store, each) for each in chain)) as advance:
            for each in chain:
                verify_checkpoint(run.store, each, progress=advance).raise_if_bad()
        before = roll_back(run.store, select)
    out = Output()
    if before is None:
        out.say(f"{run.store.url}@{step} is the newest checkpoint already")
        return
    newer = before.checkpoints[before.checkpoints.index(select(before)) + 1 :]
    older = f"what came after it stays, as older: {count(len(newer), 'checkpoint')}"
    out.say(f"{run.store.url}@{step} is the newest checkpoint now; {older}")
    if before.generation:
        out.say("a job that still trains there ends with an error at its next save: start it again")
