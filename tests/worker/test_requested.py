"""`save_if_requested`, without TensorFlow and in a world of one: when it saves, what it raises, how long it waits."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import holdfast.manager
import holdfast.requested
import holdfast.world
from holdfast.preemption import Preempted, Preemption
from holdfast.session.requests import Requests
from holdfast_storage.errors import InvalidRequest, StorageError, Superseded
from holdfast_storage.run_directory import read_run
from holdfast_storage.store.posix import PosixStore
from support import light_manager
from support.light_worker import until

Make = Callable[..., Any]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Makes a manager."""
    monkeypatch.setenv("TF_CONFIG", light_manager.ALONE)
    for name, module in light_manager.stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(holdfast.world, "strategy_name", lambda checkpoint: "")
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        arguments = {"preemption": Preemption(signals=(), grace=30.0), **arguments}
        made.append(light_manager.make(tmp_path / "run", **arguments)[0])
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def notice(manager: Any) -> None:
    manager._requested._noticed("notice")


def train(manager: Any, **arguments: Any) -> str:
    """Call it step after step until it saves. What it returned."""
    end = time.monotonic() + 30.0
    step = 0
    while time.monotonic() < end:
        step += 1
        manager.checkpoint.step = step
        if prefix := manager.save_if_requested(step, **arguments):
            return str(prefix)
        time.sleep(0.002)
    raise AssertionError("it never saved")


def steps(manager: Any) -> list[int]:
    state = read_run(manager._store)
    return [record.step for record in state.checkpoints] if state else []


def test_notice_ends_the_program(make: Make) -> None:
    """It saves, waits for the commit, and exits with the status that restarts. Guards against an end before the
    commit."""
    manager = make()
    noted: list[int] = []
    assert manager.save_if_requested(0) is None
    notice(manager)
    with pytest.raises(Preempted, match="notice on worker-0") as end:
        train(manager, before=lambda: noted.append(manager.checkpoint.step))
    assert end.value.code == 143
    assert steps(manager) == noted
    assert len(noted) == 1


def test_notice_before_the_first_step(make: Make) -> None:
    """It is kept until the first call. Guards against notice that is lost while a model compiles."""
    manager = make()
    manager.restore_or_initialize()
    notice(manager)
    time.sleep(0.3)
    with pytest.raises(Preempted):
        manager.save_if_requested(1)
    assert steps(manager) == [1]


def test_training_goes_on(make: Make) -> None:
    """With `exits=False` each notice saves, and nothing ends. Guards against a signal that works once."""
    manager = make(preemption=Preemption(signals=(), exits=False))
    for _ in range(2):
        notice(manager)
        assert train(manager)
    manager.wait()
    assert len(steps(manager)) == 2


def test_by_time(make: Make) -> None:
    """It saves by time, again and again. Guards against a clock that stops after the first save."""
    manager = make(preemption=None, save_every=timedelta(seconds=0.2))
    assert train(manager) != train(manager)


def test_a_save_that_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program ends all the same, and says why nothing was saved. Guards against a worker that goes on without the
    others."""

    def full(self: Any, name: str, chunks: Any) -> int:
        raise StorageError("the disk is full")

    manager = make()
    manager.save_if_requested(0)
    monkeypatch.setattr(PosixStore, "write", full)
    notice(manager)
    with pytest.raises(Preempted) as end:
        train(manager)
    assert "the disk is full" in str(end.value.__cause__)


def test_the_save_before_has_failed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error does not end the wait for the new save. Guards against an end before the commit, and beyond the
    deadline."""

    def full(self: Any, name: str, chunks: Any) -> int:
        raise StorageError("the disk is full")

    manager = make()
    with monkeypatch.context() as broken:
        broken.setattr(PosixStore, "write", full)
        manager.save(1)
        assert manager.latest_checkpoint is None  # it has failed
    write = PosixStore.write
    monkeypatch.setattr(PosixStore, "write", lambda *arguments: time.sleep(0.3) or write(*arguments))
    notice(manager)
    with pytest.raises(Preempted) as end:
        train(manager)
    assert len(steps(manager)) == 1
    assert "the disk is full" in str(end.value.__cause__)


