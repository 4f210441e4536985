"""Ctrl-C, or a signal handler, at every instant of a manager's calls at which Python lets one run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast.manager
import holdfast.world
from holdfast.saving.snapshot import Snapshot
from holdfast_coordinator.embedded import Embedded
from holdfast_storage.errors import InvalidRequest, SaveFailed
from support import light_manager
from support.interrupts import Instants
from support.light_worker import state, tensor

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Python 3.13 traces no instruction of a function's first call"
)

FILES = tuple(
    f"holdfast/{name}.py"
    for name in (
        *("manager", "session/lane", "session/open_sessions", "session/session", "session/waiting"),
        "saving/save",
    )
)


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TF_CONFIG", '{"cluster": {"worker": ["127.0.0.1:1000"]}, "task": {"type": "worker", "index": 0}}'
    )
    for name, module in light_manager.stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(holdfast.world, "strategy_name", lambda checkpoint: "")


def small(step: int) -> Snapshot:
    return Snapshot((tensor("model/kernel", (3, 2), seed=step),), state().object_graph)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, if there is such a place: what is made durable here thousands of times matters to nobody."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir=memory) as name:
        yield Path(name)


@pytest.fixture
def made(folder: Path) -> Iterator[Callable[[], tuple[Any, light_manager.LightCheckpoint]]]:
    """Makes managers of one run, the coordinator of which stays between them."""
    managers = []

    def make(directory: str = "run", **arguments: Any) -> tuple[Any, light_manager.LightCheckpoint]:
        manager, checkpoint = light_manager.make(folder / directory, max_to_keep=None, **arguments)
        checkpoint.make = small
        managers.append(manager)
        return manager, checkpoint

    make("another")[0].restore_or_initialize()
    yield make
    for manager in managers:
        manager.close()


def stop() -> None:
    raise KeyboardInterrupt


def every_instant(run: Callable[[Instants, int], None], act: Callable[[], None] = stop) -> int:
    """Run something once for each instant, until it ends without having come to it. How many there are."""
    number = 1
    while True:
        instants = Instants(FILES, number, act)
        run(instants, number)
        if not instants.reached:
            return number - 1
        number += 1


def test_interrupted_saves(made: Any) -> None:
    """After an interrupted save, numbers fit and the next save commits. Guards against a forgotten save in flight, torn
    ordinals, and a failing save after Ctrl-C."""
    manager, checkpoint = made()
    manager.restore_or_initialize()
    returned: list[str] = []

    def run(instants: Instants, number: int) -> None:
        checkpoint.step += 1
        try:
            with instants.watched():
                returned.append(manager.save())
                returned.append(manager.save())
                manager.wait()
        except KeyboardInterrupt:
            assert instants.reached
        counted = checkpoint.save_counter.value
        final = manager.save(blocking=True)
        returned.append(final)
        assert manager.latest_checkpoint == final, instants.where
        assert final.endswith(f"-{checkpoint.save_counter.value}"), instants.where
        assert checkpoint.save_counter.value - counted in (0, 1), instants.where

    assert every_instant(run) > 100
    assert set(returned) <= set(manager.checkpoints)
    numbers = [int(prefix.rpartition("-")[2]) for prefix in manager.checkpoints]
    assert numbers == list(range(1, len(numbers) + 1)), "the save counter has lost step with the saves"


def test_a_handler_that_saves(made: Any) -> None:
    """A handler may save in the middle of a save. Guards against a preemption notice whose save is forgotten or fails
    unheard."""
    manager, checkpoint = made()
    manager.restore_or_initialize()
    returned: list[str] = []

    def run(instants: Instants, number: int) -> None:
        checkpoint.step += 1
        with instants.watched():
            returned.append(manager.save(10 * number))
            returned.append(manager.save(10 * number + 1))
            manager.wait()

    many = every_instant(run, lambda: returned.append(manager.save(7)))
    manager.wait()
    assert set(returned) == set(manager.checkpoints)
    assert len(returned) == 2 * (many + 1) + many


def test_a_handler_that_saves_after_a_save_failed(made: Any) -> None:
    """A failed save is told once, by the call or by the handler's. Guards against a save that ends in an error of this
    package's own since the handler was told first."""
    manager, checkpoint = made()
    manager.restore_or_initialize()
    told: list[SaveFailed] = []

    def fail(step: int) -> Snapshot:
        checkpoint.make = small
        raise ValueError("no snapshot")

    def save() -> None:
        try:
            manager.save()
        except SaveFailed as error:
            told.append(error)

    def run(instants: Instants, number: int) -> None:
        checkpoint.make = fail
        save()
        with instants.watched():
            save()
            save()
        manager.wait()
        assert len(told) == number, instants.where

    assert every_instant(run, save) > 100


