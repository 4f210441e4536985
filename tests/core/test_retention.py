"""What may go, held against the rules of `tf.train.CheckpointManager`.

`Stock` is that manager's bookkeeping (tensorflow/python/checkpoint/checkpoint_management.py: `__init__`, `_sweep` and
`save`), statement by statement, without its files.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core.retention import Sweep, sweep
from holdfast_coordinator.core.rules import Every, Newest, Policy
from holdfast_storage.records import CheckpointRecord, LogState, Pin, Tag
from support.cluster import WALL, checkpoint


class Stock:
    def __init__(self, now: float, max_to_keep: int | None, every_n_hours: float | None) -> None:
        self.max_to_keep = max_to_keep
        self.every_n_hours = every_n_hours
        self.last_preserved = now
        self.maybe_delete: OrderedDict[str, float] = OrderedDict()
        self.deleted: list[str] = []
        self.preserved: list[str] = []

    def save(self, prefix: str, now: float) -> None:
        self.maybe_delete[prefix] = now
        if not self.max_to_keep:
            return
        while len(self.maybe_delete) > self.max_to_keep:
            filename, timestamp = self.maybe_delete.popitem(last=False)
            if self.every_n_hours and timestamp - self.every_n_hours * 3600.0 >= self.last_preserved:
                self.last_preserved = timestamp
                self.preserved.append(filename)
                continue
            self.deleted.append(filename)


def short(max_to_keep: int | None, every_n_hours: float | None) -> Policy:
    """The policy of the manager's two arguments."""
    rules: Policy = () if max_to_keep is None else (Newest(max_to_keep),)
    return (*rules, Every(every_n_hours * 3600.0)) if rules and every_n_hours else rules


@given(
    st.lists(st.floats(0, 4 * 3600.0), min_size=1, max_size=30),
    st.none() | st.integers(1, 4),
    st.sampled_from([None, 0.5, 1.0, 3.0]),
)
def test_as_tensorflow(pauses: list[float], max_to_keep: int | None, every_n_hours: float | None) -> None:
    """Retention keeps what TensorFlow's manager keeps. Guards against another choice in either direction."""
    stock = Stock(WALL, max_to_keep, every_n_hours)
    policy = short(max_to_keep, every_n_hours)
    state = LogState("run", last_preserved=WALL)
    deleted: list[str] = []
    now = WALL
    for step, pause in enumerate(pauses):
        now += pause
        record = checkpoint(step, time=now)
        stock.save(record.prefix, now)
        state = state.commit(record)
        plan = sweep(state, policy, record.prefix)
        deleted += plan.retire
        state = state.retire(plan.retire, plan.preserve, plan.last_preserved)
        assert deleted == stock.deleted
        assert [c.prefix for c in state.checkpoints if c.preserved] == stock.preserved
        assert [c.prefix for c in state.checkpoints if not c.preserved] == list(stock.maybe_delete)
        assert state.last_preserved == stock.last_preserved
        assert not sweep(state, policy, record.prefix), "a sweep that does not come to an end"


@given(
    ahead=st.floats(-1e9, 1e9),
    wrong=st.integers(1, 30),
    keep=st.integers(1, 4),
    before=st.integers(0, 10),
)
def test_a_clock_that_is_wrong_for_a_while(ahead: float, wrong: int, keep: int, before: int) -> None:
    """A wrong clock costs at most one interval. Guards against a clock that is a year ahead for two seconds, after
    which nothing, or everything, is kept for ever."""
    state = LogState("run", last_preserved=WALL)
    policy = (Newest(keep), Every(3600.0))
    since: list[int] = []  # steps that were kept, of those at the right time again
    first = before + wrong + keep
    for step in range(first + 120):  # one in ten minutes
        now = WALL + 600.0 * step
        record = checkpoint(step, time=now + ahead if before <= step < before + wrong else now)
        state = state.commit(record)
        plan = sweep(state, policy, record.prefix)
        state = state.retire(plan.retire, plan.preserve, plan.last_preserved)
        since += [step for prefix in plan.preserve if step >= first]
        assert not sweep(state, policy, record.prefix), "a sweep that does not come to an end"
    pauses = [later - earlier for earlier, later in pairwise([first, *since, first + 120])]
    assert max(pauses) <= 6 + keep
    assert len(since) <= 120 // 6 + 1


