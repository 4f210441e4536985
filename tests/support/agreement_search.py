"""Every history of workers and coordinators that agree on a boundary to save at, state by state.

The parts are the product's: `core.agreement.Agreement` and `holdfast.session.gate.Gate`. A state is the training loops
with their gates, the coordinators, the decisions on storage, creates that may still land, and every message that was
ever sent to a worker: it may arrive at any later time, again, or never. In each state, anything that can
happen next may:

- a loop counts a boundary, compares its orders, reads them, and acts by what it has read; or it has waited for too long
  and creates a cancellation;
- a session hears a message. It answers a request in three steps, and the loop goes on between them. It tells any
  coordinator where it stands, with what it wishes;
- a create is done, loses its answer, or lands later or never;
- a coordinator gives up, is killed and replaced by one that knows nothing, is gone for good, or goes on beside its
  successor; a worker is killed; somebody wishes.

What must hold: of two workers that have passed a boundary, both have saved there or neither (else `lone`); a request
has one decision; from each state there is a way to the end without any more faults (else `stuck`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from holdfast.session.gate import Gate, Orders
from holdfast_coordinator.core.agreement import Agreement, Create, Output, Prepare, Tell, Wish, Word
from holdfast_storage.decision import CANCEL, SAVE, Decision


class Bounds(NamedTuple):
    """How much there is of all, and how often what may happen."""

    workers: int = 2
    last: int = 2  # boundaries of each loop
    wishes: int = 1  # of workers
    asks: int = 0  # of operators
    restarts: int = 0  # coordinators that are killed and replaced
    beside: int = 0  # coordinators that go on beside their successor
    gone: int = 0  # coordinators that are killed for good
    deaths: int = 0  # workers that are killed
    lost: int = 0  # creates without an answer: done, or to land later, or never
    give_ups: int = 0  # of coordinators, while all is well
    waits: int = 0  # of loops, too long
    numbers: int = 1  # requests; nobody wishes for more
    lead: int = 0
    lockstep: bool = True  # a step ends only if all are in it

    def __str__(self) -> str:
        usual = Bounds()
        told = [f"{name}={value}" for name, value in self._asdict().items() if value != getattr(usual, name)]
        return ",".join(told) or "as usual"


LEFT = ("wishes", "asks", "restarts", "beside", "gone", "deaths", "lost", "give_ups", "waits")


class Rules(NamedTuple):
    """What the search itself plays of the protocol. The rest is the product's."""

    exclusive: bool = True  # a decision is created under a name that must be free
    missing_settles_nothing: bool = True  # that an object is not there does not mean that there will be none
    arms_first: bool = True  # a session arms the loop, and then reads its count
    session_promises: bool = True  # not the loop, when it has come to its next boundary
    waits: bool = True  # who waits for long goes on only by a decision
    may_cancel: bool = True  # a loop that waits for long can end that by itself
    tells_promises: bool = True  # each heartbeat repeats the promise: a successor learns of it


class Worker(NamedTuple):
    at: str  # "train", "counted", "look", "act", "wait", "cancel", "done" or "dead"
    gate: int  # number of its gate
    passed: int = 0  # boundaries
    saved: tuple[int, ...] = ()
    read: Orders | None = None  # the orders that the loop acts by
    preparing: int = 0  # the request that the session has half heard
    noted: int = -1  # the count that it has read for that
    wishes: bool = False


class State(NamedTuple):
    workers: tuple[Worker, ...]
    coordinators: tuple[int, ...]  # numbers of their agreements
    objects: tuple[Decision, ...]
    late: frozenset[Decision]
    sent: frozenset[tuple[int, int | Decision]]
    left: tuple[int, ...]


Move = tuple[str, State, bool]
"""The story, the next state, and whether that is a fault."""


class Violation(AssertionError):
    """A history that ends badly."""


class _HalfHeard(Exception):
    """A session is stopped between arming the loop and reading its count."""


class _Stopped(Gate):
    def _order(self, orders: Orders) -> None:
        super()._order(orders)
        if orders.arming:
            raise _HalfHeard


