"""`holdfast status`: tells which workers are there, what each is doing, and whom everything waits for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import JSON, count, human_duration, human_size

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast_protos.v1 import coordinator_pb2 as pb

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/:@\s]+):[0-9]{1,5}")


@click.command(name="status")
@click.argument("target", metavar="RUN|HOST:PORT")
@JSON
def command(target: str, as_json: bool) -> None:
    """Show what each worker is doing and whom a save waits for.

    For RUN, the command looks for the coordinator at the addresses in HOLDFAST_COORDINATOR, the run's hint and its
    log. If none answers, it shows what the log says. For HOST:PORT, it shows all runs of the coordinator there, to who
    may see them all.

    Exit status 1, with a line for each finding: a worker that is lost, silent or stuck, or has not joined for a
    minute; a save that is overdue; a last save that failed; a damaged checkpoint; a process at the coordinator's
    address that does not answer. It is fine if nobody is training the run.
    """
    from holdfast.cli.output import Output, as_document, print_json
    from holdfast.cli.run_status import of_coordinator, of_run

    document: dict[str, Any]
    if _ADDRESS.fullmatch(target):
        coordinator, runs = of_coordinator(target)
        document = {"coordinator": coordinator, "address": target, "runs": [as_document(run) for run in runs]}
    else:
        runs = [of_run(target)]
        document = as_document(runs[0])
    if as_json:
        print_json(document)
    else:
        out = Output()
        if not runs:
            out.say(f"The coordinator at {target} serves no run: no worker has called since it was started.")
        for number, run in enumerate(runs):
            if number:
                out.say()
            _print(out, run)
    if any(run.bad for run in runs):
        click.get_current_context().exit(1)


def _print(out: Output, run: pb.RunStatus) -> None:
    from holdfast.cli.output import table

    out.say(run.run)
    lines = list(_lines(run))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        out.say(f"{name:<{width}}  {value}")
    if run.workers:
        columns = ("worker", "state", "doing", ">step", ">for", ">done", ">rate", ">last heard")
        out.say()
        out.print(table(columns, map(_row, run.workers)))
    if run.bad:
        out.say()
    for sentence in run.bad:
        out.say(f"BAD  {sentence}")


def _lines(run: pb.RunStatus) -> Iterator[tuple[str, str]]:
    """Yield the lines before the table of workers, each with its name."""
    if run.log.HasField("moved"):
        yield "moved", f"to {run.log.moved}: go on there"
    yield "checkpoints", _checkpoints(run.log)
    if run.log.HasField("leader"):
        leader = run.log.leader
        where = f"{leader.address} on {leader.host}" if leader.address else leader.host
        yield "led by", f"generation {run.log.generation}, coordinator at {where}"
    yield from _coordinator(run)
    if run.HasField("forming"):
        joined, missing = ", ".join(run.forming.joined), ", ".join(run.forming.missing)
        yield "joining", f"{joined}; waiting for {missing} to join, for {human_duration(run.forming.seconds)}"
    if run.HasField("activity"):
        activity = run.activity
        step = f" of step {activity.step}" if activity.HasField("step") else ""
        left = activity.seconds_left
        until = f"gives up in {human_duration(left)}" if left > 0 else f"overdue by {human_duration(-left)}"
        since = human_duration(activity.seconds)
        yield "now", f"{activity.kind}{step}: {activity.reason}; under way for {since}, {until}"
    elif run.workers:
        yield "now", "no save is in flight"
    if run.HasField("last_save"):
        failed = run.last_save.HasField("failure")
        yield "last save", f"FAILED: {run.last_save.failure.message}" if failed else "committed"
    if run.HasField("interval"):
        yield "interval", _interval(run.interval)


def _interval(interval: pb.Interval) -> str:
    """Return how often to save, and what that rests on."""
    short = f"{1000 * interval.cost_s:.0f} ms" if interval.cost_s < 1 else human_duration(interval.cost_s)
    cost = f"a save costs the training {short}"
    seen = f"{count(interval.failures, 'failure')} in {human_duration(interval.trained_s)}"
    least = human_duration(interval.least_s)
    if not interval.HasField("best_s"):
        return f"{cost}, {seen}: the interval of Young and Daly is {least} or more"
    most = human_duration(interval.most_s)
    best = human_duration(interval.best_s)
    return f"{cost}, {seen}: the interval of Young and Daly is {best} (likely from {least} to {most})"


def _checkpoints(log: pb.LogStatus) -> str:
    if not log.live:
        return "none committed yet"
    damaged = f", {log.damaged} DAMAGED" if log.damaged else ""
    pinned = f", {log.pinned} pinned" if log.pinned else ""
    leased = f", {log.leased} leased" if log.leased else ""
    tagged = f", {log.tagged} tagged" if log.tagged else ""
    live = f"{log.live} live{damaged}{pinned}{tagged}{leased}"
    if not log.HasField("newest"):
        return live
    return f"{live}; newest {log.newest.prefix}, saved {human_duration(time.time() - log.newest.time)} ago"


def _coordinator(run: pb.RunStatus) -> Iterator[tuple[str, str]]:
    """Yield the coordinator that gave the information, or why none did."""
    if run.coordinator.address:
        world = f", for generation {run.generation}" if run.generation else ""
        leads = "" if run.leads or not world else ", which does not lead the run"
        yield "coordinator", f"answers at {run.coordinator.address}{world}{leads}"
        return
    yield "coordinator", "none answers: nobody is training this run now, or it cannot be reached from here"
    for place in run.coordinator.asked:
        yield "", f"{place.address}, named by {place.from_}: {place.answer}"


def _row(worker: pb.WorkerStatus) -> tuple[str, ...]:
    good = worker.standing in ("present", "away", "left")
    heard = worker.HasField("seconds_since_heard")
    return (
        worker.worker,
        worker.standing if good else worker.standing.upper(),
        (worker.phase or "-") + (", waited for" if worker.waited_for else ""),
        str(worker.step) if worker.phase else "-",
        human_duration(worker.seconds_in_phase) if worker.HasField("seconds_in_phase") else "-",
        _done(worker),
        f"{human_size(int(worker.bytes_per_second))}/s" if worker.bytes_per_second else "-",
        f"{human_duration(worker.seconds_since_heard)} ago" if heard else "never",
    )


def _done(worker: pb.WorkerStatus) -> str:
    if worker.bytes_total:
        return f"{human_size(worker.bytes_done)} of {human_size(worker.bytes_total)}"
    return human_size(worker.bytes_done) if worker.bytes_done else "-"
