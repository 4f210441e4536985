"""The states of a save."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from holdfast_coordinator.core.attempt import TRANSITIONS, Phase, SaveAttempt, diagram
from holdfast_coordinator.core.messages import Ballot, Go, SaveReport
from holdfast_coordinator.core.waits import SaveId
from holdfast_storage.cluster import Task

A, B = Task("worker", 0), Task("worker", 1)


def attempt(phase: Phase = Phase.VOTING) -> SaveAttempt:
    return SaveAttempt(SaveId("0123abcd", 3, 1), 30, "ckpt", (A, B), deadline=9.0, phase=phase)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Phase, Phase)))
def test_only_what_the_table_says(before: Phase, after: Phase) -> None:
    """A save goes only from one phase to another as the table says. Guards against a transition that nobody
    thought of."""
    save = attempt(before)
    if after in TRANSITIONS[before]:
        save.advance(after)
        assert save.phase is after
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {after.value}"):
            save.advance(after)
        assert save.phase is before


def test_the_table_is_complete() -> None:
    """Every phase has a row, is reached, and ends. Guards against a phase that nothing leads to, or that never ends."""
    assert set(TRANSITIONS) == set(Phase)
    reached, ending = {Phase.VOTING}, {Phase.COMMITTED, Phase.FAILED}
    for _ in Phase:
        reached |= {after for phase in reached for after in TRANSITIONS[phase]}
        ending |= {phase for phase, following in TRANSITIONS.items() if ending & set(following)}
    assert reached == ending == set(Phase)


def test_no_way_out_of_an_outcome() -> None:
    """An outcome has no way out. Guards against an outcome that was told and changes."""
    assert TRANSITIONS[Phase.COMMITTED] == TRANSITIONS[Phase.FAILED] == ()


def test_what_is_published_cannot_fail() -> None:
    """A published save cannot fail. Guards against reporting a commit in the log as a failure because a later step
    failed."""
    assert TRANSITIONS[Phase.PUBLISHING] == (Phase.COMMITTED,)


def test_who_decides() -> None:
    """From the commit entry on, only the log decides. Guards against giving up a save whose commit entry may stand
    already."""
    undecided = {phase for phase in Phase if attempt(phase).undecided}
    assert undecided == {Phase.VOTING, Phase.LEADING, Phase.WRITING, Phase.FINALIZING}


def test_diagram() -> None:
    """The diagram in the documentation is the table. Guards against a diagram that lies."""
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> vote"]
    edges = {tuple(line.split(" --> ")) for line in lines[2:]}
    expected = {(f"    {p.value}", after.value) for p, following in TRANSITIONS.items() for after in following}
    assert edges == expected | {("    committed", "[*]"), ("    failed", "[*]")}


def test_who_is_missing() -> None:
    """The missing workers of each phase are named. Guards against naming the wrong worker when a save is late."""
    save = attempt()
    assert save.missing == (A, B)
    save.ballots[A] = Ballot(30, "ckpt", b"", b"", b"")
    assert save.missing == (B,)
    assert save.timed_out().tasks == (B,)
    assert "worker-1 to call save()" in save.timed_out().message
    save.ballots[B] = save.ballots[A]
    save.go = Go()
    save.advance(Phase.WRITING)
    save.reports[B] = SaveReport(30, "ckpt", (), None)
    assert save.timed_out().tasks == (A,)
    assert "worker-0 to write" in save.timed_out().message


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_a_reason(phase: Phase) -> None:
    """Every phase has a reason. Guards against a status or a failure that does not say what was waited for."""
    save = attempt(phase)
    assert save.reason()
    assert save.timed_out().phase == phase.value
    if phase not in (Phase.VOTING, Phase.WRITING):
        assert save.timed_out().tasks == ()


def test_a_save_may_turn_out_full() -> None:
    """What was voted for as a delta may be reported as full, by all or by none. Guards against a checkpoint of which
    one worker's part is on a base, and another's is not."""
    delta, full = (SaveReport(30, "ckpt", (), None, base=base) for base in ("ckpt-2.0123abcd.2/ckpt-2", ""))
    other = replace(delta, base="ckpt-1.0123abcd.1/ckpt-1")
    for first, second in ((delta, full), (full, delta)):
        save = replace(attempt(Phase.WRITING), base=delta.base)
        assert "on ckpt-1.0123abcd.1/ckpt-1" in save.disagrees(A, other)
        assert not save.disagrees(A, first)
        save.take(A, first)
        assert save.base == first.base
        assert "worker-0 has reported" in save.disagrees(B, second)
        assert not save.disagrees(B, first)
