"""Restore calls. Each ordinal is one round of all workers of a world, one at a time."""

from __future__ import annotations

import math
from dataclasses import replace

from holdfast_storage.cluster import Task, names
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, newest_of

from . import events as ev
from .attempt import Phase
from .damage import Damage
from .membership import LEAP, World
from .messages import Apply, Caller, Read, Verdict
from .restore_round import BAD, Decision, RestoreRound
from .run import RunState
from .upkeep import Upkeep
from .waits import Confirm, Look


class Restoring:
    """Keeps `World.rounds`, and what a world builds on once it has restored."""

    def __init__(self, run: RunState, damage: Damage, upkeep: Upkeep) -> None:
        self._run = run
        self._damage = damage
        self._upkeep = upkeep

    def restore(self, e: ev.Restore) -> None:
        run = self._run
        world = run.world(e.caller, e.request)
        if world is None:
            return
        round_ = world.rounds.get(e.ordinal)
        if round_ is None and world.fenced:
            run.refuse(e.request, world.fenced)
            return
        if round_ is None and e.ordinal < max(world.rounds, default=0):
            run.refuse(e.request, Failure(Kind.INVALID_REQUEST, f"restore {e.ordinal} is over", phase="restore"))
            return
        last = max(world.rounds, default=0)
        if e.ordinal > last + LEAP:
            message = f"{e.caller.task} speaks of restore {e.ordinal}, but the run is at restore {last}"
            run.refuse(e.request, Failure(Kind.INVALID_REQUEST, message, phase="restore", tasks=(e.caller.task,)))
            return
        round_ = round_ or self._begin(world, e)
        world.restores(e.caller.task, e.ordinal)
        if round_.target is not None and e.target != round_.target:
            failure = Failure(
                Kind.INVALID_REQUEST,
                f"the workers do not restore the same checkpoint: {e.caller.task} asks for "
                f"{e.target or 'the newest'!r}, others for {round_.target or 'the newest'!r}",
                phase="restore",
                tasks=(e.caller.task,),
            )
            run.refuse(e.request, failure)
            if round_.decision is None:
                round_.decision = failure
                self._announce(round_, failure)
            return
        round_.must_end_within(e.timeout)
        round_.waiting[e.request] = e.caller.task
        if round_.decision is not None:
            self._announce(round_, round_.decision)
            return
        if e.entries - 1 > max(round_.seen, run.ledger.number) and not round_.recalled:
            # What this coordinator's mount shows late, or what was not looked at since.
            round_.seen, round_.seen_by = e.entries - 1, e.caller.task
            round_.withdraw()
            self._look(world, round_)
        if round_.candidates is not None:
            self._hear(world, round_, e)

    def _hear(self, world: World, round_: RestoreRound, e: ev.Restore) -> None:
        run = self._run
        if round_.candidates and e.prefix != round_.current.prefix:
            del round_.waiting[e.request]
            run.reply(e.request, Read(round_.current))
            return
        said = round_.verdicts.get(e.caller.task)
        if round_.candidates and said and said[0] != e.verdict:
            del round_.waiting[e.request]
            message = f"{e.caller.task} says that {e.prefix} is {e.verdict}, after it has said that it is {said[0]}"
            run.refuse(e.request, Failure(Kind.INVALID_REQUEST, message, phase="restore", tasks=(e.caller.task,)))
            return
        if e.verdict in BAD and round_.candidates:
            if self._is_retired(round_):
                round_.withdraw()
                self._look(world, round_)
                return
            second = round_.second or self._damage.second(e.prefix, round_.since)
            if second and not round_.second and self._damage.is_condemned(e.prefix):
                # It was found damaged before; but the run may have something newer by now.
                run.ledger.read(Confirm(world.generation.id, round_.ordinal, e.prefix, "damaged"))
            else:
                round_.second, round_.lost = second, self._damage.lost
        decision = round_.hear(e.caller.task, e.verdict if round_.candidates else "good", e.reason)
        if decision is not None:
            self._decide(world, round_, decision)

    def _is_retired(self, round_: RestoreRound) -> bool:
        """Return whether the candidate was the run's and was replaced by a newer one since it was proposed."""
        state, record = self._run.ledger.state, round_.current
        return not round_.recalled and record.step >= 0 and state is not None and state.find(record.prefix) is None

    def read_back(self, prefix: str, verdict: Verdict) -> None:
        """Take the second reader's verdict on a checkpoint. Before anybody goes back, the log is read once more."""
        for world in self._run.worlds.values():
            round_ = next(reversed(world.rounds.values()), None)
            if round_ is None or not self._is_doubted(round_, prefix):
                continue
            if verdict in BAD:
                self._run.ledger.read(Confirm(world.generation.id, round_.ordinal, prefix, verdict))
            else:
                self._second(world, round_, verdict)

    def _is_doubted(self, round_: RestoreRound, prefix: str) -> bool:
        on_it = round_.decision is None and round_.candidates and round_.current.prefix == prefix
        return bool(on_it and round_.doubted)

    def confirmed(self, wait: Confirm, failure: Failure | None) -> None:
        """Go on after the log was read before somebody goes back."""
        world, round_ = self._find(wait)
        if world is None or round_ is None or not self._is_doubted(round_, wait.prefix):
            return
        if failure:
            round_.decision = replace(failure, phase="restore")
            self._announce(round_, round_.decision)
        elif self._is_retired(round_):
            round_.withdraw()
            self._look(world, round_)
        else:
            self._second(world, round_, wait.verdict)

    def _find(self, wait: Look | Confirm) -> tuple[World | None, RestoreRound | None]:
        world = self._run.worlds.get(wait.generation)
        return world, world.rounds.get(wait.restore) if world else None

    def _second(self, world: World, round_: RestoreRound, verdict: str) -> None:
        round_.lost = self._damage.lost
        decision = round_.hear_second(verdict)
        if decision is not None:
            self._decide(world, round_, decision)

    def recall(self, world: World, e: ev.Rejoin) -> None:
        """Take up a decision of a process that is gone: a worker has applied it, so the others must, too.

        What a world has gone back to changes the run for others, so it counts only if all its members say so.
        """
        state = self._run.ledger.state
        round_ = world.rounds.get(e.restores)
        if e.restores < max(world.rounds, default=1) or (round_ and round_.decision):
            return
        elsewhere = CheckpointRecord(e.restored, step=-1, time=0.0, stock=True) if e.restored else None
        record = (state.find(e.restored) if state else None) or elsewhere
        round_ = round_ or self._open(
            world, RestoreRound(e.restores, None, world.tasks, math.inf, self._run.now.monotonic), e.caller
        )
        decision = round_.recall(e.caller.task, record, e.fork_point)
        if decision is not None:
            self._decide(world, round_, decision)
            return
        for request in [request for request, task in round_.waiting.items() if task not in round_.verdicts]:
            del round_.waiting[request]
            self._run.reply(request, Read(round_.current))  # it was about to be asked about another one

    def _open(self, world: World, round_: RestoreRound, caller: Caller) -> RestoreRound:
        """Make this the world's current round."""
        for earlier in world.rounds.values():
            if earlier.decision is None:
                message = f"{caller.task} has gone on to restore {round_.ordinal}"
                earlier.decision = Failure(Kind.INVALID_REQUEST, message, phase="restore", tasks=(caller.task,))
                self._announce(earlier, earlier.decision)
        world.rounds[round_.ordinal] = round_
        return round_

    def _begin(self, world: World, e: ev.Restore) -> RestoreRound:
        now = self._run.now.monotonic
        round_ = RestoreRound(e.ordinal, e.target, world.tasks, deadline=now + e.timeout, begun=now)
        self._open(world, round_, e.caller)
        self._look(world, round_)
        return round_

    def _look(self, world: World, round_: RestoreRound) -> None:
        """Read the log and propose what it has. If a member sees more of the log than that, `watch` looks again."""
        if not round_.looking:
            round_.looking = True
            self._run.ledger.read(Look(world.generation.id, round_.ordinal))

    def looked(self, wait: Look, failure: Failure | None) -> None:
        """Go on after the log was read for a restore that has nothing to propose yet."""
        world, round_ = self._find(wait)
        if world is None or round_ is None:
            return
        round_.looking = False
        ledger = self._run.ledger
        if failure and round_.decision is None:
            round_.decision = replace(failure, phase="restore")
        if round_.decision is not None:
            self._announce(round_, round_.decision)
        elif ledger.number >= round_.seen and not round_.recalled:
            decision = round_.propose(ledger.state, self._run.now.monotonic)
            if decision is None and round_.candidates:
                decision = Read(round_.current)
            if decision is not None:
                self._decide(world, round_, decision)

    def _decide(self, world: World, round_: RestoreRound, decision: Decision) -> None:
        if isinstance(decision, Apply):
            state = self._run.ledger.state
            ours = state.find(decision.record.prefix) if state and decision.record else None
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else ""
            nothing_since = newest_of(round_.fork_point) == newest
            world.fork_point = round_.fork_point
            world.went_back_to = ours.prefix if ours and ours.prefix != newest and nothing_since else ""
            if round_.recalled and world.attempt and world.attempt.phase is Phase.WRITING:
                # The one who came last says what the save in flight goes on from: its commit records that.
                world.attempt.went_back_to, world.went_back_to = world.went_back_to, ""
            if ours and state:
                self._run.condemned -= {each.prefix for each in state.chain(ours)}  # all have just verified it
        self._announce(round_, decision)

    def _announce(self, round_: RestoreRound, decision: Decision) -> None:
        waiting, round_.waiting = round_.waiting, {}
        for request in waiting:
            if isinstance(decision, Failure):
                self._run.refuse(request, decision)
            else:
                self._run.reply(request, decision)
        if not isinstance(decision, Read):
            self._upkeep.consider()  # which waits until a restore is over

    def watch(self, world: World, gone: set[Task]) -> None:
        """End a round that lacks somebody who is gone, or whose time is over."""
        round_ = next(reversed(world.rounds.values()), None)
        if round_ is None or not round_.is_open:
            return
        lost = tuple(task for task in round_.missing if task in gone) if gone else ()
        if lost:
            message = f"{names(lost)} went away while the workers agreed on what to restore"
            round_.decision = Failure(Kind.COORDINATOR_UNAVAILABLE, message, phase="restore", tasks=lost)
        elif self._run.now.monotonic >= round_.deadline:
            round_.decision = round_.timed_out()
        if round_.decision:
            self._announce(round_, round_.decision)
        elif round_.candidates is None:
            self._look(world, round_)
