"""Restore calls. Each ordinal is one round of all workers of a world, one at a time."""

from __future__ import annotations

from dataclasses import replace

from holdfast_storage.cluster import Task, names
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord

from . import events as ev
from .damage import Damage
from .membership import World
from .messages import Apply, Caller, Read
from .restore_round import BAD, Decision, RestoreRound
from .run import RunState
from .upkeep import Upkeep
from .waits import Confirm, Look


class Restoring:
    """Keeps `World.talks`, and what a world builds on once it has restored."""

    def __init__(self, run: RunState, damage: Damage, upkeep: Upkeep) -> None:
        self._run = run
        self._damage = damage
        self._upkeep = upkeep

    def restore(self, e: ev.Restore) -> None:
        run = self._run
        world = run.world(e.caller, e.request)
        if world is None:
            return
        talk = world.talks.get(e.ordinal)
        if talk is None and world.fenced:
            run.refuse(e.request, world.fenced)
            return
        if talk is None and e.ordinal < max(world.talks, default=0):
            run.refuse(e.request, Failure(Kind.INVALID_REQUEST, f"restore {e.ordinal} is over", phase="restore"))
            return
        talk = talk or self._begin(world, e)
        world.restores(e.caller.task, e.ordinal)
        if talk.target is not None and e.target != talk.target:
            failure = Failure(
                Kind.INVALID_REQUEST,
                f"the workers do not restore the same checkpoint: {e.caller.task} asks for "
                f"{e.target or 'the newest'!r}, others for {talk.target or 'the newest'!r}",
                phase="restore",
                tasks=(e.caller.task,),
            )
            run.refuse(e.request, failure)
            if talk.decision is None:
                talk.decision = failure
                self._announce(talk, failure)
            return
        talk.waiting[e.request] = e.caller.task
        if talk.decision is not None:
            self._announce(talk, talk.decision)
            return
        if e.entries - 1 > max(talk.seen, run.ledger.number):
            # What this coordinator's mount shows late, or what was not looked at since.
            talk.seen, talk.seen_by = e.entries - 1, e.caller.task
            talk.withdraw()
            self._look(world, talk)
        if talk.candidates is not None:
            self._hear(world, talk, e)

    def _hear(self, world: World, talk: RestoreRound, e: ev.Restore) -> None:
        run = self._run
        if talk.candidates and e.prefix != talk.current.prefix:
            del talk.waiting[e.request]
            run.reply(e.request, Read(talk.current))
            return
        if e.verdict in BAD and talk.candidates:
            if self._is_retired(talk):
                talk.withdraw()
                self._look(world, talk)
                return
            second = talk.second or self._damage.second(e.prefix, talk.since)
            if second and not talk.second and e.prefix in run.condemned:
                # It was found damaged before; but the run may have something newer by now.
                run.ledger.read(Confirm(world.generation.id, talk.ordinal, e.prefix, "damaged"))
            else:
                talk.second = second
        decision = talk.hear(e.caller.task, e.verdict if talk.candidates else "good", e.reason)
        if decision is not None:
            self._decide(world, talk, decision)

    def _is_retired(self, talk: RestoreRound) -> bool:
        """Return whether the candidate was the run's and was replaced by a newer one since it was proposed."""
        state, record = self._run.ledger.state, talk.current
        return record.step >= 0 and state is not None and state.find(record.prefix) is None

    def read_back(self, e: ev.ReadBack) -> None:
        """Take the second reader's verdict on a checkpoint. Before anybody goes back, the log is read once more."""
        for world in self._run.worlds.values():
            talk = next(reversed(world.talks.values()), None)
            if talk is None or not self._is_doubted(talk, e.prefix):
                continue
            if e.verdict in BAD:
                self._run.ledger.read(Confirm(world.generation.id, talk.ordinal, e.prefix, e.verdict))
            else:
                self._second(world, talk, e.verdict)

    def _is_doubted(self, talk: RestoreRound, prefix: str) -> bool:
        on_it = talk.decision is None and talk.candidates and talk.current.prefix == prefix
        return bool(on_it and talk.doubted)

    def confirmed(self, wait: Confirm, failure: Failure | None) -> None:
        """Go on after the log was read before somebody goes back."""
        world, talk = self._find(wait)
        if world is None or talk is None or not self._is_doubted(talk, wait.prefix):
            return
        if failure:
            talk.decision = replace(failure, phase="restore")
            self._announce(talk, talk.decision)
        elif self._is_retired(talk):
            talk.withdraw()
            self._look(world, talk)
        else:
            self._second(world, talk, wait.verdict)

    def _find(self, wait: Look | Confirm) -> tuple[World | None, RestoreRound | None]:
        world = self._run.worlds.get(wait.generation)
        return world, world.talks.get(wait.restore) if world else None

    def _second(self, world: World, talk: RestoreRound, verdict: str) -> None:
        decision = talk.hear_second(verdict)
        if decision is not None:
            self._decide(world, talk, decision)

    def recall(self, world: World, e: ev.Rejoin) -> None:
        """Take up a decision of a process that is gone: one worker has applied it, so the others must, too."""
        state = self._run.ledger.state
        talk = world.talks.get(e.restores)
        if e.restores < max(world.talks, default=1) or (talk and talk.decision):
            return
        elsewhere = CheckpointRecord(e.restored, step=-1, time=0.0, stock=True) if e.restored else None
        record = (state.find(e.restored) if state else None) or elsewhere
        talk = talk or self._open(world, RestoreRound(e.restores, None, world.tasks, self._run.now.monotonic), e.caller)
        talk.fork_point, talk.decision = e.fork_point, Apply(record, fork_point=e.fork_point)
        self._decide(world, talk, talk.decision)

    def _open(self, world: World, talk: RestoreRound, caller: Caller) -> RestoreRound:
        """Make this the world's current round."""
        for earlier in world.talks.values():
            if earlier.decision is None:
                message = f"{caller.task} has gone on to restore {talk.ordinal}"
                earlier.decision = Failure(Kind.INVALID_REQUEST, message, phase="restore", tasks=(caller.task,))
                self._announce(earlier, earlier.decision)
        world.talks[talk.ordinal] = talk
        return talk

    def _begin(self, world: World, e: ev.Restore) -> RestoreRound:
        now = self._run.now.monotonic
        talk = RestoreRound(e.ordinal, e.target, world.tasks, deadline=now + e.timeout, begun=now)
        self._open(world, talk, e.caller)
        self._look(world, talk)
        return talk

    def _look(self, world: World, talk: RestoreRound) -> None:
        """Read the log and propose what it has. If a member sees more of the log than that, `watch` looks again."""
        if not talk.looking:
            talk.looking = True
            self._run.ledger.read(Look(world.generation.id, talk.ordinal))

    def looked(self, wait: Look, failure: Failure | None) -> None:
        """Go on after the log was read for a restore that has nothing to propose yet."""
        world, talk = self._find(wait)
        if world is None or talk is None:
            return
        talk.looking = False
        ledger = self._run.ledger
        if failure and talk.decision is None:
            talk.decision = replace(failure, phase="restore")
        if talk.decision is not None:
            self._announce(talk, talk.decision)
        elif ledger.number >= talk.seen:
            decision = talk.propose(ledger.state, self._run.now.monotonic)
            if decision is None and talk.candidates:
                decision = Read(talk.current)
            if decision is not None:
                self._decide(world, talk, decision)

    def _decide(self, world: World, talk: RestoreRound, decision: Decision) -> None:
        if isinstance(decision, Apply):
            state = self._run.ledger.state
            ours = state.find(decision.record.prefix) if state and decision.record else None
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else ""
            nothing_since = talk.fork_point.partition("/")[2] == newest
            world.fork_point = talk.fork_point
            world.went_back_to = ours.prefix if ours and ours.prefix != newest and nothing_since else ""
            if ours:
                self._run.condemned.discard(ours.prefix)  # all have just verified it
        self._announce(talk, decision)

    def _announce(self, talk: RestoreRound, decision: Decision) -> None:
        waiting, talk.waiting = talk.waiting, {}
        for request in waiting:
            if isinstance(decision, Failure):
                self._run.refuse(request, decision)
            else:
                self._run.reply(request, decision)
        if not isinstance(decision, Read):
            self._upkeep.consider()  # which waits until a restore is over

    def watch(self, world: World, gone: set[Task]) -> None:
        """End a round that lacks somebody who is gone, or whose time is over."""
        talk = next(reversed(world.talks.values()), None)
        if talk is None or talk.decision is not None:
            return
        lost = tuple(task for task in talk.missing if task in gone) if gone else ()
        if lost:
            message = f"{names(lost)} went away while the workers agreed on what to restore"
            talk.decision = Failure(Kind.COORDINATOR_UNAVAILABLE, message, phase="restore", tasks=lost)
        elif self._run.now.monotonic >= talk.deadline:
            talk.decision = talk.timed_out()
        if talk.decision:
            self._announce(talk, talk.decision)
        elif talk.candidates is None:
            self._look(world, talk)
