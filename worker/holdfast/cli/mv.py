"""`holdfast mv`: moves a run to another storage."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from holdfast.cli.cp import copy
from holdfast.cli.target import RUN, Run, open_directory, open_run
from holdfast_storage.errors import InvalidRequest, StorageError

if TYPE_CHECKING:
    from holdfast_storage.moving import Moving
    from holdfast_storage.records import CheckpointRecord
    from holdfast_storage.store import Store

ROUNDS = 10
"""How often what a job has saved meanwhile is copied as well."""


@click.command(name="mv")
@RUN
@click.argument("out", metavar="OUT")
def command(run: str, out: str) -> None:
    """Move a run to another directory, in any storage.

    All that is restorable is copied, as by `holdfast cp`, and read back. Then the run is closed: its job ends at its
    next save, none saves there any more, and whoever tries is told OUT. In OUT it goes on, with its pins and all else
    that is known of its checkpoints. Then the checkpoints in RUN are deleted; its log stays as the sign. At any moment
    each checkpoint is whole in one of the two. If this is interrupted, the same command goes on.

    Refused are a run whose newest checkpoint was written by TensorFlow itself, and one from which somebody reads.
    """
    from holdfast.cli.output import Output, count, working
    from holdfast_storage.moving import Moving
    from holdfast_storage.store import open_store

    store, to = open_directory(run), open_store(out)
    if to.url.startswith("memory://"):
        raise InvalidRequest(f"{to.url} ends with this command, and the run with it")
    moving = Moving(store, to)
    _copy_and_close(moving, store, to)
    with working(f"deleting in {store.url}"):
        left = moving.finish()
    said = Output()
    said.say(f"{store.url} was moved to {to.url}")
    if left:
        said.say(f"left there, as damaged: {count(left, 'checkpoint')}")


def _copy_and_close(moving: Moving, store: Store, out: Store) -> None:
    from holdfast_storage.copying import Copying

    sound: set[str] = set()
    for _ in range(ROUNDS):
        if moving.is_closed:
            return
        run = open_run(store.url)
        copying = Copying(run.store, run.state, out)
        for record in copy(copying, run, moving.records(run.state), moving.reader):
            _read_back(run, record, out, sound)
        copying.finish()
        moving.close(sound)
    if not moving.is_closed:
        raise InvalidRequest(f"the job that trains in {store.url} saves faster than it can be copied: end it first")


def _read_back(run: Run, record: CheckpointRecord, out: Store, sound: set[str]) -> None:
    """Verify a checkpoint in its new place, with all that it is made on: what was there before was only looked at."""
    from holdfast.cli.output import progress
    from holdfast_storage.checkpoint.verify import verify_checkpoint, verify_size

    for each in run.state.chain(record):
        if each.prefix in sound:
            continue
        with progress(f"reading step {each.step} back", partial(verify_size, out, each)) as advance:
            report = verify_checkpoint(out, each, progress=advance)
        if report.problems:
            found = "; ".join(f"{problem.object} {problem.reason}" for problem in report.problems[:5])
            told = f"{out.url}/{each.folder} is not what was copied there: {found}"
            raise StorageError(f"{told}. The run is where it was: delete that folder, and go on", object=each.folder)
        sound.add(each.prefix)
