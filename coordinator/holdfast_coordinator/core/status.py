"""What `status` tells: who is there, what is going on, and whom it waits for. Looks only."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from holdfast_storage.cluster import Task, names
from holdfast_storage.records import LogState

from .attempt import Attempt
from .membership import Forming, World
from .messages import JoinView, LogView, Presence, Standing, Status
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
    attempt = doing if isinstance(doing, Attempt) else None
    waiting_for: tuple[Task, ...] = ()
    if isinstance(doing, RestoreRound):
        waiting_for = doing.missing if doing.candidates is not None else ()
        reason = doing.reason()
    elif attempt:
        waiting_for = attempt.missing if attempt.waits_for_workers else ()
        reason = attempt.reason()
    elif forming:
        reason = f"waiting for {names(forming.missing)} to join"
    else:
        reason = upkeep or ("no save is in flight" if world else "no worker has joined")
    since = doing.begun if doing else now
    state = run.ledger.state
    return Status(
        run_id=state.run_id if state else "",
        cluster=world.cluster if world else (),
        generation=world.generation.id if world else "",
        leads=world is not None and world.generation.id == run.leading,
        presence=tuple(zip(world.presence.values(), standings(world, now, waiting_for, since), strict=True))
        if world
        else (),
        activity="save" if attempt else "restore" if doing else "",
        save_phase=attempt.phase.value if attempt else "",
        save_step=attempt.step if attempt else 0,
        reason=reason,
        waiting_for=waiting_for,
        seconds_under_way=now - since,
        seconds_left=doing.deadline - now if doing else 0.0,
        last_save=world.outcomes[max(world.outcomes)] if world and world.outcomes else None,
        forming=JoinView(tuple(sorted(forming.joiners)), forming.missing, now - forming.begun) if forming else None,
        log=_log_view(run.ledger.number, state) if state else None,
    )


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
        return f"{p.task} was never heard of"
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


def _log_view(entry: int, state: LogState) -> LogView:
    restorable = state.restorable
    live = state.checkpoints
    return LogView(entry, len(live), len(live) - len(restorable), restorable[-1] if restorable else None)
