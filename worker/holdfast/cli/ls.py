"""`holdfast ls`: the committed checkpoints of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import JSON
from holdfast.cli.target import RUN, Run, open_run

if TYPE_CHECKING:
    from holdfast_storage.records import CheckpointRecord


@click.command(name="ls")
@RUN
@JSON
def command(run: str, as_json: bool) -> None:
    """List the committed checkpoints of RUN, oldest first.

    The last one is the newest: the order is that of the commits, not of the steps.
    """
    from concurrent.futures import ThreadPoolExecutor

    from holdfast.cli.output import console, count, human_size, human_time, print_json, table

    opened = open_run(run)
    with ThreadPoolExecutor(8) as threads:  # a small object each: on a cloud store the waiting counts
        described = list(threads.map(lambda record: _describe(opened, record), opened.state.checkpoints))
    checkpoints = [c for c in described if c is not None]
    if as_json:
        print_json({"run": opened.store.url, "checkpoints": checkpoints})
    elif not checkpoints:
        click.echo(f"{opened.store.url} holds no committed checkpoint yet.")
    else:
        out = console()
        out.print(f"{opened.store.url}: {count(len(checkpoints), 'checkpoint')}\n")
        rows = [
            (
                str(c["step"]),
                human_time(c["time"]),
                "?" if c["size"] is None else human_size(c["size"]),
                "-" if c["workers"] is None else str(c["workers"]),
                c["prefix"],
                _notes(c),
            )
            for c in checkpoints
        ]
        out.print(table((">step", "saved", ">size", ">workers", "checkpoint", ""), rows))
    if any(c["damaged"] for c in checkpoints):
        click.get_current_context().exit(1)


def _describe(run: Run, record: CheckpointRecord) -> dict[str, Any] | None:
    """What `ls` tells about a checkpoint; None if it was retired while we looked."""
    from holdfast_storage.errors import CheckpointDamaged
    from holdfast_storage.manifest import read_manifest
    from holdfast_storage.verify import verify_size

    size = workers = None
    problem = "condemned: two readers found it damaged" if record.prefix in run.state.damaged else ""
    try:
        if record.stock:
            size = verify_size(run.store, record)
        else:
            manifest = read_manifest(run.store, record)
            size, workers = sum(o.size for o in manifest.objects), len(manifest.world)
    except CheckpointDamaged as error:
        if not run.still_live(record):
            return None
        problem = problem or str(error)
    return {
        "step": record.step,
        "time": record.time,
        "size": size,
        "workers": workers,
        "prefix": record.prefix,
        "stock": record.stock,
        "preserved": record.preserved,
        "damaged": bool(problem),
        "problem": problem,
    }


def _notes(checkpoint: dict[str, Any]) -> str:
    notes = []
    if checkpoint["damaged"]:
        notes.append(f"DAMAGED: {checkpoint['problem']}")
    if checkpoint["stock"]:
        notes.append("written by TensorFlow")
    if checkpoint["preserved"]:
        notes.append("kept for ever")
    return ", ".join(notes)
