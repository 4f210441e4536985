"""Forms worlds of workers, and takes up formed worlds after a restart of the coordinator.

Joining fences nobody: a run may have several worlds at once, and the first save of one of them takes the lead.
"""

from __future__ import annotations

import math

from holdfast_storage.cluster import Task, chief_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Generation, newest_of

from . import events as ev
from .membership import BACK_WITHIN, LEAP, POLL, Claim, Forming, Joiner, World, disagreement
from .messages import Caller, Waiting
from .restoring import Restoring
from .run import RunState, generation_of, replaced, superseded, taken
from .waits import Form


class Joining:
    """Keeps `RunState.forming`, and puts worlds into `RunState.worlds`."""

    def __init__(self, run: RunState, restoring: Restoring) -> None:
        self._run = run
        self._restoring = restoring

    def join(self, e: ev.Join) -> None:
        run = self._run
        for world in run.worlds.values():
            if world.has(Caller("", e.task, e.incarnation)):
                if world.joining is None:
                    world.is_back(e.task)
                    run.reply(e.request, world.joined())
                else:
                    world.joining.append(e.request)
                return
        untold = self._run.untold.pop((e.task, e.incarnation), None)
        if untold:
            run.refuse(e.request, untold[0])
            return
        forming = self._run.forming or Forming(e.cluster, run.now.monotonic)
        failure = disagreement(forming, e.task, e.cluster)
        if failure:
            # All are told: the others would wait in vain for a worker that can never join them.
            for task, joiner in forming.joiners.items():
                if joiner.request is None:
                    self._run.untold[task, joiner.incarnation] = (failure, joiner.since + joiner.timeout)
                run.refuse(joiner.request, failure)
            run.refuse(e.request, failure)
            self._run.forming = None
            return
        self._run.forming = forming
        before = forming.joiners.get(e.task)
        if before and before.incarnation != e.incarnation:
            run.refuse(before.request, replaced(e.task))
        elif before and before.request is not None:
            run.reply(before.request, Waiting(forming.missing))
        forming.add(e.task, Joiner(e.incarnation, e.request, run.now.monotonic, e.timeout))
        if forming.is_complete:
            self._form(forming, e.fresh_generation)

    def _form(self, forming: Forming, generation: str) -> None:
        run = self._run
        self._run.forming = None
        world = forming.complete(generation)
        world.joining = [joiner.request for joiner in forming.joiners.values() if joiner.request is not None]
        self._admit(world)

        run.ledger.read(Form(generation))

    def formed(self, wait: Form, failure: Failure | None) -> None:
        """The log was read for a world that is complete."""
        run, world = self._run, self._run.worlds[wait.generation]
        requests, world.joining = world.joining or [], None
        if not failure and run.ledger.state and run.ledger.state.closed:
            failure = Failure(Kind.INVALID_REQUEST, run.ledger.state.closed, phase="join")
        if failure:
            del run.worlds[wait.generation]
        else:
            world.fork_point, world.entries = run.fork_point, run.ledger.number + 1
        for request in requests:
            if failure:
                run.refuse(request, failure)
            else:
                run.reply(request, world.joined())

    def _admit(self, world: World) -> None:
        # A worker that has not attached yet counts as lost if it does not do so soon.
        for task in world.tasks:
            world.update(task, lost=self._run.now.monotonic)
        self._run.worlds[world.generation.id] = world

    def rejoin(self, e: ev.Rejoin) -> None:
        run = self._run
        world = run.worlds.get(e.caller.generation)
        if world is None:
            run.ledger.read(e)
        elif not world.has(e.caller):
            run.refuse(e.request, replaced(e.caller.task))
        elif failure := self._disagreement(world, e):
            run.refuse(e.request, failure)
        else:
            if e.restores > max(world.rounds, default=0) and world.back is None:
                world.back = set()  # another process has had this world meanwhile: each must say what it knows
            world.is_back(e.caller.task, Claim(e.restores, e.restored, e.fork_point))
            world.calls(e.caller.task, run.now.monotonic)
            self._restoring.recall(world, e)
            run.reply(e.request, world.joined())

    def _disagreement(self, world: World, e: ev.Rejoin) -> Failure | None:
        """Return why a member's word about its world does not count: another member's, or the log, is against it."""
        claim, known = Claim(e.restores, e.restored, e.fork_point), world.claim
        has_led = generation_of(self._run.ledger.state) == world.generation.id
        if (e.members and e.members != world.generation.members) or e.cluster != world.cluster:
            what = "names other members of its world, or another cluster, than the log or another member"
        elif known and claim.ordinal == known.ordinal:
            if claim == known:
                return None
            what = f"says that it restored {claim.restored or 'nothing'!r}, and another {known.restored or 'nothing'!r}"
        elif claim.ordinal and world.back is not None and not has_led and claim.fork_point != world.fork_point:
            what = "builds on another state of the run than the others"
        elif claim.ordinal and not claim.restored and newest_of(claim.fork_point):
            what = "says that it restored nothing, where there was a checkpoint"
        elif claim.ordinal > max(world.rounds, default=0) + LEAP:
            what = f"speaks of restore {claim.ordinal}"
        else:
            return None
        message = f"{e.caller.task} {what}: the workers do not agree on what their world is; start the job again"
        return Failure(Kind.INVALID_REQUEST, message, phase="join", tasks=(e.caller.task,))

    def rejoined(self, e: ev.Rejoin, failure: Failure | None) -> None:
        """The log was read for a worker that has come back."""
        run, state, generation = self._run, self._run.ledger.state, e.caller.generation
        led = generation_of(state)
        over = state is not None and generation in state.superseded
        if not failure and led != generation and (over or run.fork_point != e.fork_point):
            failure = superseded(taken(state))
        if failure:
            run.refuse(e.request, failure)
            return
        if generation not in run.worlds:
            recorded = state.generation if state and led == generation else None
            leader = state.leader.id if state and state.leader else ""
            if not recorded and not e.members:
                # The log does not know the world yet: only its chief does.
                run.reply(e.request, Waiting((chief_of(e.cluster),)))
                return
            members = recorded or Generation(generation, e.members)
            world = World(members, e.cluster, led_by=leader, fork_point=e.fork_point, unsettled=[], back=set())
            world.entries = run.ledger.number + 1
            self._admit(world)
            self._answer_members(world)
        self.rejoin(e)

    def _answer_members(self, world: World) -> None:
        """Answer members who still join, not knowing that their world has formed with an earlier process."""
        joiners = self._run.forming.joiners if self._run.forming else {}
        members = [task for task, joiner in joiners.items() if world.has(Caller("", task, joiner.incarnation))]
        for task in members:
            world.is_back(task)
            request = joiners[task].request
            if request is not None:  # otherwise it is told when it asks again
                self._run.reply(request, world.joined())
        self._forget_joiners(members)

    def cancelled(self, e: ev.Cancelled) -> None:
        asking = self._run.forming.asking if self._run.forming else {}
        if e.request in asking:
            self._forget_joiners([asking[e.request]])

    def _forget_joiners(self, tasks: list[Task]) -> None:
        if self._run.forming:
            for task in tasks:
                self._run.forming.forget(task)
            if not self._run.forming.joiners:
                self._run.forming = None

    def watch(self) -> None:
        """Tell those who have waited for a while for whom they wait, and forget those who do not ask again."""
        forming, now = self._run.forming, self._run.now.monotonic
        self._run.untold = {who: told for who, told in self._run.untold.items() if now < told[1]}
        if forming is None:
            return
        for task, joiner in list(forming.joiners.items()):
            if joiner.request is None and now - joiner.since >= BACK_WITHIN:
                forming.forget(task)
        if not forming.joiners:
            self._run.forming = None
        # If all have joined, those between two calls will be back soon and must find the others waiting: in
        # a large world some would always be away if each left by its own clock.
        patience = POLL if len(forming.joiners) < len(forming.tasks) else math.inf
        missing = forming.missing
        for task, joiner in forming.joiners.items():
            # After half of its time, so that it hears for whom it waits before it gives up.
            if joiner.request is not None and now - joiner.since >= min(patience, joiner.timeout / 2):
                self._run.reply(joiner.request, Waiting(missing))
                forming.told(task, now)