def test_a_signal_while_it_closes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save in flight is finished. Guards against a signal that ends the process in the last wait of a program."""
    killed: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: killed.append(number))
    manager = make(preemption=Preemption(signals=(signal.SIGUSR1,)))
    write = PosixStore.write

    def interrupted(self: Any, name: str, chunks: Any) -> int:
        until(lambda: manager._gate.seen is None)  # it closes
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        return write(self, name, chunks)

    monkeypatch.setattr(PosixStore, "write", interrupted)
    manager.save_if_requested(0)
    manager.save(1)
    manager.close()
    assert steps(manager) == [1]
    assert not killed
    os.kill(os.getpid(), signal.SIGUSR1)
    assert killed  # it is given back
    signal.signal(signal.SIGUSR1, before)


def test_the_deadline(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the wait for the commit nor `close` goes beyond the deadline. Guards against a process that is killed in
    the middle of a wait, and whose last words nobody hears."""
    go_on = threading.Event()
    write = PosixStore.write

    def hang(self: Any, name: str, chunks: Any) -> int:
        go_on.wait(60.0)
        return write(self, name, chunks)

    manager = make(preemption=Preemption(signals=(), grace=2.0))
    manager.save_if_requested(0)
    monkeypatch.setattr(PosixStore, "write", hang)
    notice(manager)
    begun = time.monotonic()
    with pytest.raises(Preempted) as end:
        train(manager)
    assert "the time is up" in str(end.value.__cause__)
    manager.close()
    assert time.monotonic() - begun < 10.0
    go_on.set()


def test_a_decision_that_is_not_heard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the storage is asked, and what stands there counts. Guards against a loop that waits for a
    coordinator that is dead."""
    monkeypatch.setattr(holdfast.requested, "SETTLES_AFTER", 0.3)
    monkeypatch.setattr(Requests, "hear", lambda self, message: None)
    manager = make()
    manager.save_if_requested(0)
    notice(manager)
    with pytest.raises(Preempted):
        train(manager)
    assert len(steps(manager)) == 1


def test_a_loop_that_comes_late(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long after the promise the loop comes to its limit, the storage is asked first. Guards against a long
    evaluation after which a program ends by an error, since a coordinator is gone."""
    monkeypatch.setattr(holdfast.requested, "SETTLES_AFTER", 0.1)
    monkeypatch.setattr(Requests, "hear", lambda self, message: None)
    manager = make(save_timeout=2.0)
    manager.save_if_requested(0)
    notice(manager)
    until(lambda: manager._session.requests.promised is not None)
    time.sleep(2.2)
    with pytest.raises(Preempted):
        train(manager)
    assert len(steps(manager)) == 1


def test_nothing_can_be_saved_any_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that waits is told. Guards against a loop that waits in a world that has lost the run."""
    monkeypatch.setattr(holdfast.requested, "SETTLES_AFTER", 0.7)
    monkeypatch.setattr(Requests, "hear", lambda self, message: None)
    manager = make()
    manager.save_if_requested(0)
    notice(manager)
    threading.Timer(0.5, setattr, (manager._session, "superseded", Superseded("somebody else leads"))).start()
    with pytest.raises(Superseded, match="somebody else leads"):
        train(manager)
    manager._session.superseded = None


@pytest.mark.parametrize("noticed", [False, True])
def test_the_run_is_lost(make: Make, noticed: bool) -> None:
    """A job that saves by request alone is told at its next save, and ends by notice as before. Guards against a job
    that trains on for ever, saves nothing and hears nothing."""
    manager = make(save_every=None if noticed else timedelta(seconds=0.5))
    manager.save_if_requested(0)
    manager.save(1, blocking=True)
    make(preemption=None, takeover=True).save(2, blocking=True)
    if noticed:
        notice(manager)
    with pytest.raises(Preempted if noticed else Superseded) as end:
        train(manager)
    error = end.value.__cause__ if noticed else end.value
    assert isinstance(error, Superseded)
    manager._session.superseded = None


def test_notice_while_the_others_are_awaited(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its world has formed, the program ends at once: there is nothing to save. Guards against ten minutes of
    waiting, and an end by SIGKILL."""
    cluster = {"worker": ["127.0.0.1:1000", "127.0.0.1:1001"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    manager = make(preemption=Preemption(signals=(), exit_code=7))
    threading.Timer(0.3, notice, (manager,)).start()
    with pytest.raises(Preempted, match="before all workers had joined") as end:
        manager.restore_or_initialize()
    assert end.value.code == 7


def test_an_evaluator(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no part in saves. Guards against an evaluator that believes that it saves."""
    cluster = {"worker": ["127.0.0.1:1000"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "evaluator", "index": 0}}))
    with pytest.raises(InvalidRequest, match="evaluator-0 has no part in saves"):
        make(preemption=None).save_if_requested(1)


def test_after_the_end(make: Make) -> None:
    """A closed manager is told as closed. Guards against a program that believes that it is saved by request."""
    manager = make()
    for step in range(3):
        manager.save_if_requested(step)
    manager.close()
    with pytest.raises(InvalidRequest, match="closed"):
        manager.save_if_requested(3)


@pytest.mark.parametrize(
    ("name", "value"), [("preemption", 30.0), ("save_every", 600), ("save_every", timedelta(0)), ("preemption", True)]
)
def test_wrong_arguments(make: Make, name: str, value: Any) -> None:
    """They are refused by name. Guards against a mistake that is found when the host goes away."""
    with pytest.raises(InvalidRequest, match=name):
        make(**{name: value})
