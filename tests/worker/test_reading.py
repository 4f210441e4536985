"""`checkpoints_iterator`, over run directories that are written by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import leasing, reading
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import MOST_LEASES, CheckpointRecord, Entry, Generation, Leader, Lease, LogState
from holdfast_storage.store import Store, open_store
from support.faulty_store import FaultyStore


class Run:
    """A run in which somebody commits."""

    def __init__(self, path: Path) -> None:
        self.store: Store = open_store(path)
        self.path = path
        self.state = LogState("run").lead(Leader("leader", "", ""), Generation("0badcafe", ()))

    @property
    def last(self) -> Entry | None:
        return Log(self.store).tail()

    @property
    def kinds(self) -> list[str]:
        log = Log(self.store)
        last = log.tail()
        return [entry.kind for n in range(last.number + 1 if last else 0) if (entry := log.read(n))]

    def add(self, state: LogState, kind: Any = "commit") -> None:
        number = 0 if self.last is None else self.last.number + 1
        assert Log(self.store).publish(Entry(number, kind, f"leader.{number}", 0.0, state), 0.0) == Published()

    def commit(self, step: int) -> str:
        record = CheckpointRecord(f"ckpt-{step}.0badcafe.{step}/ckpt-{step}", step, float(step))
        self.add((self.last.state if self.last else self.state).commit(record))
        return f"{self.store.url}/{record.prefix}"

    def leased(self) -> list[str]:
        return [f"{self.store.url}/{lease.prefix}" for lease in self.last.state.leases] if self.last else []


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


class Clock:
    """Stands for `time`: only sleeping moves it, and what is to happen at some second happens then."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (reading, leasing):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_newest_comes_and_each_newer_one(run: Run, clock: Clock) -> None:
    """The newest is yielded, then what is newer when the caller comes back, and what came and went is left out. Guards
    against an evaluator that falls behind further and further."""
    first = run.commit(1)
    second = run.commit(2)
    seen = []
    for prefix in holdfast.checkpoints_iterator(run.path, timeout=10):
        seen.append(prefix)
        if prefix == second:
            run.commit(3)
            fourth = run.commit(4)
    assert first not in seen
    assert seen == [second, fourth]
    assert clock.now <= 10


def test_a_run_that_begins_later_is_waited_for(run: Run, clock: Clock) -> None:
    """A directory that does not exist yet is waited for. Guards against an evaluator that must be started after the
    trainer."""
    clock.events = [(5.0, lambda: run.commit(1))]
    assert next(holdfast.checkpoints_iterator(run.path, timeout=10)) == f"{run.path}/ckpt-1.0badcafe.1/ckpt-1"
    assert clock.now == 5.0


@pytest.mark.parametrize(("timeout", "waited"), [(0, 0.0), (0.5, 0.0), (3, 3.0)])
def test_without_a_new_one_it_ends(run: Run, clock: Clock, timeout: float, waited: float) -> None:
    """It ends once the time is over, without a wait that would end after it. Guards against an evaluator that never
    ends."""
    run.commit(1)
    assert len(list(holdfast.checkpoints_iterator(run.path, timeout=timeout))) == 1
    assert clock.now == waited


def test_the_function_decides_whether_it_ends(run: Run, clock: Clock) -> None:
    """`timeout_fn` says whether all is over. Guards against an evaluator that ends while the trainer is restarted."""
    asked: list[float] = []

    def is_over() -> bool:
        asked.append(clock.now)
        return len(asked) == 3

    assert list(holdfast.checkpoints_iterator(run.path, timeout=2, timeout_fn=is_over)) == []
    assert asked == [2.0, 4.0, 6.0]


def test_the_least_interval_is_kept(run: Run, clock: Clock) -> None:
    """From one checkpoint to the next there is at least the interval, what the caller did included. Guards against an
    evaluator that takes all of a machine."""
    run.commit(1)
    iterator = holdfast.checkpoints_iterator(run.path, min_interval_secs=60, timeout=5)
    next(iterator)
    run.commit(2)
    clock.sleep(10)
    next(iterator)
    assert clock.now == 60.0


def test_what_is_damaged_is_left_out(run: Run, clock: Clock) -> None:
    """What is marked as damaged is never yielded. Guards against an export of a model of damaged bytes."""
    good, bad = run.commit(1), run.commit(2)
    assert run.last
    run.add(run.last.state.condemn((bad.removeprefix(f"{run.path}/"),)), "damaged")
    assert list(holdfast.checkpoints_iterator(run.path, timeout=0)) == [good]


def test_a_run_that_moves(run: Run, clock: Clock) -> None:
    """The iterator ends with where the run is now. Guards against an evaluator that waits for ever."""
    run.commit(1)
    iterator = holdfast.checkpoints_iterator(run.path)
    next(iterator)
    assert run.last
    clock.events.append((5.0, lambda: run.add(run.last.state.move("gs://bucket/run"), "move")))  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="moved to gs://bucket/run"):
        next(iterator)
    assert clock.now == 5.0


def test_a_lease_lasts_until_the_caller_comes_back(run: Run, clock: Clock) -> None:
    """There is a lease while the caller works on a checkpoint, and none while it waits. Nothing is written while
    nothing happens. Guards against a checkpoint that is kept for nobody, and a log that grows with time."""
    first = run.commit(1)
    iterator = holdfast.checkpoints_iterator(run.path, timeout=100)
    assert next(iterator) == first
    assert run.leased() == [first]
    lease = run.last.state.leases[0] if run.last else None
    assert lease is not None
    assert (lease.seconds, lease.taken) == (3600.0, 1)
    kept: list[list[str]] = []
    clock.events = [(50.0, lambda: kept.append(run.leased())), (60.0, lambda: run.commit(2))]
    second = next(iterator)
    assert kept == [[]]
    assert run.leased() == [second]
    iterator.close()
    assert run.leased() == []
    assert run.kinds == ["commit", "lease", "release", "commit", "lease", "release"]


