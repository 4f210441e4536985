"""What `holdfast status` finds out about runs: read from the log, asked of the coordinator, and judged.

A run is a dictionary, as `status --json` prints it; `bad` has a sentence for each finding that an operator should act
on. Durations are seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from holdfast.cli.output import count, human_duration, human_size
from holdfast.cli.target import no_run, open_directory
from holdfast.session.hint import read_hint
from holdfast_protos.client import NoAnswer, NotServed, ask, is_of_another_host
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import CoordinatorUnavailable
from holdfast_storage.layout import HINT
from holdfast_storage.log import Log
from holdfast_storage.records import LogState
from holdfast_storage.run_directory import read_run

UNJOINED_FOR = 60.0
"""Seconds after which a worker that has not joined, while others wait for it, is a finding."""

OVERDUE_FOR = 5.0
"""Seconds beyond its deadline for which a save may still be there: the coordinator looks at its clock now and then."""


def of_coordinator(address: str) -> dict[str, Any]:
    """All runs that the coordinator at HOST:PORT serves. CoordinatorUnavailable if none answers."""
    try:
        listed = ask(address)
        runs = [_told(url, address, ask(address, url)) for url in listed.runs]
    except (NoAnswer, NotServed) as error:
        raise CoordinatorUnavailable(f"{error}") from None
    for run in runs:
        run["bad"] = list(_bad(run))
    return {"coordinator": listed.coordinator, "address": address, "runs": runs}


def of_run(target: str) -> dict[str, Any]:
    """One run, by its directory. InvalidRequest if there is none."""
    store = open_directory(target)
    entry = Log(store).tail()
    state = entry.state if entry else read_run(store)
    hint = read_hint(store)
    if state is None and hint is None:
        raise no_run(store)
    asked: list[dict[str, Any]] = []
    found: list[tuple[str, pb.StatusReply]] = []
    for source, address, host in _places(state, hint.address if hint else ""):
        reply, answer, hangs = _ask(address, host, store.url, state.run_id if state else "")
        asked.append({"address": address, "from": source, "answer": answer, "hangs": hangs})
        if reply:
            found.append((address, reply))
    # Two may know the run: one that has lost it, and its successor.
    found.sort(key=lambda each: (not each[1].leads, not any(p.alive for p in each[1].presence)))
    run = _told(store.url, *found[0]) if found else _untold(store.url)
    run["coordinator"]["asked"] = asked
    run["log"] = _log(state, entry.number if entry else -1) if state else None
    run["bad"] = list(_bad(run))
    return run


def _places(state: LogState | None, hinted: str) -> Iterator[tuple[str, str, str]]:
    """Where a coordinator may be: who says so, the address, and the host that it is one of, where that is known."""
    leader = state.leader if state else None
    places = [
        ("HOLDFAST_COORDINATOR", os.environ.get("HOLDFAST_COORDINATOR", ""), ""),
        (HINT, hinted, leader.host if leader and leader.address == hinted else ""),
        ("the log", leader.address if leader else "", leader.host if leader else ""),
    ]
    seen = {""}
    for source, address, host in places:
        if address not in seen:
            seen.add(address)
            yield source, address, host


def _ask(address: str, host: str, url: str, run_id: str) -> tuple[pb.StatusReply | None, str, bool]:
    """What is told of the run at an address, if it is this run; in words how it answered; whether it hangs."""
    if host and is_of_another_host(address, host):
        return None, f"it can be asked on {host} alone", False
    try:
        try:
            reply = ask(address, url)
        except NotServed:
            # The coordinator may reach the directory by another path.
            reply = _by_id(address, run_id)
    except NoAnswer as error:
        return None, str(error), error.hangs
    except NotServed as error:
        return None, f"the coordinator there does not serve the run ({error})", False
    if run_id and reply.run_id and reply.run_id != run_id:
        return None, "the coordinator there serves another run at this path", False
    return reply, "answers", False


def _by_id(address: str, run_id: str) -> pb.StatusReply:
    for url in ask(address).runs if run_id else ():
        reply = ask(address, url)
        if reply.run_id == run_id:
            return reply
    raise NotServed("no worker of it has called since it was started")


def _untold(url: str) -> dict[str, Any]:
    """A run of which no coordinator tells anything."""
    return {
        "run": url,
        "log": None,
        "coordinator": {"address": None, "id": None, "asked": []},
        "generation": None,
        "leads": False,
        "workers": [],
        "activity": None,
        "last_save": None,
        "forming": None,
        "bad": [],
    }


def _told(url: str, address: str, reply: pb.StatusReply) -> dict[str, Any]:
    """A run as its coordinator tells of it."""
    run = _untold(url)
    run["coordinator"] |= {"address": address, "id": reply.coordinator}
    run |= {"generation": reply.generation or None, "leads": reply.leads}
    run["workers"] = [_worker(p, reply.waiting_for) for p in reply.presence]
    if reply.activity:
        run["activity"] = {
            "kind": reply.activity,
            "phase": reply.save_phase or None,
            "step": reply.save_step if reply.activity == "save" else None,
            "reason": reply.reason,
            "waiting_for": [_name(task) for task in reply.waiting_for],
            "seconds": reply.seconds_under_way,
            "seconds_left": reply.seconds_left,
        }
    if reply.HasField("last_save"):
        failure = reply.last_save.failure
        run["last_save"] = {
            "ordinal": reply.last_save.ordinal,
            "committed": reply.last_save.committed,
            "failure": None
            if reply.last_save.committed
            else {
                "kind": failure.kind,
                "message": failure.message,
                "phase": failure.phase,
                "workers": [_name(task) for task in failure.tasks],
                "object": failure.object,
            },
        }
    if reply.HasField("forming"):
        run["forming"] = {
            "joined": [_name(task) for task in reply.forming.joined],
            "missing": [_name(task) for task in reply.forming.missing],
            "seconds": reply.forming.seconds,
        }
    if reply.HasField("log"):
        log = reply.log
        newest = {"prefix": log.newest, "step": log.newest_step, "time": log.newest_time} if log.newest else None
        run["log"] = {
            "entry": log.entry if log.entry >= 0 else None,
            "leader": None,
            "generation": None,
            "live": log.live,
            "damaged": log.damaged,
            "newest": newest,
        }
    return run


def _log(state: LogState, number: int) -> dict[str, Any]:
    """What the log itself says."""
    newest = state.restorable[-1] if state.restorable else None
    return {
        "entry": number if number >= 0 else None,
        "leader": {"address": state.leader.address, "host": state.leader.host} if state.leader else None,
        "generation": state.generation.id if state.generation else None,
        "live": len(state.checkpoints),
        "damaged": len(state.checkpoints) - len(state.restorable),
        "newest": {"prefix": newest.prefix, "step": newest.step, "time": newest.time} if newest else None,
    }


def _worker(p: pb.Presence, waiting_for: Any) -> dict[str, Any]:
    heard = p.seconds_since_heard if p.seconds_since_heard >= 0 else None
    in_phase = p.seconds_in_phase if p.seconds_in_phase >= 0 else None
    # From the begin of the phase to the last that was heard: of what came later nothing is known.
    moving = (in_phase or 0.0) - (heard or 0.0)
    return {
        "worker": _name(p.task),
        "standing": p.standing,
        "waited_for": p.task in waiting_for,
        "phase": p.phase or None,
        "step": p.step,
        "seconds_in_phase": in_phase,
        "bytes_done": p.bytes_done,
        "bytes_total": p.bytes_total or None,
        "bytes_per_second": p.bytes_done / moving if p.bytes_done and moving >= 1.0 else None,
        "seconds_since_progress": p.seconds_since_progress if p.seconds_since_progress >= 0 else None,
        "seconds_since_heard": heard,
    }


def _bad(run: dict[str, Any]) -> Iterator[str]:
    """What an operator should act on."""
    for place in run["coordinator"]["asked"]:
        if place["hangs"]:
            yield f"{place['answer']} (named by {place['from']})"
    for worker in run["workers"]:
        if finding := _bad_worker(worker, run["activity"]):
            yield finding
    forming = run["forming"]
    if forming and forming["missing"] and forming["seconds"] >= UNJOINED_FOR:
        missing, joined = ", ".join(forming["missing"]), ", ".join(forming["joined"])
        yield f"{missing} did not join within {human_duration(forming['seconds'])}; there so far: {joined}"
    activity = run["activity"]
    if activity and activity["seconds_left"] < -OVERDUE_FOR:
        overdue = human_duration(-activity["seconds_left"])
        yield f"the {activity['kind']} should have ended {overdue} ago: {activity['reason']}"
    if run["last_save"] and run["last_save"]["failure"]:
        yield f"the last save failed: {run['last_save']['failure']['message']}"
    log = run["log"]
    if log and log["damaged"]:
        yield f"{log['damaged']} of {count(log['live'], 'checkpoint')} damaged: `holdfast ls` tells which"


def _bad_worker(worker: dict[str, Any], activity: dict[str, Any]) -> str:
    """What is wrong with a worker, in a sentence; empty if nothing is."""
    name, phase = worker["worker"], worker["phase"] or "join"
    heard = worker["seconds_since_heard"]
    ago = "never was heard of" if heard is None else f"was last heard of {human_duration(heard)} ago, in phase {phase}"
    match worker["standing"]:
        case "lost":
            return f"{name} is lost: its connection is gone, and it {ago}"
        case "silent":
            return f"{name} hangs: it has a connection and {ago}; it was stopped, or its host stands still"
        case "stuck":
            # Training makes no progress that is told: it counts from where it was waited for.
            still = human_duration(min(worker["seconds_since_progress"] or 0.0, activity["seconds"]))
            total = f" of {human_size(worker['bytes_total'])}" if worker["bytes_total"] else ""
            done = f" at {human_size(worker['bytes_done'])}{total}" if worker["bytes_done"] or total else ""
            return (
                f"{name} hangs: the {activity['kind']} waits for it, and it has made no progress for {still}, in phase "
                f"{phase}{done}"
            )
        case _:
            return ""


def _name(task: pb.Task) -> str:
    return f"{task.type}-{task.index}"
