"""`holdfast demo`: a training run loses a worker in the middle of a save, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from holdfast.demo.cast import Cast


directory = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Where to write everything. An earlier demo there is replaced.",
)


@click.command(name="demo")
@directory
@click.option("--workers", type=click.IntRange(2, 8), default=3, show_default=True, help="The number of workers.")
def command(directory: Path, workers: int) -> None:
    """Kill a worker in mid-save, resume, and compare bit by bit.

    Several workers train on real data. One is killed in the middle of a save, all are started again, and the result is
    compared with an uninterrupted run.

    This takes about two minutes on 2 cores and uses no network but 127.0.0.1. Exit status 0: the resumed run ended
    bit-equal to the uninterrupted one.
    """
    from holdfast.demo.cast import Workers

    tell(directory, Workers(workers))


def tell(directory: Path, cast: Cast) -> None:
    """Run a demo, and end with its verdict."""
    from holdfast.demo.processes import ProcessFailed
    from holdfast.demo.story import Story

    # Like Ctrl-C: this unwinds the stack, which ends every process that was started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        equal = Story(directory, cast, click.echo).tell()
    except ProcessFailed as error:
        raise click.ClickException(str(error)) from error
    if not equal:
        click.get_current_context().exit(1)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
