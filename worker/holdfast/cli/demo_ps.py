"""`holdfast demo-ps`: a training run loses a parameter server in the middle of a save, and nothing else."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.demo import directory, tell


@click.command(name="demo-ps")
@directory
def command(directory: Path) -> None:
    """Kill a parameter server in mid-save, resume, and compare bit by bit.

    A recommender trains, with its embeddings on two parameter servers. One of them is killed in the middle of a save,
    all tasks are started again, and the result is compared with an uninterrupted run.

    This takes about two minutes on 2 cores and uses no network but 127.0.0.1. Exit status 0: the resumed run ended
    bit-equal to the uninterrupted one.
    """
    from holdfast.demo.cast import Servers

    tell(directory, Servers())
