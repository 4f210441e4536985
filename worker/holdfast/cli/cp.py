"""`holdfast cp`: copies checkpoints into another run directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from holdfast.cli.target import TARGET, Run, open_run, parse_target, reading
from holdfast_storage.errors import InvalidRequest

if TYPE_CHECKING:
    from holdfast_storage.copying import Copying
    from holdfast_storage.records import CheckpointRecord


@click.command(name="cp")
@TARGET
@click.argument("out", metavar="OUT")
def command(target: str, out: str) -> None:
    """Copy checkpoints into a run directory of their own, in any storage.

    Without STEP these are all of RUN that are restorable, the newest first. A delta brings all that it is made on. OUT
    is a path or URL of a directory that does not exist, is empty, or has been made by this command from the same run:
    then it goes on where it was interrupted, or adds what is new. Every byte is verified as it is read; `holdfast
    verify OUT` reads the copy back. A job that starts in OUT goes on from its newest checkpoint. The log is not copied,
    nor are tags, nor marks of pinned, damaged or preserved checkpoints.
    """
    from holdfast.cli.output import Output, count
    from holdfast_storage.copying import Copying
    from holdfast_storage.store import open_store

    url, step = parse_target(target)
    run = open_run(url)
    wanted = run.state.restorable if step is None else (run.select(step),)
    records = [record for record in wanted if record in run.state.restorable and not record.stock]
    if not records:
        which = "no checkpoint" if step is None else f"step {step} is none"
        why = run.state.closed or f"{which} that Holdfast has saved and nobody has found damaged"
        raise InvalidRequest(f"{run.store.url}: {why}")
    copying = Copying(run.store, run.state, open_store(out))
    copied = sum(1 for _ in copy(copying, run, records))
    copying.finish()
    said = Output()
    said.say(f"{out}: {count(copied, 'checkpoint')} of {run.store.url}")
    if gone := len(records) - copied:
        said.say(f"{count(gone, 'checkpoint')} had been removed by the job that trains there")
    if left := len(wanted) - len(records):
        said.say(f"left out, as TensorFlow itself wrote them: {left}")


def copy(
    copying: Copying, run: Run, records: Sequence[CheckpointRecord], reader: str = ""
) -> Iterator[CheckpointRecord]:
    """Copy checkpoints, the newest first, each under a lease of `reader`, and yield those that still were there."""
    from holdfast.cli.output import progress

    for record in reversed(records):
        if record.prefix not in run.live_now():  # removed by a running job's retention, before it has a lease
            continue
        size = partial(copying.size, record)
        with reading(run, record, reader), progress(f"step {record.step}", size) as advance:
            copying.copy(record, advance)
        yield record