def test_interrupted_restores(made: Any) -> None:
    """After an interrupted restore, the next one works. Guards against a number that is lost, so that the workers never
    agree again."""
    manager, checkpoint = made()
    checkpoint.step = 5
    saved = manager.save(5, blocking=True)
    before = manager._restores

    def run(instants: Instants, number: int) -> None:
        checkpoint.step = 0
        try:
            with instants.watched():
                assert manager.restore_or_initialize() == saved
        except KeyboardInterrupt:
            assert instants.reached
            assert manager.restore_or_initialize() == saved
        assert checkpoint.step == 5, instants.where

    many = every_instant(run)
    assert many > 40
    assert manager._restores - before <= 2 * many + 1
    assert manager.save(6, blocking=True) == manager.latest_checkpoint


def test_interrupted_closes(made: Any) -> None:
    """After an interrupted close, the commit stands and the world is left. Guards against a close that returns before
    the commit, or leaves the world open, so that the next job is refused."""

    def run(instants: Instants, number: int) -> None:
        manager, _ = made(f"run-{number}")
        manager.restore_or_initialize()
        saved = manager.save(1)
        try:
            with instants.watched():
                manager.close()
        except KeyboardInterrupt:
            assert instants.reached
            manager.close()
        assert manager.checkpoints == [saved], instants.where
        successor, _ = made(f"run-{number}")
        assert successor.save(2, blocking=True) == successor.latest_checkpoint, instants.where
        successor.close()

    assert every_instant(run) > 20


def test_a_handler_that_closes(made: Any) -> None:
    """A handler may close the manager in the middle of a call. Guards against a call that waits for ever, and a
    returned prefix that is lost."""

    def run(instants: Instants, number: int) -> None:
        manager, checkpoint = made(f"run-{number}")
        returned: list[str] = []
        instants.act = manager.close
        checkpoint.step = 1
        try:
            with instants.watched():
                manager.restore_or_initialize()
                returned.append(manager.save())
                returned.append(manager.save())
                manager.wait()
        except InvalidRequest:  # it is closed
            assert instants.reached
        manager.close()
        assert set(returned) <= set(manager.checkpoints), instants.where

    assert every_instant(run) > 100
    assert Embedded._shared.keys() == {""}
    assert Embedded._shared[""]._holders == 1, "the one that stays between them"


def test_a_step_that_a_handler_has_saved_is_not_saved_again(made: Any) -> None:
    """A step that a handler has saved is not saved again by the interrupted call. Guards against two workers whose
    handlers save their step, of which the one inside `save` makes two saves and never agrees again."""

    def run(instants: Instants, number: int) -> None:
        counter = light_manager.Counter()
        manager, checkpoint = made(f"run-{number}", step_counter=counter, checkpoint_interval=10)
        manager.restore_or_initialize()
        counter.value = checkpoint.step = 10
        by_handler: list[Any] = []
        instants.act = lambda: by_handler.append(manager.save(check_interval=False))
        with instants.watched():
            saved = manager.save()
        if not instants.reached:
            by_handler.append(manager.save(check_interval=False))
        manager.wait()
        assert manager._saves == 1, instants.where
        assert [each for each in (saved, *by_handler) if each] == manager.checkpoints, instants.where
        assert manager.last_checkpoint_step == 10
        manager.close()

    assert every_instant(run) > 50


def test_an_interrupted_save_of_an_interval_was_made(made: Any) -> None:
    """An interrupted save that was handed over counts for the interval. Guards against a worker that saves at other
    steps than the others from then on."""

    def run(instants: Instants, number: int) -> None:
        counter = light_manager.Counter()
        manager, _ = made(f"run-{number}", step_counter=counter, checkpoint_interval=10)
        manager.restore_or_initialize()
        counter.value = 10
        try:
            with instants.watched():
                manager.save()
        except KeyboardInterrupt:
            assert instants.reached
        manager.wait()
        assert (manager.last_checkpoint_step == 10) == bool(manager.checkpoints), instants.where
        manager.close()

    assert every_instant(run) > 50
