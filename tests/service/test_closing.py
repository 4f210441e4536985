"""The end: in good order, with nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from holdfast_coordinator.core.membership import LOST_AFTER
from holdfast_coordinator.embedded import Embedded
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import World, all_join, committed, log_kinds, outcomes, until
from support.passing_time import PassingTime


def test_the_chief_stays_until_the_others_have_their_outcome(store: Store, world: World) -> None:
    """The chief stays until the others have their outcome. Guards against a chief that ends first and takes the
    coordinator with it."""
    workers = world(3)
    all_join(workers)
    until(lambda: sum(w.alive for w in workers[0].status().run.workers) == 3)
    gate = Gate("write", ".data-")
    workers[2].store = GatedStore(store, gate)
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    closing = threading.Thread(target=lambda: (outcomes(saves[:1]), workers[0].close()))
    closing.start()
    gate.open()
    assert outcomes(saves[1:]) == [None, None]
    until(lambda: workers[0].session.this_task.task in left(store))
    assert closing.is_alive()
    workers[1].close()
    assert closing.is_alive()
    workers[2].close()
    closing.join(60.0)
    assert not closing.is_alive()
    assert [record.step for record in committed(store)] == [1]


def left(store: Store) -> set[object]:
    (embedded,) = Embedded._shared.values()
    driver = embedded.server.runs.find(store.url)
    assert driver is not None
    return {task for world in driver.machine.worlds.values() for task in world.left}


def test_the_chief_does_not_wait_for_the_dead(store: Store, world: World, passing: PassingTime) -> None:
    """The chief does not wait for the dead. Guards against a chief's process that hangs at its end after a worker was
    killed."""
    workers = world(2)
    all_join(workers)
    until(lambda: sum(w.alive for w in workers[0].status().run.workers) == 2)
    closing = threading.Thread(target=workers[0].close)
    closing.start()
    until(lambda: workers[0].session.this_task.task in left(store))
    workers[1].die()
    until(lambda: sum(w.alive for w in workers[0].status().run.workers) == 0)
    passing.by(LOST_AFTER)
    closing.join(20.0)  # it would be 30
    assert not closing.is_alive()


def test_closing_waits_for_what_follows_a_commit(store: Store, world: World) -> None:
    """Closing waits for what follows a commit. Guards against half-deleted checkpoints that TensorFlow's state file
    still names."""
    (worker,) = world(1, max_to_keep=1)
    worker.join()
    for step in (1, 2, 3):
        assert outcomes([worker.save(step)]) == [None]
    worker.close()
    assert [record.step for record in committed(store)] == [3]
    assert [name.partition(".")[0] for name in store.list() if name.startswith("ckpt")] == ["ckpt-3"]
    state_file = store.read("checkpoint").decode()
    assert state_file.count("all_model_checkpoint_paths") == 1


def test_closing_without_having_joined_is_nothing(store: Store, coordinator: Coordinator, world: World) -> None:
    """Closing without having joined does nothing. Guards against a program that ends early and hangs, or writes into
    the directory."""
    for worker in [*world(2, coordinator), *world(2)]:
        worker.close()
    assert store.list() == []


def test_closing_while_the_coordinator_is_away_ends(start: StartCoordinator, store: Store, world: World) -> None:
    """Closing ends although the coordinator is away. Guards against a training program that cannot be ended."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    coordinator.stop()
    for worker in workers:
        worker.close()


def test_a_coordinator_finishes_its_save_before_it_ends(start: StartCoordinator, store: Store, world: World) -> None:
    """A coordinator finishes its save before it ends. Guards against a rolling update that fails the save in flight."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    gate = Gate("write", ".data-")
    workers[1].store = GatedStore(store, gate)
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    stopping = threading.Thread(target=lambda: coordinator.stop(patience=60.0))
    stopping.start()
    gate.open()
    assert outcomes(saves) == [None, None]
    stopping.join(60.0)
    assert log_kinds(store) == ["import", "lead", "commit"]


def test_a_port_that_is_taken_is_an_error(coordinator: Coordinator) -> None:
    """A taken port is an error that leaves nothing behind. Guards against two coordinators that divide the workers
    between them, and a thread that stays."""
    with pytest.raises(InvalidRequest, match=f"cannot listen on {coordinator.address}"):
        Coordinator(coordinator.address)


def test_a_host_that_is_not_ours_is_an_error(store: Store, world: World) -> None:
    """A chief's address on another machine is an error. Guards against others that look for the coordinator there."""
    workers = world(2, cluster=(("worker", ("192.0.2.1:1", "192.0.2.2:1")),), join_timeout=5.0)
    with pytest.raises(InvalidRequest, match=r"cannot listen on 192\.0\.2\.1:0"):
        workers[0].join()
    assert Embedded._shared == {}


def test_coordinators_come_and_go(store: Store, world: World) -> None:
    """Coordinators that come and go leave nothing behind. Guards against threads and sockets of each manager of a
    long-lived notebook."""
    for step in range(1, 6):
        (worker,) = world(1, process="aa")
        worker.join()
        assert outcomes([worker.save(step)]) == [None]
        worker.close()
    assert [record.step for record in committed(store)] == [1, 2, 3, 4, 5]
    assert Embedded._shared == {}


def test_a_coordinator_that_does_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that is given up has let go of gRPC, and the next one of the process starts. Guards against a
    process that waits for ever for gRPC's lock when the last server is freed, or the next one made."""
    embedded = Embedded.acquire("")

    async def never(_: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(embedded.server.runs, "settle", never)
    given_up = weakref.ref(embedded)
    embedded.release(-5.0)
    del embedded
    monkeypatch.undo()

    def go_on() -> None:
        gc.collect()
        Embedded.acquire("").release(5.0)

    going_on = threading.Thread(target=go_on, daemon=True)
    going_on.start()
    going_on.join(60.0)
    assert not going_on.is_alive()
    assert given_up() is None
    assert not Embedded._shared
