"""The status of a run: who is there, what is going on, and for whom it waits. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, names
from holdfast_storage.records import Leader, LogState

from .core.attempt import SaveAttempt
from .core.machine import Machine
from .core.membership import World
from .core.messages import Presence
from .core.restore_round import RestoreRound
from .core.young_daly import Advice
from .wire import outcome_message

STUCK_AFTER = 60.0
"""Seconds without progress after which a worker for which others wait counts as stuck. Making gigabytes durable counts
no bytes and may take half of that time."""


def status(machine: Machine, run: str, coordinator: Leader, now: float) -> pb.StatusReply:
    """Describe the run of a machine. `now` is monotonic."""
    world = _foremost(machine, now)
    doing = _activity(world) if world else None
    waiting_for: tuple[Task, ...] = ()
    if isinstance(doing, RestoreRound):
        waiting_for = doing.missing if doing.candidates is not None else ()
    elif doing:
        waiting_for = doing.missing if doing.waits_for_workers else ()
    forming, state = machine.forming, machine.ledger.state
    ending = set(world.presence) - world.gone(now) if world and world.lingering else ()
    if doing:
        reason = doing.reason()
    elif forming:
        reason = f"waiting for {names(forming.missing)} to join"
    elif world and (silent := world.requests.agreement.missing):
        reason = f"a save was asked for: waiting for {names(silent)} to say from which step on"
    elif ending and not machine.upkeep:
        reason = f"waiting for {names(ending)} to end"
    else:
        reason = machine.upkeep or ("no save is in flight" if world else "no worker has joined")
    told = pb.RunStatus(
        run=run,
        log=log_status(state, machine.ledger.number) if state else None,
        coordinator=pb.CoordinatorStatus(address=coordinator.address, id=coordinator.id),
        activity=_told(doing, waiting_for, now) if doing else None,
    )
    if world:
        told.generation, told.leads = world.generation.id, world.generation.id == machine.leading
        told.workers.extend(worker_statuses(world, now, waiting_for, doing.begun if doing else now))
        if world.outcomes:
            told.last_save.CopyFrom(outcome_message(world.outcomes[max(world.outcomes)]))
    advice = machine.advice(world) if world else None
    if advice:
        told.interval.CopyFrom(_interval(advice))
    if forming:
        told.forming.joined.extend(map(str, sorted(forming.joiners)))
        told.forming.missing.extend(map(str, forming.missing))
        told.forming.seconds = now - forming.begun
    return pb.StatusReply(coordinator=coordinator.id, run_id=state.run_id if state else "", reason=reason, run=told)


def _interval(advice: Advice) -> pb.Interval:
    return pb.Interval(
        cost_s=advice.cost,
        failures=advice.failures,
        trained_s=advice.trained,
        best_s=advice.interval,
        least_s=advice.least,
        most_s=advice.most,
    )


def log_status(state: LogState, entry: int) -> pb.LogStatus:
    """Describe a log's state. `entry` is the number of its last entry, negative if there is none yet."""
    newest = state.restorable[-1] if state.restorable else None
    return pb.LogStatus(
        entry=entry if entry >= 0 else None,
        leader=pb.LogStatus.Leader(address=state.leader.address, host=state.leader.host) if state.leader else None,
        generation=state.generation.id if state.generation else None,
        live=len(state.checkpoints),
        damaged=len(state.checkpoints) - len(state.restorable),
        pinned=len(state.pinned),
        tagged=len({tag.prefix for tag in state.tags}),
        leased=len({lease.prefix for lease in state.leases}),
        moved=state.moved or None,
        newest=pb.LogStatus.Newest(prefix=newest.prefix, step=newest.step, time=newest.time) if newest else None,
    )


def worker_statuses(world: World, now: float, waiting_for: Collection[Task], since: float) -> list[pb.WorkerStatus]:
    """Describe each worker. `since` is the monotonic time at which the others began to wait."""
    gone = world.gone(now)
    return [
        _worker(p, _standing(world, p, now, task in gone, since if task in waiting_for else None), now, waiting_for)
        for task, p in world.presence.items()
    ]


def _standing(world: World, p: Presence, now: float, gone: bool, waited_since: float | None) -> str:
    if p.task in world.left:
        return "left"  # in good order
    if not p.attached:
        return "lost" if gone else "away"  # for long, or it may be on its way back
    if not world.alive(p.task, now):
        return "silent"  # a connection and no heartbeats: stopped, or its host is
    if waited_since is not None and now - max(waited_since, p.progressed or 0.0) >= STUCK_AFTER:
        return "stuck"  # heartbeats and no progress, while others wait for it
    return "present"


def _worker(p: Presence, standing: str, now: float, waiting_for: Collection[Task]) -> pb.WorkerStatus:
    # From the beginning of the phase to the last heartbeat: nothing later is known.
    moving = p.heard - p.since if p.heard is not None and p.since is not None else 0.0
    return pb.WorkerStatus(
        worker=str(p.task),
        incarnation=p.incarnation,
        alive=standing in ("present", "stuck"),
        standing=standing,
        waited_for=p.task in waiting_for,
        phase=p.phase or None,
        step=p.step,
        seconds_in_phase=_ago(p.since, now),
        bytes_done=p.bytes_done,
        bytes_total=p.bytes_total or None,
        bytes_per_second=p.bytes_done / moving if p.bytes_done and moving >= 1.0 else None,
        seconds_since_progress=_ago(p.progressed, now),
        seconds_since_heard=_ago(p.heard, now),
    )


def _ago(then: float | None, now: float) -> float | None:
    return None if then is None else now - then


def _told(doing: SaveAttempt | RestoreRound, waiting_for: Collection[Task], now: float) -> pb.Activity:
    attempt = doing if isinstance(doing, SaveAttempt) else None
    return pb.Activity(
        kind="save" if attempt else "restore",
        phase=attempt.phase.value if attempt else None,
        step=attempt.step if attempt else None,
        reason=doing.reason(),
        waiting_for=map(str, waiting_for),
        seconds=now - doing.begun,
        seconds_left=doing.deadline - now,
    )


def _activity(world: World) -> SaveAttempt | RestoreRound | None:
    if world.attempt:
        return world.attempt
    round_ = next(reversed(world.rounds.values()), None)
    return round_ if round_ and round_.is_open else None


def _foremost(machine: Machine, now: float) -> World | None:
    """Return the world that people mean: the leading one, or the newest; but none that has ended if another lives."""
    worlds = list(machine.worlds.values())[::-1]
    worlds.sort(key=lambda world: world.generation.id != machine.leading)
    return next((world for world in worlds if world.living(now)), worlds[0] if worlds else None)
