"""What may go, held against the rules of `tf.train.CheckpointManager`.

`Stock` is that manager's bookkeeping (tensorflow/python/checkpoint/checkpoint_management.py: `__init__`, `_sweep` and
`save`), statement by statement, without its files.
"""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core.retention import Sweep, sweep
from holdfast_coordinator.core.values import RetentionPolicy
from holdfast_storage.records import CheckpointRecord, LogState
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


@given(
    st.lists(st.floats(0, 4 * 3600.0), min_size=1, max_size=30),
    st.none() | st.integers(1, 4),
    st.sampled_from([None, 0.5, 1.0, 3.0]),
)
def test_as_tensorflow(pauses: list[float], max_to_keep: int | None, every_n_hours: float | None) -> None:
    """A checkpoint deleted that TensorFlow would have kept, or kept that it would have deleted."""
    stock = Stock(WALL, max_to_keep, every_n_hours)
    policy = RetentionPolicy(max_to_keep, every_n_hours)
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


def of(*records: CheckpointRecord, last_preserved: float | None = WALL) -> LogState:
    return LogState("run", checkpoints=records, last_preserved=last_preserved)


def test_stock_checkpoints_stay() -> None:
    """Files of a directory that was taken over, deleted."""
    state = of(checkpoint(1, stock=True), checkpoint(2, stock=True), checkpoint(3), checkpoint(4))
    plan = sweep(state, RetentionPolicy(1), checkpoint(4).prefix)
    assert plan.retire == (checkpoint(3).prefix,)


def test_what_is_preserved_stays() -> None:
    """A checkpoint kept for ever by one policy, deleted by the next."""
    state = of(checkpoint(1, preserved=True), checkpoint(2), checkpoint(3))
    assert sweep(state, RetentionPolicy(1), checkpoint(3).prefix).retire == (checkpoint(2).prefix,)


def test_nothing_goes_for_what_was_not_read_back() -> None:
    """The last good checkpoint deleted in favour of newer ones that nobody can read."""
    state = of(*(checkpoint(step) for step in range(1, 6)))
    assert sweep(state, RetentionPolicy(1), checkpoint(3).prefix).retire == tuple(checkpoint(i).prefix for i in (1, 2))
    assert not sweep(state, RetentionPolicy(1), checkpoint(1).prefix)
    assert not sweep(state, RetentionPolicy(1), "not there any more")


def test_what_was_read_back_stays() -> None:
    """The one checkpoint that is known to be good goes because newer ones fill the number to keep."""
    state = of(*(checkpoint(step) for step in range(1, 6)))
    for keep in range(1, 6):
        for verified in range(1, 6):
            assert (
                checkpoint(verified).prefix
                not in sweep(state, RetentionPolicy(keep), checkpoint(verified).prefix).retire
            )


def test_order_is_that_of_commit() -> None:
    """After going back to an older checkpoint, that one deleted because its step is the smallest."""
    state = of(checkpoint(1), checkpoint(2), checkpoint(3)).restored(checkpoint(1).prefix).commit(checkpoint(4))
    assert sweep(state, RetentionPolicy(2), checkpoint(4).prefix).retire == (checkpoint(2).prefix, checkpoint(3).prefix)


def test_without_a_last_preserved_time() -> None:
    """A log of an import, which has none."""
    state = of(checkpoint(1), checkpoint(2), last_preserved=None)
    assert sweep(state, RetentionPolicy(1, 1.0), checkpoint(2).prefix) == Sweep(
        preserve=(checkpoint(1).prefix,), last_preserved=checkpoint(1).time
    )
