"""What `status` tells: who is there, what is going on, and whom it waits for. Looks only."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from holdfast_storage.cluster import Task, names

from .attempt import Attempt
from .membership import Forming, World
from .messages import Activity, FormingStatus, Presence, Standing, Status, WorkerStatus
from .restore_round import RestoreRound
from .run import Run

STUCK_AFTER = 60.0
"""Seconds without progress after which a worker that is waited for is said to hang. While gigabytes are made durable no
bytes are counted, and that may take half of it."""


def survey(run: Run, forming: Forming | None, upkeep: str) -> Status:
    """What there is to tell now. `upkeep`: what is being removed, empty for nothing."""
    now = run.now.monotonic
    world = _foremost(run)
    doing = world and _activity(world)
    waiting_for: tuple[Task, ...] = ()
    if isinstance(doing, RestoreRound):
        waiting_for = doing.missing if doing.candidates is not None else ()
        reason = doing.reason()
    elif doing:
        waiting_for = doing.missing if doing.waits_for_workers else ()
        reason = doing.reason()
    elif forming:
        reason = f"waiting for {names(forming.missing)} to join"
    else:
        reason = upkeep or ("no save is in flight" if world else "no worker has joined")
    since = doing.begun if doing else now
    workers = zip(world.presence.values(), standings(world, now, waiting_for, since), strict=True) if world else ()
    return Status(
        generation=world.generation.id if world else "",
        leads=world is not None and world.generation.id == run.leading,
        workers=tuple(_worker(p, standing, now, p.task in waiting_for) for p, standing in workers),
        activity=_told(doing, reason, waiting_for, now) if doing else None,
        reason=reason,
        last_save=world.outcomes[max(world.outcomes)] if world and world.outcomes else None,
        forming=FormingStatus(_texts(sorted(forming.joiners)), _texts(forming.missing), now - forming.begun)
        if forming
        else None,
        entry=run.ledger.number,
        state=run.ledger.state,
    )


def _told(doing: Attempt | RestoreRound, reason: str, waiting_for: Collection[Task], now: float) -> Activity:
    attempt = doing if isinstance(doing, Attempt) else None
    return Activity(
        kind="save" if attempt else "restore",
        phase=attempt.phase.value if attempt else None,
        step=attempt.step if attempt else None,
        reason=reason,
        waiting_for=_texts(waiting_for),
        seconds=now - doing.begun,
        seconds_left=doing.deadline - now,
    )


def _worker(p: Presence, standing: Standing, now: float, waited_for: bool) -> WorkerStatus:
    # From the begin of the phase to the last that was heard: of what came later nothing is known.
    moving = p.heard - p.since if p.heard is not None and p.since is not None else 0.0
    return WorkerStatus(
        worker=str(p.task),
        incarnation=p.incarnation,
        alive=standing.alive,
        standing=standing.value,
        waited_for=waited_for,
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


def _texts(tasks: Iterable[Task]) -> tuple[str, ...]:
    return tuple(map(str, tasks))


def standings(world: World, now: float, waiting_for: Collection[Task], since: float) -> list[Standing]:
    """How each worker looks. `since`: monotonic, when that began which some are waited for with."""
    gone, waited_for = world.gone(now), set(waiting_for)
    return [
        _standing(world, p, now, gone=task in gone, waited_since=since if task in waited_for else None)
        for task, p in world.presence.items()
    ]


def _standing(world: World, p: Presence, now: float, *, gone: bool, waited_since: float | None) -> Standing:
    if p.task in world.left:
        return Standing.LEFT
    if not p.attached:
        return Standing.LOST if gone else Standing.AWAY
    if not world.alive(p.task, now):
        return Standing.SILENT
    if waited_since is not None and now - max(waited_since, p.progressed or 0.0) >= STUCK_AFTER:
        return Standing.STUCK
    return Standing.PRESENT


def last_seen(world: World, tasks: Iterable[Task], now: float) -> str:
    """What these workers were doing when they were last heard of, for the error that names them."""
    return "; ".join(_last_seen(world.presence[task], now) for task in tasks)


def _last_seen(p: Presence, now: float) -> str:
    if p.heard is None or p.since is None or p.progressed is None:
        return f"{p.task} was never heard from"
    done = f", {p.bytes_done:,} of {p.bytes_total:,} bytes" if p.bytes_total else ""
    still = f", without progress for {now - p.progressed:.0f} s" if p.bytes_total else ""
    gone = "" if p.attached else ", its connection is gone"
    return (
        f"{p.task}: in phase {p.phase!r} for {now - p.since:.0f} s{done}{still}, heard {now - p.heard:.0f} s ago{gone}"
    )


def _activity(world: World) -> Attempt | RestoreRound | None:
    if world.attempt:
        return world.attempt
    talk = next(reversed(world.talks.values()), None)
    return talk if talk and talk.decision is None else None


def _foremost(run: Run) -> World | None:
    """The world that people mean: the leading one, or the newest; but none that has ended, if another lives."""
    worlds = list(reversed(run.worlds.values()))
    worlds.sort(key=lambda world: world.generation.id != run.leading)
    return next((world for world in worlds if world.living(run.now.monotonic)), worlds[0] if worlds else None)
