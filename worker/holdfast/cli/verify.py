"""`holdfast verify`: reads checkpoints back and checks every byte against its digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import JSON, as_document
from holdfast.cli.target import TARGET, Run, open_run, parse_target

if TYPE_CHECKING:
    from holdfast_storage.checkpoint.verify import Report
    from holdfast_storage.records import CheckpointRecord


@click.command(name="verify")
@TARGET
@JSON
def command(target: str, as_json: bool) -> None:
    """Read checkpoints back and check every digest.

    Every byte of the checkpoint is read, and of those that it needs if it is a delta; without STEP, those of all
    checkpoints of RUN. Nothing is changed. Exit status 1 if anything is not as it was committed.
    """
    from holdfast.cli.output import Output, count, human_size, print_json, progress, table
    from holdfast_storage.errors import InvalidRequest

    url, step = parse_target(target)
    run = open_run(url)
    records = list(run.state.checkpoints if step is None else run.state.chain(run.select(step)))
    if not records:
        why = run.state.closed or f"{run.store.url} holds no committed checkpoint"
        raise InvalidRequest(f"there is nothing to verify: {why}")
    with progress("verify", lambda: sum(_size(run, record) for record in records)) as advance:
        verified = [(record, _verify(run, record, advance)) for record in records]
    found = [_describe(record, report) for record, report in verified if report is not None]
    _tell_what_needs_them(run, found)
    bad = [c for c in found if c["verdict"] != "good"]
    if as_json:
        print_json({"run": run.store.url, "good": not bad, "checkpoints": found})
    else:
        rows = [
            (
                str(c["step"]),
                c["verdict"].upper() if c in bad else "good",
                str(c["objects"]),
                human_size(c["size"]),
                c["prefix"],
            )
            for c in found
        ]
        out = Output()
        out.print(table((">step", "", ">objects", ">read", "checkpoint"), rows))
        for problem in (p for c in bad for p in c["problems"]):
            out.say(f"{problem['object']}: {problem['kind']}: {problem['reason']}")
        out.say(f"{count(len(found), 'checkpoint')} of {run.store.url} read, {len(bad) or 'none'} bad")
    if bad:
        click.get_current_context().exit(1)


def _verify(run: Run, record: CheckpointRecord, advance: Callable[[int], None]) -> Report | None:
    """Return the report on a checkpoint, or None if a running job's retention has removed it meanwhile."""
    from holdfast_storage.checkpoint.verify import verify_checkpoint

    report = verify_checkpoint(run.store, record, progress=advance)
    return None if report.problems and record.prefix not in run.live_now() else report


def _describe(record: CheckpointRecord, report: Report) -> dict[str, Any]:
    return {**as_document(report), "step": record.step, "verdict": report.verdict}


def _tell_what_needs_them(run: Run, found: list[dict[str, Any]]) -> None:
    """Add to what is found of each delta that it needs what is bad."""
    bad = {c["prefix"]: c["verdict"] for c in found if c["verdict"] != "good"}
    for prefix, verdict in bad.items():
        lost = run.state.built_on([prefix])
        for c in found:
            if c["prefix"] in lost and c["verdict"] == "good":
                reason = f"{c['prefix']} is a delta that needs it"
                c["verdict"], c["problems"] = verdict, [{"object": prefix, "kind": verdict, "reason": reason}]


def _size(run: Run, record: CheckpointRecord) -> int:
    """Estimate the bytes to read; 0 if that is not possible. The verification itself says why."""
    from holdfast_storage.checkpoint.verify import verify_size
    from holdfast_storage.errors import HoldfastError

    try:
        return verify_size(run.store, record)
    except HoldfastError:
        return 0
