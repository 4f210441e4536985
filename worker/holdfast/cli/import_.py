"""`holdfast import`: makes a step of a run of what others have saved."""

from __future__ import annotations

import click

from holdfast.bridges.formats import check_packages
from holdfast.cli.export import MODEL


@click.command(name="import")
@click.argument("src", metavar="SRC")
@click.argument("run", metavar="RUN")
@click.option(
    "--format",
    "name",
    type=click.Choice(["checkpoint", "savedmodel", "weights.h5", "keras", "h5", "safetensors"]),
    help="Default: by SRC's suffix, and by what is there.",
)
@MODEL
@click.option("--step", type=click.IntRange(0, (1 << 63) - 1), help="Default: what SRC says, or else 0.")
def command(*, src: str, run: str, name: str | None, model: str | None, step: int | None) -> None:
    """Commit what others have saved as a step of a run, from which training can start.

    SRC is a path or URL: a checkpoint's prefix or folder (of tf.train.Checkpoint, or of TensorFlow 1), a SavedModel,
    .keras, .h5, .weights.h5 or .safetensors. Without --model, a checkpoint is taken whole, and .keras and .h5 are
    loaded if all in them is Keras's own. All other sources have weights alone, which go to the model that --model
    names. RUN is made if it is not there; nothing in it is removed.
    """
    from holdfast.bridges.quiet import import_quietly
    from holdfast.bridges.source import Source, described
    from holdfast.cli.output import Output, count, progress, working
    from holdfast.trackables import few

    source = Source(src, name)
    check_packages(source.format)
    with working("starting TensorFlow"):
        import_quietly()
        from holdfast.bridges.commit import commit
        from holdfast.bridges.importers import read
        from holdfast.bridges.model import by_function

        held = by_function(model) if model else None
    with progress("read", source.size) as advance:
        imported = read(source, held, advance)
    step = imported.step if step is None else step
    with working("saving"):
        prefix = commit(imported.snapshot, run, step, described(source))
    out = Output()
    out.say(f"{prefix}: {count(len(imported.snapshot.tensors), 'tensor')} of {source.url}, as step {step}")
    if imported.left_out:
        out.say(f"left out: {count(len(imported.left_out), 'value')} ({few(imported.left_out)})")