def of(*records: CheckpointRecord, last_preserved: float | None = WALL) -> LogState:
    return LogState("run", checkpoints=records, last_preserved=last_preserved)


def test_stock_checkpoints_stay() -> None:
    """Stock checkpoints stay. Guards against deleting files of a directory that was taken over."""
    state = of(checkpoint(1, stock=True), checkpoint(2, stock=True), checkpoint(3), checkpoint(4))
    plan = sweep(state, (Newest(1),), checkpoint(4).prefix)
    assert plan.retire == (checkpoint(3).prefix,)


def test_what_is_preserved_stays() -> None:
    """What is kept for ever stays. Guards against another policy that deletes it."""
    state = of(checkpoint(1, preserved=True), checkpoint(2), checkpoint(3))
    assert sweep(state, (Newest(1),), checkpoint(3).prefix).retire == (checkpoint(2).prefix,)


def test_nothing_goes_for_what_was_not_read_back() -> None:
    """Nothing goes in favour of what was not read back. Guards against deleting the last good checkpoint for newer ones
    that nobody can read."""
    state = of(*(checkpoint(step) for step in range(1, 6)))
    assert sweep(state, (Newest(1),), checkpoint(3).prefix).retire == tuple(checkpoint(i).prefix for i in (1, 2))
    assert not sweep(state, (Newest(1),), checkpoint(1).prefix)
    assert not sweep(state, (Newest(1),), "not there any more")


def test_what_was_read_back_stays() -> None:
    """What was read back stays. Guards against losing the one known good checkpoint to newer ones."""
    state = of(*(checkpoint(step) for step in range(1, 6)))
    for keep in range(1, 6):
        for verified in range(1, 6):
            assert checkpoint(verified).prefix not in sweep(state, (Newest(keep),), checkpoint(verified).prefix).retire


def test_order_is_that_of_commit() -> None:
    """The order is that of commits. Guards against deleting a checkpoint after a rollback because its step is the
    smallest."""
    state = of(checkpoint(1), checkpoint(2), checkpoint(3)).restored(checkpoint(1).prefix).commit(checkpoint(4))
    assert sweep(state, (Newest(2),), checkpoint(4).prefix).retire == (checkpoint(2).prefix, checkpoint(3).prefix)


def test_without_a_last_preserved_time() -> None:
    """An imported log has no last preserved time. Guards against an error in an import."""
    state = of(checkpoint(1), checkpoint(2), last_preserved=None)
    assert sweep(state, (Newest(1), Every(3600.0)), checkpoint(2).prefix) == Sweep(
        preserve=(checkpoint(1).prefix,), last_preserved=checkpoint(1).time
    )


def test_a_damaged_one_does_not_count() -> None:
    """A damaged checkpoint does not count. Guards against deleting a good one because a damaged one takes its place."""
    state = of(*(checkpoint(step) for step in range(1, 6))).condemn((checkpoint(4).prefix,))
    newest = checkpoint(5).prefix
    assert sweep(state, (Newest(2),), newest).retire == (checkpoint(1).prefix, checkpoint(2).prefix)
    assert sweep(state, (Newest(3),), newest).retire == (checkpoint(1).prefix,)


def test_a_damaged_one_goes_when_it_would_have_gone() -> None:
    """A damaged checkpoint goes when it would have gone. Guards against keeping it for ever, or removing it before
    anybody could look."""
    state = of(*(checkpoint(step) for step in range(1, 4))).condemn((checkpoint(2).prefix,))
    policy = (Newest(2),)
    assert not sweep(state, policy, checkpoint(3).prefix), "one newer good one is not two"
    state = state.commit(checkpoint(4))
    assert sweep(state, policy, checkpoint(4).prefix).retire == (checkpoint(1).prefix, checkpoint(2).prefix)


def test_a_damaged_one_is_not_kept_for_ever() -> None:
    """A damaged checkpoint is not kept for ever. Guards against keeping what nobody can restore."""
    state = of(checkpoint(1, time=WALL + 7200), checkpoint(2, time=WALL + 7201), checkpoint(3, preserved=True))
    newest = checkpoint(4, time=WALL + 7204)
    state = state.commit(newest).condemn((checkpoint(1).prefix, checkpoint(3).prefix))
    assert sweep(state, (Newest(1), Every(3600.0)), newest.prefix) == Sweep(
        (checkpoint(1).prefix, checkpoint(3).prefix), (checkpoint(2).prefix,), WALL + 7201
    )


