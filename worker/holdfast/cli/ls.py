"""`holdfast ls`: lists the committed checkpoints of a run."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.holds import NO_HOLDS, holds, holds_in_words
from holdfast.cli.output import JSON, as_document
from holdfast.cli.target import RUN, Run, open_run

if TYPE_CHECKING:
    from holdfast_storage.records import CheckpointRecord, LogState


LOOKED_AT = 1_000
"""The number of newest checkpoints whose manifests are read, so that the time for it stays bounded."""


@click.command(name="ls")
@RUN
@JSON
def command(run: str, as_json: bool) -> None:
    """List the committed checkpoints of RUN, oldest first.

    The order is that of the commits, not of the steps, so the last one is the newest. For the newest 1,000 the manifest
    is read. For older ones only the log is; use `verify` to read them.
    """
    from concurrent.futures import ThreadPoolExecutor

    from holdfast.cli.output import Output, count, human_size, human_time, print_json, print_lines

    opened = open_run(run)
    damaged = opened.state.built_on(opened.state.damaged)
    older, newest = opened.state.checkpoints[:-LOOKED_AT], opened.state.checkpoints[-LOOKED_AT:]
    with ThreadPoolExecutor(8) as threads:  # a small object each, so on a cloud store the waiting counts
        seen = list(threads.map(lambda record: _look(opened, record, damaged), newest))
    checkpoints = [*(_describe(record, damaged) for record in older), *seen]
    held = holds(opened.state)
    chains = _chains(opened.state)
    checkpoints = [{**c, "chain": chains[c["prefix"]], **held.get(c["prefix"], NO_HOLDS)} for c in checkpoints]
    if any(c["damaged"] for c in seen):
        # A running job's retention may have removed it meanwhile.
        live = opened.live_now()
        checkpoints = [c for c in checkpoints if c["prefix"] in live]
    if as_json:
        moved = opened.state.moved or None
        print_json({"run": opened.store.url, "moved": moved, "checkpoints": checkpoints})
    elif not checkpoints:
        why = f": {opened.state.closed}" if opened.state.closed else " holds no committed checkpoint yet."
        Output().say(f"{opened.store.url}{why}")
    else:
        out = Output()
        out.say(f"{opened.store.url}: {count(len(checkpoints), 'checkpoint')}")
        out.say()
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
        print_lines((">step", "saved", ">size", ">workers", "checkpoint", ""), rows)
    if any(c["damaged"] for c in checkpoints):
        click.get_current_context().exit(1)


def _chains(state: LogState) -> dict[str, int]:
    """Return how many checkpoints a restore of each needs, itself included."""
    bases = {record.prefix: record.base for record in state.checkpoints}
    found: dict[str, int] = {"": 0}
    for prefix in bases:
        chain = [prefix]
        while chain[-1] not in found:
            chain.append(bases.get(chain[-1], ""))
        for each in reversed(chain[:-1]):
            found[each] = found[bases.get(each, "")] + 1
    return found


def _look(run: Run, record: CheckpointRecord, damaged: Collection[str]) -> dict[str, Any]:
    """Describe a checkpoint from its manifest."""
    from holdfast_storage.checkpoint.manifest import read_manifest
    from holdfast_storage.checkpoint.verify import verify_size
    from holdfast_storage.errors import CheckpointDamaged

    size = workers = None
    problem = ""
    try:
        if record.stock:
            size = verify_size(run.store, record)
        else:
            manifest = read_manifest(run.store, record)
            size, workers = sum(o.size for o in manifest.objects), len(manifest.world)
    except CheckpointDamaged as error:
        problem = str(error)
    return _describe(record, damaged, size, workers, problem)


def _describe(
    record: CheckpointRecord,
    damaged: Collection[str],
    size: int | None = None,
    workers: int | None = None,
    problem: str = "",
) -> dict[str, Any]:
    if record.prefix in damaged:
        problem = f"condemned: two readers found it damaged{', or something that it needs' * bool(record.base)}"
    told = {"size": size, "workers": workers, "damaged": bool(problem), "problem": problem}
    return {**as_document(record), **told}


def _notes(checkpoint: dict[str, Any]) -> str:
    notes = []
    if checkpoint["damaged"]:
        notes.append(f"DAMAGED: {checkpoint['problem']}")
    if checkpoint["base"]:
        notes.append(f"delta on {checkpoint['base']}, {checkpoint['chain']} to restore")
    if checkpoint["stock"]:
        notes.append("written by TensorFlow")
    if checkpoint["preserved"]:
        notes.append("kept for ever")
    return ", ".join([*notes, *holds_in_words(checkpoint)])
