"""`holdfast status`: who is there, what each is doing, and whom everything waits for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import JSON, human_duration, human_size

if TYPE_CHECKING:
    from rich.console import Console

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/:@\s]+):[0-9]{1,5}")


@click.command(name="status")
@click.argument("target", metavar="RUN|HOST:PORT")
@JSON
def command(target: str, as_json: bool) -> None:
    """Tell who trains, what each worker is doing, and whom a save waits for.

    For RUN the coordinator is looked for where HOLDFAST_COORDINATOR, the run's own hint and its log say; if none
    answers, what the log says is told. HOST:PORT tells of all runs that the coordinator there serves.

    Exit status 1, with a line for each finding: a worker that is lost, silent or stuck, or has not joined for a
    minute; a save that is overdue, or failed if it was the last; a damaged checkpoint; something at the coordinator's
    address that does not answer. A run that nobody works on is none of these.
    """
    from holdfast.cli.output import console, print_json
    from holdfast.cli.run_status import of_coordinator, of_run

    if _ADDRESS.fullmatch(target):
        document = of_coordinator(target)
        runs = document["runs"]
    else:
        document = of_run(target)
        runs = [document]
    if as_json:
        print_json(document)
    else:
        out = console()
        if not runs:
            out.print(f"The coordinator at {target} serves no run: no worker has called since it was started.")
        for number, run in enumerate(runs):
            if number:
                out.print()
            _print(out, run)
    if any(run["bad"] for run in runs):
        click.get_current_context().exit(1)


def _print(out: Console, run: dict[str, Any]) -> None:
    from holdfast.cli.output import table

    out.print(run["run"])
    lines = list(_lines(run))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        out.print(f"{name:<{width}}  {value}")
    if run["workers"]:
        columns = ("worker", "is", "doing", ">step", ">for", ">done", ">on average", ">heard")
        out.print()
        out.print(table(columns, map(_row, run["workers"])))
    if run["bad"]:
        out.print()
    for sentence in run["bad"]:
        out.print(f"BAD  {sentence}")


def _lines(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to say before the workers, each with its name."""
    yield "checkpoints", _checkpoints(run["log"])
    if run["log"] and run["log"]["leader"]:
        leader = run["log"]["leader"]
        where = f"{leader['address']} on {leader['host']}" if leader["address"] else leader["host"]
        yield "led by", f"generation {run['log']['generation']}, coordinator at {where}"
    yield from _coordinator(run)
    forming, activity = run["forming"], run["activity"]
    if forming:
        since = human_duration(forming["seconds"])
        yield (
            "joining",
            f"{', '.join(forming['joined'])}; waiting for {', '.join(forming['missing'])} to join, for {since}",
        )
    if activity:
        step = f" of step {activity['step']}" if activity["step"] is not None else ""
        left = activity["seconds_left"]
        until = f"given up in {human_duration(left)}" if left > 0 else f"overdue for {human_duration(-left)}"
        since = human_duration(activity["seconds"])
        yield "now", f"{activity['kind']}{step}: {activity['reason']}; under way for {since}, {until}"
    elif run["workers"]:
        yield "now", "no save is in flight"
    if run["last_save"]:
        failure = run["last_save"]["failure"]
        yield "last save", f"FAILED: {failure['message']}" if failure else "committed"


def _checkpoints(log: dict[str, Any] | None) -> str:
    if log is None or not log["live"]:
        return "none committed yet"
    damaged = f", {log['damaged']} DAMAGED" if log["damaged"] else ""
    live = f"{log['live']} live{damaged}"
    newest = log["newest"]
    if newest is None:
        return live
    return f"{live}; newest {newest['prefix']}, saved {human_duration(time.time() - newest['time'])} ago"


def _coordinator(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Who told what follows; or why nobody does."""
    coordinator = run["coordinator"]
    if coordinator["address"]:
        world = f", for generation {run['generation']}" if run["generation"] else ""
        leads = "" if run["leads"] or not world else ", which does not lead the run"
        yield "coordinator", f"answers at {coordinator['address']}{world}{leads}"
        return
    yield "coordinator", "none answers: nobody works on this run now, or it cannot be reached from here"
    for place in coordinator["asked"]:
        yield "", f"{place['address']}, named by {place['from']}: {place['answer']}"


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    good = worker["standing"] in ("present", "away", "left")
    return (
        worker["worker"],
        worker["standing"] if good else worker["standing"].upper(),
        (worker["phase"] or "-") + (", waited for" if worker["waited_for"] else ""),
        str(worker["step"]) if worker["phase"] else "-",
        _duration(worker["seconds_in_phase"]),
        _done(worker),
        f"{human_size(int(worker['bytes_per_second']))}/s" if worker["bytes_per_second"] else "-",
        "never" if worker["seconds_since_heard"] is None else f"{human_duration(worker['seconds_since_heard'])} ago",
    )


def _done(worker: dict[str, Any]) -> str:
    if worker["bytes_total"]:
        return f"{human_size(worker['bytes_done'])} of {human_size(worker['bytes_total'])}"
    return human_size(worker["bytes_done"]) if worker["bytes_done"] else "-"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else human_duration(seconds)