def test_nothing_goes_for_a_damaged_one() -> None:
    """Nothing goes in favour of a damaged checkpoint. Guards against replacing good ones by what was found damaged
    after its read-back."""
    state = of(*(checkpoint(step) for step in range(1, 4))).condemn((checkpoint(3).prefix,))
    assert not sweep(state, (Newest(1),), checkpoint(3).prefix)


@given(
    st.lists(st.sampled_from(["good", "damaged", "stock", "preserved", "preserved and damaged"]), max_size=9),
    st.integers(1, 4),
    st.integers(0, 8),
)
def test_the_good_ones_that_are_to_be_kept_are_kept(kinds: list[str], keep: int, verified: int) -> None:
    """As many good checkpoints stay as were asked for. Guards against fewer of them because of what is among them."""
    records = [
        checkpoint(step, stock=kind == "stock", preserved="preserved" in kind) for step, kind in enumerate(kinds)
    ]
    state = of(*records).condemn([r.prefix for r, kind in zip(records, kinds, strict=True) if "damaged" in kind])
    newest = checkpoint(verified).prefix
    plan = sweep(state, (Newest(keep),), newest)
    after = state.retire(plan.retire, plan.preserve, plan.last_preserved)
    good = [r for r, kind in zip(records, kinds, strict=True) if kind == "good"]
    assert [r for r in good if r in after.checkpoints][-keep:] == good[-keep:]
    assert {r for r in state.restorable if r.stock or r.preserved} <= set(after.checkpoints)
    assert not plan or state.find(newest) in after.restorable
    assert not sweep(after, (Newest(keep),), newest), "a sweep that does not come to an end"


def test_pinned_ones_stay_and_do_not_count() -> None:
    """A pinned checkpoint never goes, damaged or not, and as many others stay as without it. Guards against a pin that
    is forgotten, and one that costs a checkpoint that retention should keep."""
    state = LogState("run", checkpoints=tuple(map(checkpoint, range(1, 6))), damaged=(checkpoint(2).prefix,))
    for number in (1, 2, 4):
        state = state.pin(Pin(checkpoint(number).prefix, 0.0, ""))
    newest = checkpoint(5).prefix
    assert sweep(state, (Newest(1),), newest).retire == (checkpoint(3).prefix,)
    assert not sweep(state, (Newest(2),), newest)
    unpinned = state.unpin(checkpoint(4).prefix)
    assert sweep(unpinned, (Newest(2),), newest).retire == (checkpoint(3).prefix,)


def test_tagged_ones_stay_as_pinned_ones_do() -> None:
    """A tagged checkpoint never goes and does not count, also if it is pinned too. Guards against a served step that
    retention removes, and one that is spared until its pin is taken away, and not by its tag."""
    state = LogState("run", checkpoints=tuple(map(checkpoint, range(1, 6))))
    state = state.tag(Tag("production", checkpoint(2).prefix, 0.0)).pin(Pin(checkpoint(2).prefix, 0.0, ""))
    newest = checkpoint(5).prefix
    for tagged in (state, state.unpin(checkpoint(2).prefix)):
        assert sweep(tagged, (Newest(2),), newest).retire == (checkpoint(1).prefix, checkpoint(3).prefix)
    moved = state.unpin(checkpoint(2).prefix).tag(Tag("production", checkpoint(3).prefix, 1.0))
    assert sweep(moved, (Newest(2),), newest).retire == (checkpoint(1).prefix, checkpoint(2).prefix)


def test_leased_ones_count_and_stay() -> None:
    """A leased checkpoint stays while it is leased, and counts as it would otherwise. Guards against a folder that goes
    while somebody reads it, and a reader of the newest who makes one more stay."""
    state = LogState("run", checkpoints=tuple(map(checkpoint, range(1, 5))))
    newest = checkpoint(4).prefix
    assert sweep(state, (Newest(1),), newest, {checkpoint(2).prefix}).retire == (
        checkpoint(1).prefix,
        checkpoint(3).prefix,
    )
    assert sweep(state, (Newest(1),), newest, {newest}) == sweep(state, (Newest(1),), newest)
    assert sweep(state, (Newest(1),), newest, set()).retire[1] == checkpoint(2).prefix, "and goes afterwards"
