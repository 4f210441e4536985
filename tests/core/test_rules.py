"""The rules of what to keep, alone and together, on any history: with rollbacks, wrong clocks, damage, equal steps."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast_coordinator.core.retention import Sweep, sweep
from holdfast_coordinator.core.rules import (
    Best,
    Every,
    EverySteps,
    History,
    NewerThan,
    Newest,
    Policy,
    Rule,
    metrics_of,
)
from holdfast_storage.records import CheckpointRecord, LogState, Pin
from support.cluster import WALL, checkpoint

HOUR = 3600.0

RULES: st.SearchStrategy[Rule] = st.one_of(
    st.builds(Newest, st.integers(1, 4)),
    st.builds(Best, st.integers(1, 4), st.sampled_from(["loss", "accuracy"]), st.sampled_from(["min", "max"])),
    st.builds(NewerThan, st.floats(0.0, 20 * HOUR)),
    st.builds(Every, st.floats(0.1, 10 * HOUR)),
    st.builds(EverySteps, st.integers(1, 9)),
)
POLICIES: st.SearchStrategy[Policy] = st.lists(RULES, min_size=1, max_size=4).map(tuple)
VALUES = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 1e300])


@st.composite
def any_records(draw: st.DrawFn) -> list[CheckpointRecord]:
    """Checkpoints of any steps and times: jobs have gone back, and clocks were wrong."""
    steps, times = st.integers(0, 40), st.floats(WALL - 50 * HOUR, WALL + 50 * HOUR)
    return [
        CheckpointRecord(
            prefix=f"ckpt-{step}.0000000a.{ordinal}/ckpt-{step}",
            step=step,
            time=draw(times),
            stock=draw(st.integers(0, 9)) == 0,
            preserved=draw(st.integers(0, 4)) == 0,
            metrics=(("accuracy", draw(VALUES)), ("loss", draw(VALUES))),
        )
        for ordinal, step in enumerate(draw(st.lists(steps, min_size=1, max_size=25)))
    ]


@st.composite
def any_states(draw: st.DrawFn) -> tuple[LogState, str]:
    """A state, and the checkpoint in it that was read back."""
    records = draw(any_records())
    prefixes = [record.prefix for record in records]
    damaged = draw(st.lists(st.sampled_from(prefixes), unique=True, max_size=3))
    preserved = draw(st.none() | st.floats(WALL - 60 * HOUR, WALL + 60 * HOUR))
    state = LogState("run", checkpoints=tuple(records), damaged=tuple(damaged), last_preserved=preserved)
    for pinned in draw(st.lists(st.sampled_from(prefixes), max_size=2)):
        state = state.pin(Pin(pinned, WALL, ""))
    return state, draw(st.sampled_from(prefixes))


def after(state: LogState, plan: Sweep) -> LogState:
    return state.retire(plan.retire, plan.preserve, plan.last_preserved)


@given(any_states(), POLICIES, st.data())
def test_what_never_goes(found: tuple[LogState, str], policy: Policy, data: st.DataObject) -> None:
    """What was read back, all that is newer, stock checkpoints and what somebody holds never go; nor do good ones that
    are kept for ever, whatever the rules are now. Guards against losing the last good one to an odd history."""
    state, verified = found
    leased = set(data.draw(st.lists(st.sampled_from([record.prefix for record in state.checkpoints]))))
    plan = sweep(state, policy, verified, leased)
    prefixes, pinned = [record.prefix for record in state.checkpoints], {pin.prefix for pin in state.pinned}
    gone = set(plan.retire)
    assert not gone & {*prefixes[prefixes.index(verified) :], *leased, *plan.preserve, *pinned}
    assert not [r for r in state.restorable if r.prefix in gone and (r.stock or r.preserved)]
    assert not set(plan.preserve) & set(state.damaged)
    assert len(gone) == len(plan.retire)
    assert gone == set(sweep(state, policy, verified).retire) - leased
    if plan:
        assert state.find(verified) in after(state, plan).restorable
        assert not sweep(after(state, plan), policy, verified, leased), "a sweep that does not come to an end"


@given(any_states(), POLICIES, POLICIES)
def test_any_of_is_the_union(found: tuple[LogState, str], one: Policy, other: Policy) -> None:
    """Two policies together keep what one of them keeps, in either order. Guards against a rule that looks at what
    others have left over."""
    state, verified = found
    both = sweep(state, one + other, verified)
    assert set(both.retire) == set(sweep(state, one, verified).retire) & set(sweep(state, other, verified).retire)
    assert both == sweep(state, other + one, verified)


@given(any_states(), RULES, st.data())
def test_a_rule_does_not_need_what_it_does_not_keep(
    found: tuple[LogState, str], rule: Rule, data: st.DataObject
) -> None:
    """A rule keeps the same after any of what it does not keep is gone. Guards against one that needs a memory of what
    was removed, and keeps less, or more, with every sweep."""
    state, _ = found
    ours = tuple(record for record in state.checkpoints if not record.stock)
    assume(ours)
    good = tuple(record for record in ours if record in state.restorable)
    last = None if state.last_preserved is None else min(state.last_preserved, ours[-1].time)
    pinned = {pin.prefix for pin in state.pinned}
    history = History(ours, good, pinned, last)
    kept = list(rule.keeps(history))
    gone = data.draw(st.sets(st.sampled_from(ours))) - {*kept, ours[-1]}
    left = History(
        tuple(record for record in ours if record not in gone),
        tuple(record for record in good if record not in gone),
        pinned,
        last,
    )
    assert set(rule.keeps(left)) == set(kept)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0.0, 5 * HOUR), VALUES), min_size=1, max_size=30),
    POLICIES,
    st.data(),
)
def test_removing_early_or_late_comes_to_the_same(
    saves: list[tuple[int, float, float | None]], policy: Policy, data: st.DataObject
) -> None:
    """Whether retention runs after every commit or once at the end, the same checkpoints are left: what is not kept
    once is not missed later. Guards against a decision that a later one would have wanted undone."""
    steps, times = accumulate(step for step, _, _ in saves), accumulate(pause for _, pause, _ in saves)
    at_once = bit_by_bit = LogState("run", last_preserved=WALL)
    assume(sum(isinstance(rule, Every) for rule in policy) <= 1)  # they have one last preserved time together
    for step, time, (_, _, value) in zip(steps, times, saves, strict=True):
        record = checkpoint(step, time=WALL + time, loss=value, accuracy=value)
        at_once, bit_by_bit = at_once.commit(record), bit_by_bit.commit(record)
        if data.draw(st.booleans()):
            bit_by_bit = after(bit_by_bit, sweep(bit_by_bit, policy, record.prefix))
    newest = at_once.checkpoints[-1].prefix
    at_once = after(at_once, sweep(at_once, policy, newest))
    bit_by_bit = after(bit_by_bit, sweep(bit_by_bit, policy, newest))
    assert [record.prefix for record in at_once.checkpoints] == [record.prefix for record in bit_by_bit.checkpoints]


def kept(policy: Policy, *records: CheckpointRecord, damaged: tuple[int, ...] = ()) -> list[int]:
    """The steps that stay after the last checkpoint was read back."""
    state = LogState("run", checkpoints=records, last_preserved=WALL)
    state = state.condemn([record.prefix for record in records if record.step in damaged])
    return [record.step for record in after(state, sweep(state, policy, records[-1].prefix)).checkpoints]


def losses(*values: float | None) -> list[CheckpointRecord]:
    """Checkpoints 1, 2, ... with these losses; None: it has none."""
    return [checkpoint(step, loss=value) for step, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("mode", "values", "left"),
    [
        ("min", [0.3, 0.1, 0.2, 0.4], [2, 3, 4]),
        ("max", [0.3, 0.1, 0.2, 0.4, 0.0], [1, 4, 5]),
        ("min", [0.3, None, 0.2, None, 0.4], [1, 3, 5]),
        ("min", [None, None, None], [3]),
        ("min", [0.5, 0.5, 0.5, 0.9], [2, 3, 4]),
        ("max", [-1e300, 1e300, 0.0, 0.0], [2, 4]),
    ],
)
def test_the_best(mode: str, values: list[float | None], left: list[int]) -> None:
    """The best stay, beside the newest; of equal ones the newer, and none without a value. Guards against a missing
    value that counts as the best, and with it the loss of the best."""
    assert kept((Best(2, "loss", "max" if mode == "max" else "min"),), *losses(*values)) == left


def test_the_best_of_another_metric() -> None:
    """A metric that nobody has passed keeps nothing. Guards against keeping by another metric's values."""
    assert kept((Best(2, "accuracy", "max"),), *losses(0.1, 0.2, 0.3)) == [3]


