"""`holdfast materialize`: makes a whole TensorFlow checkpoint of one that may be a delta."""

from __future__ import annotations

import click

from holdfast.cli.target import TARGET, open_checkpoint, reading


@click.command(name="materialize")
@TARGET
@click.argument("out", metavar="OUT")
def command(target: str, out: str) -> None:
    """Make a whole TensorFlow checkpoint of a step, in a folder of its own.

    The step may be a delta, which TensorFlow cannot read, or full. Without STEP it is the newest of RUN. OUT is a path
    or URL of a folder that does not exist, or is empty. Every byte is verified on the way. The index comes last: what
    was interrupted is no checkpoint, and the same command begins it anew. Prints the prefix for
    tf.train.Checkpoint.restore. While it is read, the step has a lease: a job that trains does not remove it.
    """
    from holdfast.cli.output import Output, progress
    from holdfast_storage.checkpoint.materialize import Materializing

    run, record = open_checkpoint(target)
    with reading(run, record):
        checkpoint = Materializing(run.store, record)
        with progress("materialize", lambda: checkpoint.size) as advance:
            prefix = checkpoint.write(out, advance)
    Output().say(prefix)
