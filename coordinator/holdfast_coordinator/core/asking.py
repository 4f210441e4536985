"""Saves that are asked for: by a worker whose host is to go away, by an operator, or by the clock. See `agreement`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from holdfast_storage.cluster import Task, names
from holdfast_storage.decision import CANCEL, FINISH, LONGEST_REASON, SAVE, Decision
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure

from . import events as ev
from .agreement import Agreement, Create, Output, Prepare, Tell, Wish
from .effects import CreateDecision, Post, Remark
from .membership import World
from .messages import Agreed, Caller
from .run import RunState

ANSWERED_WITHIN = 10.0
"""Seconds within which all workers promise: their sessions do, whatever their training loops are at."""

MARGIN = 2.0
"""Seconds of a deadline that are left for what comes after the save."""


class Asking:
    """Keeps `World.requests`."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def ask(self, e: ev.AskSave) -> None:
        """Take an operator's call, for the world that trains."""
        run, now = self._run, self._run.now.monotonic
        worlds = [world for world in run.worlds.values() if world.living(now)]
        world = next((each for each in worlds if each.generation.id == run.leading), worlds[-1] if worlds else None)
        if world is None:
            why = "no job is training in this run, as far as this coordinator knows"
            run.refuse(e.request, Failure(Kind.INVALID_REQUEST, why, phase="ask"))
        elif world.fenced:
            run.refuse(e.request, world.fenced)
        elif gone := world.gone(now):
            why = f"not all workers can save: {names(sorted(gone))} cannot be reached"
            run.refuse(e.request, Failure(Kind.SAVE_FAILED, why, phase="ask", tasks=tuple(sorted(gone))))
        else:
            self._wish(world, Wish("an operator asked for a save"))
            world.requests.waiting[e.request] = world.requests.agreement.number, now + e.timeout

    def heartbeat(self, e: ev.Heartbeat) -> None:
        world = self._run.present(e.caller)
        if world is None:
            return
        requests = world.requests
        if e.caller.task == world.chief:
            requests.every, requests.by_advice = e.save_every, e.by_advice
            requests.last = self._run.now.monotonic if requests.last is None else requests.last
        word = e.word
        if word.wish and not self._may_begin(world):
            word = replace(word, wish=None)
        self._do(world, requests.agreement.heard(e.caller.task, word))

    def decided(self, e: ev.Decided) -> None:
        """Take what stands as a decision, if that is known."""
        world = self._run.worlds.get(e.generation)
        if world is None:
            return
        requests, decision = world.requests, e.decision
        requests.tried = False  # if it is not known, the next tick tries again
        if decision is None:
            return
        requests.last = self._run.now.monotonic
        outputs = requests.agreement.stands(decision)
        for request, (number, _) in list(requests.waiting.items()):
            if number <= decision.number:
                del requests.waiting[request]
                self._run.reply(request, Agreed(decision))
        self._do(world, outputs)

    def watch(self, world: World, gone: Collection[Task]) -> None:
        """Look whether time is up for something, or has come for a save by the clock."""
        requests, now = world.requests, self._run.now.monotonic
        agreement = requests.agreement
        every = self._every(world)
        due = every and requests.last is not None and now - requests.last >= every
        if due and not agreement.open and not world.attempt and self._may_begin(world):
            self._wish(world, Wish(f"{every:.3g} s have passed since the last save"))
        if agreement.open and agreement.creating is None:
            missing = [task for task in agreement.missing if task in gone]
            if missing or now - requests.opened[1] >= ANSWERED_WITHIN:
                self._give_up(world, f"{names(missing or agreement.missing)} did not answer")
        elif agreement.creating is not None and not requests.tried:
            self._create(world, agreement.creating)
        for request, (_, until) in list(requests.waiting.items()):
            if now >= until:
                del requests.waiting[request]
                why = "the workers have not agreed in time on a step to save"
                self._run.refuse(request, Failure(Kind.SAVE_FAILED, why, phase="ask"))

    def _every(self, world: World) -> float:
        """Return the seconds from the beginning of a save by the clock to that of the next; 0: there are none.

        Without a failure so far, what is told is the least that the interval may be. It grows with the time.
        """
        advice = self._run.advice(world) if world.requests.by_advice else None
        if advice is None:
            return world.requests.every
        return advice.cost + (advice.least if advice.interval is None else advice.interval)

    def _may_begin(self, world: World) -> bool:
        """Return whether a request may be begun or joined: all are there.

        Also in a fenced world: by the save that fails all hear, at the same boundary, that they can save nothing more.
        """
        return world.requests.agreement.open or not world.gone(self._run.now.monotonic)

    def _wish(self, world: World, wish: Wish) -> None:
        self._do(world, world.requests.agreement.ask(wish))

    def _give_up(self, world: World, reason: str) -> None:
        agreement = world.requests.agreement
        if agreement.open:
            self._do(world, agreement.decide(_cancelled(agreement, reason)))

    def _do(self, world: World, outputs: list[Output]) -> None:
        requests, agreement = world.requests, world.requests.agreement
        if agreement.is_complete:
            outputs = [*outputs, *agreement.decide(self._judged(world))]
        if agreement.open and requests.opened[0] != agreement.number:
            requests.opened = agreement.number, self._run.now.monotonic
        for output in outputs:
            match output:
                case Create(decision):
                    self._create(world, decision)
                case Prepare(number, tasks):
                    self._post(world, tasks, number)
                case Tell(decision, tasks):
                    self._post(world, tasks, decision)

    def _create(self, world: World, decision: Decision) -> None:
        world.requests.tried = True
        self._run.emit(CreateDecision(world.generation.id, decision))

    def _post(self, world: World, tasks: Collection[Task], what: int | Decision) -> None:
        for task in tasks:
            presence = world.presence[task]
            if presence.attached:
                self._run.emit(Post(Caller(world.generation.id, task, presence.incarnation), what))

    def _judged(self, world: World) -> Decision:
        """Return the decision: with a deadline, a new save, or only the one in flight if there is no time for both."""
        requests, attempt, now = world.requests, world.attempt, self._run.now.monotonic
        agreement = requests.agreement
        wish, verb = agreement.wish or Wish(), SAVE
        left = 0.0 if wish.deadline is None else max(0.1, wish.deadline - now)
        pace, reason = max(requests.paces, default=0.0), wish.reason
        rest = max(0.0, pace - (now - attempt.begun)) + pace + MARGIN if attempt else 0.0
        if wish.deadline is not None and attempt and rest > left:
            verb = FINISH
            reason += (
                f"; {left:.0f} s are left and a save takes {pace:.1f} s, so no new one is begun: only that of step "
                f"{attempt.step}, which is in flight, is finished"
            )
        elif wish.deadline is not None and pace + MARGIN > left:
            reason += f"; {left:.0f} s are left and a save takes {pace:.1f} s: it may come too late"
        self._run.emit(Remark(f"request {agreement.number} of generation {world.generation.id}: {verb} ({reason})"))
        return Decision(agreement.number, verb, agreement.boundary, wish.exits, reason[:LONGEST_REASON], left)


def _cancelled(agreement: Agreement, reason: str) -> Decision:
    return Decision(agreement.number, CANCEL, reason=reason[:LONGEST_REASON])