class _Table:
    """Values by number. Equal ones have one."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.values: list[Any] = []

    def number(self, key: Any) -> int:
        found = self._numbers.setdefault(key, len(self.values))
        if found == len(self.values):
            self.values.append(key)
        return found


class Search:
    """All states within some bounds. `run` returns how many there are, or raises Violation with the story."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds = bounds
        self.rules = rules or Rules()
        self.saves: set[tuple[int, int]] = set()  # request and boundary of all that were agreed on
        self._gates, self._agreements = _Table(), _Table()
        self._heard: dict[Any, tuple[int, tuple[Output, ...]]] = {}
        self._failure = ""

    # -- gates and agreements as values --

    def _gate(self, number: int, kind: type[Gate] = Gate) -> Gate:
        count, seen, orders, promised, decided = self._gates.values[number]
        gate = kind()
        gate.count, gate.orders, gate.number, gate.decided = count, orders, promised, decided
        gate.seen = orders if seen else None
        return gate

    def _kept(self, gate: Gate) -> int:
        key = gate.count, gate.seen is gate.orders, gate.orders, gate.number, gate.decided
        return self._gates.number(key)

    def _agreement(self, number: int) -> Agreement:
        name, is_open, wish, promises, creating, latest, known, decided = self._agreements.values[number]
        made = Agreement(tuple(range(self.bounds.workers)))  # type: ignore[arg-type]
        made.number, made.open, made.wish, made.promises = name, is_open, wish, dict(promises)
        made.creating, made.latest, made.known = creating, latest, dict(known)
        for task, ordinal in decided:
            made.decided.note(task, ordinal)
        return made

    def _agreed(self, a: Agreement) -> int:
        known, decided = tuple(sorted(a.known.items())), tuple(sorted(a.decided.at.items()))
        promises = tuple(sorted(a.promises.items()))
        return self._agreements.number((a.number, a.open, a.wish, promises, a.creating, a.latest, known, decided))

    def _fresh(self) -> int:
        return self._agreed(Agreement(tuple(range(self.bounds.workers))))  # type: ignore[arg-type]

    # -- states --

    def _start(self) -> State:
        workers = (Worker("train", self._kept(Gate())),) * self.bounds.workers
        left = tuple(getattr(self.bounds, name) for name in LEFT)
        return State(workers, (self._fresh(),), (), frozenset(), frozenset(), left)

    def _may(self, s: State, what: str) -> bool:
        return s.left[LEFT.index(what)] > 0

    def _spend(self, s: State, what: str) -> State:
        place = LEFT.index(what)
        return s._replace(left=(*s.left[:place], s.left[place] - 1, *s.left[place + 1 :]))

    def _put(self, s: State, index: int, worker: Worker) -> State:
        workers = (*s.workers[:index], worker, *s.workers[index + 1 :])
        return self._swept(s._replace(workers=workers))

    def _swept(self, s: State) -> State:
        """Without messages that have no effect any more."""

        def counts(index: int, what: int | Decision) -> bool:
            worker = s.workers[index]
            if worker.at == "dead":
                return False
            _, _, _, promised, decided = self._gates.values[worker.gate]
            return what > promised and what > decided if isinstance(what, int) else what.number > decided

        return s._replace(sent=frozenset(each for each in s.sent if counts(*each)))

    def _create(self, s: State, decision: Decision) -> tuple[State, Decision]:
        """Return the state and what stands there then."""
        there = next((each for each in s.objects if each.number == decision.number), None)
        if there is not None and self.rules.exclusive:
            return s, there
        if there is not None and there != decision:
            self._failure = f"request {decision.number} is decided twice: {there} and {decision}"
        objects = (*(each for each in s.objects if each is not there), decision)
        return s._replace(objects=tuple(sorted(objects, key=lambda each: each.number))), decision

    def _created(
        self, s: State, who: str, decision: Decision, then: Callable[[State, Decision], State]
    ) -> Iterator[Move]:
        """The ways that a create can go."""
        what = f"{decision.verb} {decision.boundary} ({decision.number})"
        if not self.rules.missing_settles_nothing and decision.verb == CANCEL:
            found = next((each for each in s.objects if each.number == decision.number), decision)
            yield f"{who} takes {found.verb} for what stands", then(s, found), False
            return
        done, stands = self._create(s, decision)
        yield f"{who} creates {what}: {stands.verb} stands", then(done, stands), False
        if self._may(s, "lost"):
            yield f"{who} creates {what}, without an answer", self._spend(done, "lost"), True
            late = self._spend(s, "lost")
            yield f"{who} sends {what}", late._replace(late=late.late | {decision}), True

    def _told(self, s: State, place: int, agreement: int, outputs: tuple[Output, ...]) -> State:
        sent = set(s.sent)
        for output in outputs:
            if isinstance(output, Prepare) and output.number <= self.bounds.numbers:
                sent |= {(task, output.number) for task in output.tasks}  # type: ignore[misc]
            elif isinstance(output, Tell):
                sent |= {(task, output.decision) for task in output.tasks}  # type: ignore[misc]
        coordinators = (*s.coordinators[:place], agreement, *s.coordinators[place + 1 :])
        return self._swept(s._replace(sent=frozenset(sent), coordinators=coordinators))

    # -- what can happen --

    def _moves(self, s: State) -> Iterator[Move]:
        for index, worker in enumerate(s.workers):
            if worker.at not in ("done", "dead"):
                yield from self._loop(s, index, worker)
                if self._may(s, "deaths"):
                    dead = worker._replace(at="dead", preparing=0, read=None)
                    yield f"worker {index} is killed", self._put(self._spend(s, "deaths"), index, dead), True
            if worker.at != "dead":
                yield from self._session(s, index, worker)
                if self._may(s, "wishes") and not worker.wishes:
                    wishing = worker._replace(wishes=True)
                    yield f"worker {index} has notice", self._put(self._spend(s, "wishes"), index, wishing), True
        for place, number in enumerate(s.coordinators):
            yield from self._coordinator(s, place, number)
        for decision in s.late:
            landed, _ = self._create(s._replace(late=s.late - {decision}), decision)
            yield f"the create of {decision.verb} ({decision.number}) lands", landed, False
        if self._may(s, "asks") and s.coordinators:
            place = len(s.coordinators) - 1
            agreement = self._agreement(s.coordinators[place])
            outputs = self._all(agreement, agreement.ask(Wish("asked")))
            told = self._told(self._spend(s, "asks"), place, self._agreed(agreement), outputs)
            yield "an operator asks", told, True

    def _loop(self, s: State, index: int, worker: Worker) -> Iterator[Move]:
        gate = self._gate(worker.gate)
        match worker.at:
            case "train":
                others = (other for place, other in enumerate(s.workers) if place != index)
                if self.bounds.lockstep and any(other.passed < worker.passed for other in others):
                    return  # it is in a collective that the others have not come to
                gate.cross()  # what it compares is compared later
                counted = worker._replace(at="counted", gate=self._kept(gate))
                yield f"worker {index} counts {gate.count}", self._put(s, index, counted), False
            case "counted" if gate.orders is gate.seen:
                yield self._passes(s, index, worker, gate)
            case "counted" | "look":
                acts = worker._replace(at="act", read=gate.orders)
                yield f"worker {index} reads its orders at {gate.count}", self._put(s, index, acts), False
            case "act":
                yield self._acts(s, index, worker, gate)
            case "wait":
                assert worker.read is not None
                if gate.orders != worker.read:
                    look = worker._replace(at="look", read=None)
                    yield f"worker {index} has other orders", self._put(s, index, look), False
                elif not self.rules.waits and self._may(s, "waits"):
                    gate.decided += 1
                    gate.orders = Orders()
                    on = worker._replace(at="look", read=None, gate=self._kept(gate))
                    yield f"worker {index} goes on by itself", self._put(self._spend(s, "waits"), index, on), False
                elif self.rules.may_cancel and self._may(s, "waits") and not worker.read.arming:
                    cancels = worker._replace(at="cancel")
                    yield f"worker {index} waits for long", self._put(self._spend(s, "waits"), index, cancels), False
            case "cancel":
                yield from self._cancels(s, index, worker, gate)

    def _acts(self, s: State, index: int, worker: Worker, gate: Gate) -> Move:
        now, seen = gate.orders, gate.seen
        assert worker.read is not None
        gate.orders, gate.seen = worker.read, None
        due = gate.look()
        if gate.seen is None:
            gate.seen = seen
        elif worker.read == now:
            gate.seen = now
        gate.orders = now
        if due is None:
            waits = worker._replace(at="wait", gate=self._kept(gate))
            return f"worker {index} waits at {gate.count}", self._put(s, index, waits), False
        acted = worker._replace(read=None)
        if not due:
            return self._passes(s, index, acted, gate)
        self.saves |= {(decision.number, gate.count) for decision in due}
        story, state, fault = self._passes(s, index, acted._replace(saved=(*acted.saved, gate.count)), gate)
        return story.replace("passes", "saves at"), state, fault

    def _passes(self, s: State, index: int, worker: Worker, gate: Gate) -> Move:
        at = "done" if gate.count == self.bounds.last else "train"
        passed = worker._replace(at=at, gate=self._kept(gate), passed=gate.count)
        return f"worker {index} passes {gate.count}", self._put(s, index, passed), False

    def _cancels(self, s: State, index: int, worker: Worker, gate: Gate) -> Iterator[Move]:
        look = worker._replace(at="look", read=None)
        if gate.orders != worker.read:
            yield f"worker {index} has heard meanwhile", self._put(s, index, look), False
            return

        def then(state: State, stands: Decision) -> State:
            return self._put(state, index, self._learns(look, stands))

        yield from self._created(s, f"worker {index}", Decision(gate.decided + 1, CANCEL), then)

    def _learns(self, worker: Worker, decision: Decision) -> Worker:
        gate = self._gate(worker.gate)
        news = gate.decide(decision)
        return worker._replace(gate=self._kept(gate), wishes=worker.wishes and not (news and decision.verb == SAVE))

    def _session(self, s: State, index: int, worker: Worker) -> Iterator[Move]:
        if worker.preparing and worker.noted < 0:
            noted = worker._replace(noted=self._gate(worker.gate).count)
            yield f"session {index} reads the count", self._put(s, index, noted), False
            return
        if worker.preparing:
            gate = self._gate(worker.gate)
            count, gate.count = gate.count, worker.noted
            gate.prepare(worker.preparing, self.bounds.lead)
            gate.count = count
            promised = worker._replace(gate=self._kept(gate), preparing=0, noted=-1)
            yield f"session {index} promises {gate.orders.limit}", self._put(s, index, promised), False
            return
        for to, what in s.sent:
            if to != index:
                continue
            if isinstance(what, int) and not self.rules.arms_first:
                noted = worker._replace(preparing=what, noted=self._gate(worker.gate).count)
                yield f"session {index} reads the count", self._put(s, index, noted), False
            elif isinstance(what, int):
                gate = self._gate(worker.gate, _Stopped)
                try:
                    if gate.prepare(what, self.bounds.lead):
                        promised = worker._replace(gate=self._kept(gate))
                        yield f"session {index} promises {gate.orders.limit}", self._put(s, index, promised), False
                except _HalfHeard:
                    gate.number = self._gates.values[worker.gate][3]  # only then is it promised
                    half = worker._replace(gate=self._kept(gate), preparing=what)
                    yield f"session {index} arms for {what}", self._put(s, index, half), False
            elif (learnt := self._learns(worker, what)) != worker:
                yield f"session {index} hears {what.verb} {what.boundary}", self._put(s, index, learnt), False

    def _coordinator(self, s: State, place: int, number: int) -> Iterator[Move]:
        for index, worker in enumerate(s.workers):
            # It hears how the session stands now. A heartbeat that is late is a coordinator that acts late.
            if worker.at == "dead" or worker.preparing:
                continue
            heard = self._hears(number, index, worker)
            if (told := self._told(s, place, *heard)) != s:
                yield f"coordinator {place} hears worker {index}", told, False
        agreement = self._agreement(number)
        if agreement.creating is not None:

            def then(state: State, stands: Decision) -> State:
                after = self._agreement(number)
                outputs = self._all(after, after.stands(stands))
                return self._told(state, place, self._agreed(after), outputs)

            yield from self._created(s, f"coordinator {place}", agreement.creating, then)
        dead = any(worker.at in ("dead", "done") for worker in s.workers)
        if agreement.open and agreement.creating is None and (dead or self._may(s, "give_ups")):
            outputs = tuple(agreement.decide(Decision(agreement.number, CANCEL)))
            after = s if dead else self._spend(s, "give_ups")
            told = self._told(after, place, self._agreed(agreement), outputs)
            yield f"coordinator {place} gives up {agreement.number}", told, not dead
        before, behind = s.coordinators[:place], s.coordinators[place + 1 :]
        if self._may(s, "restarts"):
            fresh = self._spend(s, "restarts")._replace(coordinators=(*before, self._fresh(), *behind))
            yield f"coordinator {place} is replaced", fresh, True
        if self._may(s, "gone"):
            yield f"coordinator {place} is gone", self._spend(s, "gone")._replace(coordinators=before + behind), True
        if self._may(s, "beside") and not behind:
            more = self._spend(s, "beside")._replace(coordinators=(*s.coordinators, self._fresh()))
            yield "a second coordinator begins", more, True

    def _hears(self, number: int, index: int, worker: Worker) -> tuple[int, tuple[Output, ...]]:
        key = number, index, worker.gate, worker.wishes
        if key not in self._heard:
            gate, agreement = self._gate(worker.gate), self._agreement(number)
            promised, limit = gate.promise
            tells = self.rules.session_promises or gate.count >= limit
            tells = tells and (self.rules.tells_promises or (agreement.open and agreement.number == promised))
            wish = Wish("wish") if worker.wishes and gate.decided < self.bounds.numbers else None
            word = Word(gate.decided, *((promised, limit) if tells else (0, 0)), wish)
            outputs = self._all(agreement, agreement.heard(index, word))  # type: ignore[arg-type]
            self._heard[key] = self._agreed(agreement), outputs
        return self._heard[key]

    def _all(self, agreement: Agreement, outputs: list[Output]) -> tuple[Output, ...]:
        """Decide, as `core.asking` does, once that can be done."""
        if agreement.is_complete:
            outputs = [*outputs, *agreement.decide(Decision(agreement.number, SAVE, agreement.boundary))]
        return tuple(output for output in outputs if not isinstance(output, Create))

    # -- what must hold --

    def _check(self, s: State) -> None:
        for place, one in enumerate(s.workers):
            for other in s.workers[place + 1 :]:
                both = min(one.passed, other.passed)
                mine, theirs = ({count for count in each.saved if count <= both} for each in (one, other))
                if mine != theirs:
                    raise Violation(f"lone save at {sorted(mine ^ theirs)}")
        if self._failure:
            raise Violation(self._failure)

    def _is_over(self, s: State) -> bool:
        """Whether all have ended, or are in a collective with somebody who is dead, which is TensorFlow's to end."""
        if all(worker.at in ("done", "dead") for worker in s.workers):
            return True
        if not self.bounds.lockstep or not any(worker.at == "dead" for worker in s.workers):
            return False
        behind = min(worker.passed for worker in s.workers)
        return all(w.at in ("done", "dead") or (w.at == "train" and w.passed > behind) for w in s.workers)

    def run(self, limit: int = 3_000_000) -> int:
        start = self._start()
        parents: dict[State, tuple[State, str] | None] = {start: None}
        back: dict[State, list[State]] = {}
        good: list[State] = []
        queue = deque([start])
        while queue:
            state = queue.popleft()
            if self._is_over(state):
                good.append(state)
            for story, following, fault in self._moves(state):
                if following == state:
                    continue
                if not fault:
                    back.setdefault(following, []).append(state)
                if following in parents:
                    continue
                parents[following] = state, story
                try:
                    self._check(following)
                except Violation as violation:
                    raise Violation(f"{violation}\n{_story(parents, following)}") from None
                assert len(parents) <= limit, f"more than {limit:,} states"
                queue.append(following)
        self._check_ends(parents, back, good)
        return len(parents)

    def _check_ends(self, parents: Any, back: dict[State, list[State]], good: list[State]) -> None:
        fine, queue = set(good), deque(good)
        while queue:
            for before in back.get(queue.popleft(), ()):
                if before not in fine:
                    fine.add(before)
                    queue.append(before)
        stuck = next((state for state in parents if state not in fine), None)
        if stuck is not None:
            where = ", ".join(f"{worker.at} {worker.passed}" for worker in stuck.workers)
            raise Violation(f"stuck: {where}\n{_story(parents, stuck)}")


def _story(parents: dict[State, tuple[State, str] | None], state: State) -> str:
    lines: list[str] = []
    while (parent := parents[state]) is not None:
        state, line = parent
        lines.append(line)
    return "\n".join(f"  {number}. {line}" for number, line in enumerate(reversed(lines), 1))


def found(search: Search, pattern: str) -> str:
    """The story of what a broken rule leads to. AssertionError if it leads to nothing, or to something else."""
    try:
        story, states = "", search.run()
    except Violation as violation:
        story, states = str(violation), 0
    assert story, f"not found in {states:,} states"
    assert re.match(pattern, story), story
    return story
