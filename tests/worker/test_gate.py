"""The loop's side of saves on request: what a step costs, and where it stops."""

from __future__ import annotations

import time

from holdfast.session.gate import Gate
from holdfast_storage.decision import CANCEL, SAVE, Decision
from support.figures import Figure

CHEAP = 20e-6
"""Seconds that a call may take if nothing is asked for."""


def passed(gate: Gate) -> bool:
    """Whether the loop goes on at its next boundary, without anything to do."""
    return not gate.cross() or gate.look() == ()


def test_what_a_step_costs(figure: Figure) -> None:
    """Nothing that anybody could measure in a step. Guards against a lock, a message or a clock in each step."""
    gate = Gate()
    assert passed(gate)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(10_000):
            gate.cross()
        times.append((time.perf_counter() - begun) / 10_000)
    assert min(times) < CHEAP
    figure("a boundary where nothing is asked for", f"{min(times) * 1e6:.2f} us")


def test_a_request() -> None:
    """The loop goes on up to its promise, waits there, and saves at the decision's boundary once. Guards against a
    step too far."""
    gate = Gate()
    for _ in range(3):
        assert passed(gate)
    assert gate.prepare(1)
    assert gate.promise == (1, 4)
    assert gate.cross()
    assert gate.look() is None
    waiting = gate.changed
    assert not waiting.is_known
    decision = Decision(1, SAVE, 6)
    assert gate.decide(decision)
    assert waiting.is_known
    assert gate.look() == ()
    assert passed(gate)
    assert gate.cross()
    assert gate.look() == (decision,)
    assert passed(gate)
    assert not gate.cross()


def test_a_cancelled_request() -> None:
    """The loop goes on, and the next request is another. Guards against a loop that stops for good."""
    gate = Gate()
    assert gate.prepare(1)
    assert gate.cross()
    assert gate.look() is None
    assert gate.decide(Decision(1, CANCEL))
    assert gate.look() == ()
    assert gate.prepare(2)
    assert gate.promise == (2, 2)


def test_in_turn() -> None:
    """Requests and decisions count in order of their numbers, each once. Guards against a message that comes twice, or
    late."""
    gate = Gate()
    assert not gate.prepare(2)
    assert not gate.decide(Decision(2, CANCEL))
    assert gate.prepare(1)
    assert not gate.prepare(1)
    assert gate.decide(Decision(1, SAVE, 5))
    assert not gate.decide(Decision(1, CANCEL))
    assert not gate.prepare(1)


def test_two_decisions_for_one_boundary() -> None:
    """Both are carried out there. Guards against a wish to end that is lost behind a save by the clock."""
    gate = Gate()
    first, second = Decision(1, SAVE, 1), Decision(2, SAVE, 1, exits=True)
    assert gate.prepare(1)
    assert gate.decide(first)
    assert gate.prepare(2)
    assert gate.decide(second)
    assert gate.cross()
    assert gate.look() == (first, second)