def test_leaving_the_loop_ends_the_lease(run: Run, clock: Clock) -> None:
    """A `break`, and an error of the caller, end the lease. Guards against an hour's lease of nobody."""
    run.commit(1)
    for _ in holdfast.checkpoints_iterator(run.path):
        break
    assert run.leased() == []

    def fails() -> None:
        for _ in holdfast.checkpoints_iterator(run.path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert run.leased() == []
    assert run.kinds == ["commit", *["lease", "release"] * 2]


def test_what_went_before_the_lease_is_not_yielded(run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """If retention is faster than the lease, the next one is taken. Guards against a prefix whose folder is gone."""
    first = run.commit(1)
    newest = reading._Reader._newest

    def replaced(self: reading._Reader) -> CheckpointRecord | None:
        record = newest(self)
        if record and record.step == 1:
            run.commit(2)
            assert run.last
            run.add(run.last.state.retire((record.prefix,), (), None), "retire")
        return record

    monkeypatch.setattr(reading._Reader, "_newest", replaced)
    iterator = holdfast.checkpoints_iterator(run.path)
    prefix = next(iterator)
    assert prefix != first
    assert run.leased() == [prefix]


def test_who_may_not_write_reads_without_a_lease(
    run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the right to write, checkpoints come without leases, and that is said once. Guards against an exporter
    that needs rights it should not have."""
    first = run.commit(1)
    refusing = FaultyStore(run.store, {("create", n): "refuse" for n in range(9)})
    monkeypatch.setattr(reading, "open_store", lambda url, options: refusing)
    iterator = holdfast.checkpoints_iterator(run.path, timeout=5)
    assert next(iterator) == first
    second = run.commit(2)
    assert next(iterator) == second
    assert list(iterator) == []
    assert run.kinds == ["commit", "commit"]
    assert [each.levelname for each in caplog.records].count("WARNING") == 1
    assert "without a lease" in caplog.text


def test_of_too_many_readers_the_last_have_no_lease(run: Run, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """When there are as many leases as there may be, no more are taken. Guards against entries that nobody reads."""
    prefix = run.commit(1)
    assert run.last
    record = run.last.state.checkpoints[0]
    leases = tuple(Lease(record.prefix, str(n), 1.0, 1) for n in range(MOST_LEASES))
    run.add(replace(run.last.state, leases=leases), "lease")
    assert next(holdfast.checkpoints_iterator(run.path)) == prefix
    assert run.kinds == ["commit", "lease"]
    assert "without a lease" in caplog.text


def test_work_that_outlives_its_lease_is_told(run: Run, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Who works for longer than the lease is told so. Guards against reads that fail now and then, for no reason."""
    run.commit(1)
    for _ in holdfast.checkpoints_iterator(run.path, timeout=0, lease_secs=60):
        clock.sleep(61)
    assert "raise lease_secs" in caplog.text


def test_a_fork_does_not_end_the_lease(run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a fork, which has a copy of the iterator, does not end the lease. Guards against a data loader whose
    end takes the checkpoint from the evaluator."""
    prefix = run.commit(1)
    iterator = holdfast.checkpoints_iterator(run.path)
    next(iterator)
    with monkeypatch.context() as fork:
        fork.setattr(reading.os, "getpid", lambda: -1)
        iterator.close()
    assert run.leased() == [prefix]


def test_no_lease_is_asked_for(run: Run, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """`lease_secs=0` takes none, and says nothing. Guards against a warning that nobody can silence."""
    run.commit(1)
    assert len(list(holdfast.checkpoints_iterator(run.path, timeout=0, lease_secs=0))) == 1
    assert run.kinds == ["commit"]
    assert not caplog.records


def test_stock_checkpoints_need_no_lease(tmp_path: Path, clock: Clock) -> None:
    """A directory of TensorFlow's own is read, and nothing is written there. Guards against a log in a directory that
    another program owns."""
    (tmp_path / "ckpt-1.index").touch()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-1"\n')
    assert list(holdfast.checkpoints_iterator(tmp_path, timeout=0)) == [f"{tmp_path}/ckpt-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "ckpt-1.index"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": -1},
        {"timeout": "5"},
        {"timeout": float("nan")},
        {"min_interval_secs": None},
        {"min_interval_secs": True},
        {"timeout_fn": 3},
        {"lease_secs": 86_401},
        {"lease_secs": -1},
        {"storage_options": {"key": "x"}},
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Wrong arguments are refused when the iterator is made. Guards against an error in the middle of the night."""
    with pytest.raises(InvalidRequest):
        holdfast.checkpoints_iterator(tmp_path, **wrong)


def test_it_needs_no_tensorflow(run: Run) -> None:
    """Reading imports no TensorFlow. Guards against an exporter on a host that has none."""
    run.commit(1)
    reads = f"iterator = holdfast.checkpoints_iterator({str(run.path)!r}); print(next(iterator))"
    program = f"import holdfast, sys; {reads}; print('tensorflow' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split()[1:] == ["False"], said.stderr
    assert run.leased() == [], "the end of a program is the end of its lease"