def test_a_damaged_best_one_makes_room() -> None:
    """A damaged checkpoint is not among the best. Guards against losing the second best for one that is lost."""
    assert kept((Best(1, "loss", "min"),), *losses(0.1, 0.2, 0.3), damaged=(1,)) == [2, 3]


def test_what_was_not_read_back_is_no_reason() -> None:
    """A checkpoint that nobody has read back takes the place of none, however good it is. Guards against losing the
    best one to bytes that cannot be read."""
    state = LogState("run", checkpoints=tuple(losses(0.2, 0.3, 0.1)))
    assert not sweep(state, (Best(1, "loss", "min"),), state.checkpoints[1].prefix)
    assert sweep(state, (Best(1, "loss", "min"),), state.checkpoints[2].prefix).retire == tuple(
        record.prefix for record in state.checkpoints[:2]
    )


def test_newer_than_with_clocks_that_jump() -> None:
    """A checkpoint of a clock that was ahead counts as of now, and one of a clock that was behind as old. Guards
    against all others being removed because one has a time in a year."""
    times = [0.0, 9 * HOUR, 9000 * HOUR, 9.5 * HOUR, -9000 * HOUR, 10 * HOUR]
    records = [checkpoint(step, time=WALL + time) for step, time in enumerate(times)]
    assert kept((NewerThan(HOUR),), *records) == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([0, 10, 20, 30, 35], [10, 20, 30, 35]),
        ([4, 9, 12, 15, 31, 38, 40, 44], [12, 31, 40, 44]),
        ([1, 2, 3], [3]),
    ],
)
def test_every_so_many_steps(steps: list[int], left: list[int]) -> None:
    """The first at or after each multiple stays. Guards against keeping nothing where saves by time hit no multiple."""
    assert kept((EverySteps(10),), *map(checkpoint, steps)) == left


