"""What a manager's calls raise, keep and wait for. Without TensorFlow."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import holdfast.manager
import holdfast.world
from holdfast_storage.errors import SaveFailed, StorageError
from holdfast_storage.store.posix import PosixStore
from support import light_manager
from support.light_worker import until


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("TF_CONFIG", light_manager.ALONE)
    for name, module in light_manager.stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(holdfast.world, "strategy_name", lambda checkpoint: "")
    made, _ = light_manager.make(tmp_path / "run")
    yield made
    made.close()


def fails(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a save that fails."""

    def full(self: Any, name: str, chunks: Any) -> int:
        raise StorageError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(PosixStore, "write", full)
        manager.save(1)
        until(lambda: bool(manager._failed))


def test_an_error_is_told_once(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a failed save is raised once. Guards against the same failure again for a caller that drops
    tracebacks, such as unittest."""
    fails(manager, monkeypatch)
    with pytest.raises(SaveFailed) as raised:
        manager.wait()
    raised.value.with_traceback(None)
    manager.wait()
    manager.save(2, blocking=True)


def test_an_error_that_was_told_keeps_nothing_of_the_caller(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that was raised keeps nothing of its caller. Guards against a batch and its gradients that stay for as
    long as the manager."""

    class Batch:
        pass

    def step() -> weakref.ref[Batch]:
        batch = Batch()
        try:
            manager.wait()
        except SaveFailed:
            return weakref.ref(batch)
        raise AssertionError("it was not told")

    fails(manager, monkeypatch)
    batch = step()

    def is_gone() -> bool:
        gc.collect()
        return batch() is None

    until(is_gone)  # the save's own thread may still be logging the failure


def test_a_close_on_a_thread_of_its_own_does_not_wait(manager: Any) -> None:
    """`close` on one of the manager's own threads does not wait. Guards against a thread that waits for itself because
    the garbage collector called `__del__` on it."""
    manager.save(1)
    done = threading.Event()

    def collect() -> None:
        manager.close()
        done.set()

    manager._lane.submit(collect)
    assert done.wait(20.0)
    until(manager._session._closed.is_set)
    assert len(manager.checkpoints) == 1


def test_no_thread_to_attend(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the worker does not join. Guards against a world that counts on a worker of which it
    never hears."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "holdfast-attend":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageError, match="no thread can be started to attend"):
            manager.restore_or_initialize()
    manager.restore_or_initialize()
    assert manager.save(1, blocking=True) == manager.latest_checkpoint
