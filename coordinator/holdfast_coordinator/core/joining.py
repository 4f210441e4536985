"""How a world of workers forms, and how one that has formed meets a coordinator that was restarted.

Joining fences nobody: several worlds of a run may be known at once, and the first save of one of them takes the lead.
"""

from __future__ import annotations

import math

from holdfast_storage.cluster import Task
from holdfast_storage.records import Generation

from . import events as ev
from .membership import BACK_WITHIN, POLL, Forming, Joiner, World, disagreement
from .messages import Caller, Failure, Waiting
from .restoring import Restoring
from .run import Run, generation_of, replaced, superseded


class Joining:
    """The world that is forming, and the way into `Run.worlds`."""

    def __init__(self, run: Run, restoring: Restoring) -> None:
        self._run = run
        self._restoring = restoring
        self.forming: Forming | None = None
        # Of joiners that are between two calls: what they are to be told at the next, and until when they may ask.
        self._untold: dict[tuple[Task, str], tuple[Failure, float]] = {}

    def join(self, e: ev.Join) -> None:
        run = self._run
        for world in run.worlds.values():
            if world.has(Caller("", e.task, e.incarnation)):
                if world.joining is None:
                    run.reply(e.request, world.joined())
                else:
                    world.joining.append(e.request)
                return
        untold = self._untold.pop((e.task, e.incarnation), None)
        if untold:
            run.refuse(e.request, untold[0])
            return
        forming = self.forming or Forming(e.cluster, run.now.monotonic)
        failure = disagreement(forming, e.task, e.cluster)
        if failure:
            # All hear of it: the others would wait in vain for a worker that can never join them.
            for task, joiner in forming.joiners.items():
                if joiner.request is None:
                    self._untold[task, joiner.incarnation] = (failure, joiner.since + joiner.timeout)
                run.refuse(joiner.request, failure)
            run.refuse(e.request, failure)
            self.forming = None
            return
        self.forming = forming
        before = forming.joiners.get(e.task)
        if before and before.incarnation != e.incarnation:
            run.refuse(before.request, replaced(e.task))
        elif before and before.request is not None:
            run.reply(before.request, Waiting(forming.missing))
        forming.joiners[e.task] = Joiner(e.incarnation, e.request, run.now.monotonic, e.timeout)
        if forming.is_complete:
            self._form(forming, e.fresh_generation)

    def _form(self, forming: Forming, generation: str) -> None:
        run = self._run
        self.forming = None
        world = forming.complete(generation)
        world.joining = [joiner.request for joiner in forming.joiners.values() if joiner.request is not None]
        self._admit(world)

        def then(failure: Failure | None) -> None:
            requests, world.joining = world.joining or [], None
            if failure:
                del run.worlds[generation]
            else:
                world.base, world.entries = run.fork_point, run.ledger.number + 1
            for request in requests:
                if failure:
                    run.refuse(request, failure)
                else:
                    run.reply(request, world.joined())

        run.ledger.read(then)

    def _admit(self, world: World) -> None:
        # Not attached yet is as good as lost: who does not show up soon is not waited for.
        for task in world.tasks:
            world.update(task, lost=self._run.now.monotonic)
        self._run.worlds[world.generation.id] = world

    def rejoin(self, e: ev.Rejoin) -> None:
        run = self._run
        known = run.worlds.get(e.caller.generation)
        if known:
            if run.world(e.caller, e.request):
                self._restoring.recall(known, e)
                run.reply(e.request, known.joined())
            return

        def then(failure: Failure | None) -> None:
            state = run.ledger.state
            led = generation_of(state)
            over = state is not None and e.caller.generation in state.superseded
            if not failure and led != e.caller.generation and (over or run.fork_point != e.base):
                failure = superseded(f"the run has been taken over by generation {led or 'unknown'} since")
            if failure:
                run.refuse(e.request, failure)
                return
            if e.caller.generation not in run.worlds:
                recorded = state.generation if state and led == e.caller.generation else None
                generation = recorded or Generation(e.caller.generation, e.members)
                leader = state.leader.id if state and state.leader else ""
                world = World(generation, e.cluster, led_by=leader, base=e.base, unsettled=[])
                world.entries = run.ledger.number + 1
                self._admit(world)
                self._answer_members(world)
            self.rejoin(e)

        run.ledger.read(then)

    def _answer_members(self, world: World) -> None:
        """Those who join because they have not heard that this world has formed with a coordinator process before."""
        joiners = self.forming.joiners if self.forming else {}
        members = [task for task, joiner in joiners.items() if world.has(Caller("", task, joiner.incarnation))]
        for task in members:
            request = joiners[task].request
            if request is not None:  # else it is told when it asks again
                self._run.reply(request, world.joined())
        self._forget_joiners(members)

    def cancelled(self, e: ev.Cancelled) -> None:
        joiners = self.forming.joiners if self.forming else {}
        self._forget_joiners([task for task, joiner in joiners.items() if joiner.request == e.request])

    def _forget_joiners(self, tasks: list[Task]) -> None:
        if self.forming:
            for task in tasks:
                del self.forming.joiners[task]
            if not self.forming.joiners:
                self.forming = None

    def watch(self) -> None:
        """Tell those who have waited for a while whom they wait for, and forget those who do not ask again."""
        forming, now = self.forming, self._run.now.monotonic
        self._untold = {who: told for who, told in self._untold.items() if now < told[1]}
        if forming is None:
            return
        for task, joiner in list(forming.joiners.items()):
            if joiner.request is None and now - joiner.since >= BACK_WITHIN:
                del forming.joiners[task]
        if not forming.joiners:
            self.forming = None
        # Where all have joined, those between two calls are about to be back and must then find the others there: of
        # a large world some are always away, if each leaves by its own clock.
        patience = POLL if len(forming.joiners) < len(forming.tasks) else math.inf
        missing = forming.missing
        for joiner in forming.joiners.values():
            # Half of its time, so that it hears whom it waits for before it gives up.
            if joiner.request is not None and now - joiner.since >= min(patience, joiner.timeout / 2):
                self._run.reply(joiner.request, Waiting(missing))
                joiner.request, joiner.since = None, now