def test_a_step_that_was_saved_twice() -> None:
    """After a rollback, the later of two checkpoints of a step is kept for it; but what was kept for ever before stays.
    Guards against keeping the abandoned branch alone."""
    again = replace(checkpoint(10), prefix="ckpt-10.0000000b.1/ckpt-10")
    records = [checkpoint(5), checkpoint(10), checkpoint(15), again, checkpoint(16), checkpoint(17)]
    state = LogState("run", checkpoints=tuple(records))
    plan = sweep(state, (EverySteps(10),), records[-1].prefix)
    assert plan.preserve == (again.prefix,)
    assert records[1].prefix in plan.retire
    early = LogState("run", checkpoints=(*records[:1], replace(records[1], preserved=True), *records[2:]))
    assert records[1].prefix not in sweep(early, (EverySteps(10),), records[-1].prefix).retire


def test_another_policy_keeps_what_was_kept_for_ever() -> None:
    """A program that was edited removes nothing that was kept for ever, and thins out what was merely there. Guards
    against a second program that deletes the milestones of weeks with its first save."""
    state = LogState("run", last_preserved=WALL)
    for step in range(1, 41):
        state = state.commit(checkpoint(step, time=WALL + step * HOUR))
        state = after(state, sweep(state, (Newest(2), EverySteps(10)), state.checkpoints[-1].prefix))
    assert [record.step for record in state.checkpoints] == [10, 20, 30, 39, 40]
    state = state.commit(checkpoint(41))
    assert [r.step for r in after(state, sweep(state, (Newest(1),), checkpoint(41).prefix)).checkpoints] == [
        10, 20, 30, 41,
    ]  # fmt: skip
    everything = [checkpoint(step, time=WALL + step * HOUR) for step in range(1, 13)]
    assert kept((Newest(2), Every(4 * HOUR)), *everything) == [4, 8, 11, 12]


def test_the_metrics_that_are_needed() -> None:
    """The log holds the metrics of the rules, each once. Guards against a log that grows with all that is passed."""
    policy = (Newest(1), Best(1, "loss", "min"), Best(2, "accuracy", "max"), Best(3, "loss", "max"))
    assert metrics_of(policy) == ("accuracy", "loss")
    assert metrics_of((Newest(1),)) == ()
