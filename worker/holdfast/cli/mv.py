"""`holdfast mv`: moves a run, or a step of it, to another storage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from holdfast.cli.cp import copy
from holdfast.cli.target import TARGET, Run, open_directory, open_run, parse_target
from holdfast_storage.errors import InvalidRequest, StorageError

if TYPE_CHECKING:
    from holdfast_storage.moving import Moving
    from holdfast_storage.records import CheckpointRecord, LogState
    from holdfast_storage.store import Store

ROUNDS = 10
"""How often what a job has saved meanwhile is copied as well."""


@click.command(name="mv")
@TARGET
@click.argument("out", metavar="OUT")
def command(target: str, out: str) -> None:
    """Move a run, or one checkpoint of it, to another directory, in any storage.

    Without STEP, all that is restorable is copied, as by `holdfast cp`, and read back. Then the run is closed: its job
    ends at its next save, none saves there any more, and whoever tries is told OUT. In OUT it goes on, with its pins
    and all else that is known of its checkpoints. Then the checkpoints in RUN are deleted; its log stays as the sign.
    Refused are a run whose newest checkpoint was written by TensorFlow itself, and one from which somebody reads.

    With STEP, its checkpoint is copied, read back, and then removed as by `holdfast rm`, which refuses some.

    At any moment each checkpoint is whole in one of the two. If this is interrupted, the same command goes on.
    """
    from holdfast_storage.moving import Moving
    from holdfast_storage.store import open_store

    url, step = parse_target(target)
    store, to = open_directory(url), open_store(out)
    if to.url.startswith("memory://"):
        raise InvalidRequest(f"{to.url} ends with this command, and what is moved there with it")
    moving = Moving(store, to)
    if step is None:
        _move_run(moving, store, to)
    else:
        _move_step(moving, store, to, step)


def _move_run(moving: Moving, store: Store, out: Store) -> None:
    from holdfast.cli.output import Output, count, working

    sound: set[str] = set()
    for _ in range(ROUNDS):
        if moving.is_closed:
            break
        run = open_run(store.url)
        _copy(moving, run, moving.records(run.state), out, sound)
        moving.close(sound)
    if not moving.is_closed:
        raise InvalidRequest(f"the job that trains in {store.url} saves faster than it can be copied: end it first")
    with working(f"deleting in {store.url}"):
        left = moving.finish()
    said = Output()
    said.say(f"{store.url} was moved to {out.url}")
    if left:
        said.say(f"left there, as damaged: {count(left, 'checkpoint')}")


def _move_step(moving: Moving, store: Store, out: Store, step: int | str) -> None:
    from holdfast.cli.output import Output
    from holdfast_storage.intervening import delete_retired, remove
    from holdfast_storage.run_directory import read_run

    there = read_run(out)
    copied = there is not None and any(record.step == step for record in there.checkpoints)
    if not (copied and delete_retired(store, step)):  # it is removed already, and its folder was left
        sound: set[str] = set()
        run = open_run(store.url)
        record = run.select(step)
        if why := run.state.release(moving.reader).keeps(record):
            raise InvalidRequest(f"{record.prefix} {why}")
        if record not in run.state.restorable:
            raise InvalidRequest(f"{record.prefix} is marked as damaged, or needs what is: it is not copied")
        _copy(moving, run, [record], out, sound)
        if record.prefix not in sound:
            raise InvalidRequest(f"retention has removed {record.prefix} meanwhile: choose another, or pin it first")
        remove(store, partial(_same, record))
    Output().say(f"{store.url}@{step} was moved to {out.url}")


def _same(record: CheckpointRecord, state: LogState) -> CheckpointRecord:
    found = state.find(record.prefix)
    if found is None:
        raise InvalidRequest(f"{record.prefix} was copied, and is not there any more: somebody else has removed it")
    return found


def _copy(moving: Moving, run: Run, records: Sequence[CheckpointRecord], out: Store, sound: set[str]) -> None:
    """Copy checkpoints, and read back what is not known to be sound in its new place, with all that it is made on: at
    what was there before, a copy only looks."""
    from holdfast.cli.output import progress
    from holdfast_storage.checkpoint.verify import verify_checkpoint, verify_size
    from holdfast_storage.copying import Copying

    copying = Copying(run.store, run.state, out)
    for record in copy(copying, run, records, moving.reader):
        for each in run.state.chain(record):
            if each.prefix in sound:
                continue
            with progress(f"reading step {each.step} back", partial(verify_size, out, each)) as advance:
                report = verify_checkpoint(out, each, progress=advance)
            if report.problems:
                found = "; ".join(f"{problem.object} {problem.reason}" for problem in report.problems[:5])
                told = f"{out.url}/{each.folder} is not what was copied there: {found}"
                raise StorageError(f"{told}. Nothing was moved: delete that folder, and go on", object=each.folder)
            sound.add(each.prefix)
    copying.finish()
