"""`holdfast export`: makes of a checkpoint what people load and deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.bridges.formats import CHECKPOINT, FORMATS, TFLITE, Format, check_packages, format_of
from holdfast.cli.target import TARGET, Run, open_checkpoint, reading
from holdfast_storage.errors import InvalidRequest

if TYPE_CHECKING:
    from holdfast.bridges.destination import Destination
    from holdfast_storage.records import CheckpointRecord

MODEL = click.option(
    "--model",
    metavar="MODULE:FUNCTION",
    help="A function that returns the model, built, or the tf.train.Checkpoint whose attribute `model` it is. The "
    "working directory is searched for MODULE first.",
)


@click.command(name="export")
@TARGET
@click.argument("out", metavar="OUT")
@click.option("--format", "name", type=click.Choice([each.name for each in FORMATS]), help="Default: by OUT's suffix.")
@MODEL
@click.option(
    "--quantize",
    type=click.Choice(["none", "float16", "dynamic", "int8"]),
    default="none",
    help="How .tflite keeps numbers. int8 needs --representative.",
)
@click.option(
    "--representative",
    metavar="MODULE:FUNCTION",
    help="A function that yields lists of inputs of the model, from which int8 takes the ranges of what it computes.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
def command(
    *,
    target: str,
    out: str,
    name: str | None,
    model: str | None,
    quantize: str,
    representative: str | None,
    overwrite: bool,
) -> None:
    """Export a checkpoint to a file or folder of another format.

    Without STEP it is the newest of RUN. OUT is a path or URL that ends in .keras, .h5, .weights.h5, .savedmodel,
    .tflite, .onnx or .safetensors; --format checkpoint makes a folder with a TensorFlow checkpoint. Every byte that is
    read is verified, and OUT is there whole or not at all. The model is rebuilt from what the checkpoint carries; if it
    is subclassed, or has layers of your own, --model names the function that makes it.
    """
    from holdfast.bridges.destination import Destination
    from holdfast.cli.output import Output, count, human_size

    format = format_of(out, name)
    check_packages(format)
    if (quantize != "none" or representative) and format is not TFLITE:
        raise InvalidRequest("--quantize and --representative are for .tflite", object=format.name)
    if (quantize == "int8") != bool(representative):
        raise InvalidRequest("--quantize int8 and --representative go together")
    run, record = open_checkpoint(target)
    destination = Destination(out, overwrite=overwrite)
    with reading(run, record):
        if format is CHECKPOINT:
            _materialize(run, record, out, destination)
            written = f"step {record.step}, as a TensorFlow checkpoint"
        else:
            weights, size = _export(
                run, record, destination, format, model=model, quantize=quantize, representative=representative
            )
            written = f"{human_size(size)}, {count(weights, 'weight')} of step {record.step}"
    Output().say(f"{destination.url}: {written}")


def _materialize(run: Run, record: CheckpointRecord, out: str, destination: Destination) -> None:
    from holdfast.cli.output import progress
    from holdfast_storage.checkpoint.materialize import Materializing

    checkpoint = Materializing(run.store, record)
    destination.remove()
    with progress("export", lambda: checkpoint.size) as advance:
        checkpoint.write(out, advance)


def _export(
    run: Run,
    record: CheckpointRecord,
    destination: Destination,
    format: Format,
    *,
    model: str | None,
    quantize: str,
    representative: str | None,
) -> tuple[int, int]:
    """Return the number of weights that were written, and the bytes that they take."""
    from holdfast.bridges.quiet import import_quietly
    from holdfast.cli.output import progress, working
    from holdfast_storage.checkpoint.verify import verify_size

    with working("starting TensorFlow"):
        import_quietly()
        from holdfast.bridges import exporters
        from holdfast.bridges.model import by_architecture, by_function, function, restore, weights_of

        samples = function(representative) if representative else None
        held = by_function(model) if model else by_architecture(run.store, record)
        exporters.check(held, format)
    with progress("read", lambda: verify_size(run.store, record)) as advance:
        restore(held, run.store, record, advance)
    with destination.make() as path:
        with working(f"writing {format.name}"):
            exporters.write(held, format, path, quantize=quantize, representative=samples)
        size = destination.size_of(path)
    return len(weights_of(held.model)), size
