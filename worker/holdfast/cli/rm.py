"""`holdfast rm`: removes a checkpoint."""

from __future__ import annotations

import click

from holdfast.cli.target import Run, given, open_directory


@click.command(name="rm")
@click.argument("target", metavar="RUN@STEP")
def command(target: str) -> None:
    """Remove a checkpoint from RUN, and delete its folder.

    A job may train in RUN meanwhile. Refused is what is pinned, tagged, being read, or needed by an incremental save on
    it, the newest checkpoint (roll back to another one first), and what TensorFlow itself wrote. If the folder cannot
    be deleted, the same command deletes it, and so does the next job.
    """
    from holdfast.cli.output import Output
    from holdfast_storage.intervening import delete_retired, remove

    url, step = given(target)
    store = open_directory(url)
    if delete_retired(store, step):
        Output().say(f"{store.url}@{step} was removed before: nothing is left of it")
    else:
        remove(store, lambda state: Run(store, state).select(step))
        Output().say(f"{store.url}@{step} is removed")
