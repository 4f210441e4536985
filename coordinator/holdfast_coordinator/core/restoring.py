"""Restore calls: each ordinal is one talk of all workers of a world, one at a time."""

from __future__ import annotations

from dataclasses import replace

from holdfast_storage.records import Task

from . import events as ev
from .membership import REMEMBERED, World
from .run import Run
from .talk import Decision, RestoreTalk
from .values import Apply, Failure, Read, names


class Restoring:
    """Keeps `World.talks`, and what a world builds on once it has restored."""

    def __init__(self, run: Run) -> None:
        self._run = run

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
            run.refuse(e.request, Failure("invalid_request", f"restore {e.ordinal} is over", phase="restore"))
            return
        talk = talk or self._begin(world, e)
        if e.target != talk.target:
            failure = Failure(
                "invalid_request",
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
        elif talk.candidates is not None:
            if e.prefix != talk.current.prefix:
                del talk.waiting[e.request]
                run.reply(e.request, Read(talk.current))
            else:
                decision = talk.hear(e.caller.task, e.verdict, e.reason)
                if decision is not None:
                    self._decide(world, talk, decision)

    def _begin(self, world: World, e: ev.Restore) -> RestoreTalk:
        for earlier in world.talks.values():
            if earlier.decision is None:
                message = f"{e.caller.task} has gone on to restore {e.ordinal}"
                earlier.decision = Failure("invalid_request", message, phase="restore", tasks=(e.caller.task,))
                self._announce(earlier, earlier.decision)
        talk = RestoreTalk(e.ordinal, e.target, world.tasks, deadline=self._run.now.monotonic + e.timeout)
        world.talks[e.ordinal] = talk
        for ordinal in sorted(world.talks)[:-REMEMBERED]:
            del world.talks[ordinal]

        def then(failure: Failure | None) -> None:
            if failure and talk.decision is None:
                talk.decision = replace(failure, phase="restore")
            if talk.decision is None:
                self._decide(world, talk, talk.propose(self._run.ledger.state) or Read(talk.current))
            else:
                self._announce(talk, talk.decision)

        self._run.ledger.read(then)
        return talk

    def _decide(self, world: World, talk: RestoreTalk, decision: Decision) -> None:
        if isinstance(decision, Apply):
            state = self._run.ledger.state
            ours = state.find(decision.record.prefix) if state and decision.record else None
            newest = state.checkpoints[-1] if state and state.checkpoints else None
            world.base = talk.base
            world.went_back_to = ours.prefix if ours and ours != newest else ""
        self._announce(talk, decision)

    def _announce(self, talk: RestoreTalk, decision: Decision) -> None:
        waiting, talk.waiting = talk.waiting, {}
        for request in waiting:
            if isinstance(decision, Failure):
                self._run.refuse(request, decision)
            else:
                self._run.reply(request, decision)

    def watch(self, world: World, gone: set[Task]) -> None:
        """End a talk that misses somebody who is gone, or whose time is over."""
        talk = next(reversed(world.talks.values()), None)
        if talk is None or talk.decision is not None:
            return
        lost = tuple(task for task in talk.missing if task in gone) if gone else ()
        if lost:
            message = f"{names(lost)} went away while the workers agreed on what to restore"
            talk.decision = Failure("coordinator_unavailable", message, phase="restore", tasks=lost)
        elif self._run.now.monotonic >= talk.deadline:
            talk.decision = talk.timed_out()
        if talk.decision:
            self._announce(talk, talk.decision)
