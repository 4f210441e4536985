"""A save by several workers: what is committed, what is refused, and who is told what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import support.committed
from holdfast.saving.snapshot import Snapshot
from holdfast_coordinator.core.effects import Finalize
from holdfast_coordinator.core.events import Finalized
from holdfast_coordinator.finalize import finalize
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import ReplicaDivergence, SaveFailed, StorageError
from holdfast_storage.layout import OWN_FOLDER, local_prefix
from holdfast_storage.records import CheckpointRecord, Generation, Leader, LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.bundles import expected, stored
from support.coordinators import Coordinator
from support.gated_store import Gate, GatedStore
from support.lagging import Clock, LaggingStore
from support.light_worker import World, all_join, committed, flipped, log_kinds, outcomes, state, tensor, until
from support.passing_time import PassingTime


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_bytes_of_all_workers_are_committed_once(each_store: Store, world: World, size: int) -> None:
    """All bytes of all workers are committed once. Guards against a tensor that nobody, or two workers, wrote."""
    workers = world(size, store=each_store)
    all_join(workers)
    saves = [worker.save(7) for worker in workers]
    assert outcomes(saves) == [None] * size
    (record,) = committed(each_store)
    assert (record.step, record.prefix) == (7, saves[0].prefix)
    assert stored(each_store, record.prefix) == expected(state(seed=7))
    manifest = read_manifest(each_store, record)
    assert manifest.world == tuple(Task("worker", n) for n in range(size))
    written = {task: sum(o.size for o in manifest.objects if o.task == task) for task in manifest.world}
    assert all(written.values()), "somebody wrote nothing"
    assert sum(written.values()) == sum(len(data) for data in expected(state(seed=7)).values())
    assert log_kinds(each_store) == ["import", "lead", "commit"]
    assert f'model_checkpoint_path: "{record.prefix}"' in each_store.read("checkpoint").decode()


@pytest.mark.parametrize("before", [None, b'model_checkpoint_path: "elsewhere-3"\n'])
def test_before_the_first_commit_there_is_nothing_to_name(
    store: Store, coordinator: Coordinator, world: World, before: bytes | None
) -> None:
    """Before the first commit no state file is written or changed. Guards against a ValueError in
    `tf.train.latest_checkpoint`, and emptying a file of TensorFlow's."""
    if before:
        store.replace("checkpoint", before)
    (worker,) = world(1, coordinator)
    gate = Gate("write", ".data-")
    worker.store = GatedStore(worker.store, gate)
    worker.session.join()
    save = worker.save(1)
    assert gate.reached.wait(60.0)
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    until(lambda: driver._state_file[0] >= 1)
    assert log_kinds(store) == ["import", "lead"]
    assert "checkpoint" in store.list() if before else "checkpoint" not in store.list()
    assert not before or store.read("checkpoint") == before
    gate.open()
    assert outcomes([save]) == [None]
    assert b'model_checkpoint_path: "ckpt-1.' in store.read("checkpoint")


def test_each_worker_keeps_what_is_its_own(store: Store, coordinator: Coordinator, world: World) -> None:
    """Each worker keeps its own values. Guards against moving statistics or input positions that are lost or become
    another worker's."""
    workers = world(3, coordinator)
    all_join(workers)
    snapshots = [state(local=["moving"], own=n) for n in range(3)]
    extra = [Snapshot((tensor("iterator", (3,), seed=n),), snapshots[0].object_graph) for n in range(3)]
    saves = [w.save(1, s, per_worker=e) for w, s, e in zip(workers, snapshots, extra, strict=True)]
    assert outcomes(saves) == [None] * 3
    (record,) = committed(store)
    assert stored(store, record.prefix)["moving"] == expected(snapshots[0])["moving"]
    assert read_manifest(store, record).local_keys == ("moving",)
    for number, snapshot in enumerate(snapshots):
        own = stored(store, local_prefix(record.folder, Task("worker", number)))
        assert own["moving/.OWN"] == expected(snapshot)["moving"]
        assert own["iterator"] == expected(extra[number])["iterator"]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_replica_that_diverged_is_refused(store: Store, coordinator: Coordinator, world: World, odd: int) -> None:
    """A diverged replica is refused. Guards against one worker's corrupt memory that is written down as the truth."""
    workers = world(3, coordinator)
    all_join(workers)
    snapshots = [state(), state(), state()]
    snapshots[odd] = flipped(snapshots[odd], "model/kernel")
    for error in outcomes([w.save(1, s) for w, s in zip(workers, snapshots, strict=True)]):
        assert isinstance(error, ReplicaDivergence)
        assert "model/kernel" in str(error)
        assert error.workers == (f"worker-{odd}",)
        assert error.object == "model/kernel"
    assert store.list() == [f"{OWN_FOLDER}/"]
    # It was this save's failure alone.
    assert outcomes([w.save(2) for w in workers]) == [None] * 3


@pytest.mark.parametrize("key", ["model/kernel", "model/small-9"])
def test_a_divergence_that_is_wanted_is_saved_as_the_chiefs(
    store: Store, coordinator: Coordinator, world: World, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """With "warn", the chief's value is saved with a warning. Guards against refusing, silence, or saving whatever the
    writer has."""
    workers = world(2, coordinator, on_divergence="warn")
    all_join(workers)
    saves = [workers[0].save(1, state()), workers[1].save(1, flipped(state(), key))]
    assert outcomes(saves) == [None, None]
    assert stored(store, committed(store)[0].prefix) == expected(state())
    assert any(f"{key} differs on worker-0, worker-1" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (state(more=[tensor("model/extra", (2,))]), "'model/extra', which worker-0 does not have"),
        (
            Snapshot(state().tensors[:-1], state().object_graph),
            "'model/small-9', which worker-2 does not have",
        ),
    ],
)
def test_models_that_differ_are_refused_by_name(
    store: Store, coordinator: Coordinator, world: World, odd: Snapshot, says: str
) -> None:
    """Models that differ are refused by name. Guards against checkpoints of which nobody can say what they hold."""
    workers = world(3, coordinator)
    all_join(workers)
    for error in outcomes([w.save(1, odd if n == 2 else state()) for n, w in enumerate(workers)]):
        assert isinstance(error, SaveFailed)
        assert says in str(error)
        assert error.workers == ("worker-0", "worker-2")
    assert store.list() == [f"{OWN_FOLDER}/"]


def test_different_steps_are_refused(store: Store, coordinator: Coordinator, world: World) -> None:
    """Different steps are refused. Guards against a state that never was."""
    workers = world(2, coordinator)
    all_join(workers)
    for error in outcomes([workers[0].save(10), workers[1].save(11)]):
        assert isinstance(error, SaveFailed)
        assert "worker-0 saves ckpt-10, worker-1 saves ckpt-11" in str(error)
    assert store.list() == [f"{OWN_FOLDER}/"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_worker_that_cannot_write_fails_the_save_of_all(
    store: Store, coordinator: Coordinator, world: World, failing: int
) -> None:
    """A worker that cannot write fails the save for all. Guards against others that wait until a deadline because one
    disk is full."""
    workers = world(3, coordinator)
    all_join(workers)
    gate = Gate("write", ".data-")
    workers[failing].store = GatedStore(store, gate)
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    gate.fail(StorageError("Could not write /x: No space left on device", phase="write", object="/x"))
    for error in outcomes(saves):
        assert isinstance(error, SaveFailed)
        assert f"worker-{failing}: Could not write /x: No space left" in str(error)
        assert (error.workers, error.object, error.phase) == ((f"worker-{failing}",), "/x", "write")
    run = read_run(store)
    assert run is not None
    assert run.checkpoints == ()
    workers[failing].store = store
    assert outcomes([worker.save(2) for worker in workers]) == [None] * 3
    assert [record.step for record in committed(store)] == [2]


def test_a_snapshot_that_could_not_be_taken_fails_the_save_of_all(coordinator: Coordinator, world: World) -> None:
    """A failed snapshot fails the save for all. Guards against others that hang in the vote."""
    workers = world(2, coordinator)
    all_join(workers)
    saves = [workers[0].save(1), workers[1].save(1, local_error=MemoryError("no room for the snapshot"))]
    for error in outcomes(saves):
        assert isinstance(error, SaveFailed)
        assert "worker-1: no room for the snapshot" in str(error)
        assert error.workers == ("worker-1",)


def test_a_save_that_breaks_in_the_worker_is_no_success(
    coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that breaks in the worker fails. Guards against a manager that takes silence for a commit."""
    (worker,) = world(1, coordinator)
    worker.join()

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(worker.session, "vote", broken)
    monkeypatch.setattr(worker.session, "fail", broken)
    (error,) = outcomes([worker.save(1)])
    assert error is not None
    assert "a mistake" in str(error)


def test_a_worker_that_sees_another_directory_is_told(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """A worker that sees another directory is told. Guards against a host without the mount that writes to its own
    disk."""
    from support.stores import new_store

    monkeypatch.setattr("holdfast_storage.lag.LAG", 0.0)
    workers = world(2, coordinator)
    all_join(workers)
    elsewhere = new_store("memory", None)  # type: ignore[arg-type]
    workers[1].store = elsewhere
    for error in outcomes([worker.save(1) for worker in workers]):
        assert isinstance(error, SaveFailed)
        assert "does not see the coordinator's directory" in str(error)
        assert error.workers == ("worker-1",)
    assert elsewhere.list() == []


def test_an_object_that_the_coordinator_does_not_see_is_named(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that the coordinator does not see is named. Guards against committing bytes on a disk that nobody else
    has."""
    monkeypatch.setattr("holdfast_storage.lag.LAG", 0.0)
    workers = world(2, coordinator)
    all_join(workers)

    class Lost:
        """Says that it wrote, and has not."""

        url, parallel, block = store.url, store.parallel, store.block

        def write(self, name: str, chunks: object) -> int:
            return sum(len(chunk) for chunk in chunks)  # type: ignore[attr-defined]

        size: Callable[[str], int | None] = staticmethod(store.size)

    workers[1].store = Lost()  # type: ignore[assignment]
    for error in outcomes([worker.save(1) for worker in workers]):
        assert isinstance(error, SaveFailed)
        assert "written by worker-1" in str(error)
        assert "is not there as the coordinator sees it" in str(error)
        assert error.workers == ("worker-1",)
    assert log_kinds(store) == ["import", "lead"]


def test_many_saves_and_retention(store: Store, coordinator: Coordinator, world: World) -> None:
    """Many saves leave as many checkpoints as wanted. Guards against a full disk, and removing old ones before the new
    one was read back."""
    workers = world(2, coordinator, max_to_keep=2)
    all_join(workers)
    for step in range(1, 6):
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
    coordinator.stop(patience=30.0)
    assert [record.step for record in committed(store)] == [4, 5]
    folders = [name for name in store.list() if name.startswith("ckpt-")]
    assert [name.partition(".")[0] for name in folders] == ["ckpt-4", "ckpt-5"]
    assert "ckpt-3." not in store.read("checkpoint").decode()


def test_tensors_without_bytes_and_workers_without_tensors(
    store: Store, coordinator: Coordinator, world: World
) -> None:
    """Empty tensors and workers without tensors are fine. Guards against a save that waits for ever for a worker with
    nothing to write."""
    workers = world(3, coordinator)
    all_join(workers)
    tiny = Snapshot((tensor("a", (0, 5)), tensor("b", ())), state().object_graph)
    assert outcomes([worker.save(1, tiny) for worker in workers]) == [None] * 3
    record = committed(store)[0]
    assert isinstance(record, CheckpointRecord)
    assert crc32c(stored(store, record.prefix)["b"]) == crc32c(expected(tiny)["b"])


def test_a_worker_whose_storage_does_not_answer_hears_that_the_save_is_over(
    world: World, coordinator: Coordinator, store: Store, passing: PassingTime
) -> None:
    """A worker whose storage hangs hears that the save is over. Guards against a call to a dead mount that stops the
    training for ever."""
    workers = world(2, coordinator)
    all_join(workers)
    gate = Gate("write", ".data-")
    workers[1].store = GatedStore(store, gate)
    saves = [worker.save(1) for worker in workers]
    until(lambda: "waiting for worker-1 to write" in coordinator.status(store.url).reason)
    passing.by(60.0)
    passing.until(lambda: all(save.wait(0.0) for save in saves))
    for error in outcomes(saves):
        assert isinstance(error, SaveFailed)
        assert error.workers == ("worker-1",)
        assert error.phase == "write"
    assert [save.abandoned for save in saves] == [False, True]
    assert saves[1].is_busy
    gate.open()
    until(lambda: not saves[1].is_busy)
    assert isinstance(saves[1].error, SaveFailed)
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    assert [record.step for record in committed(store)] == [2]


def test_what_a_predecessor_wrote_may_be_seen_late(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a predecessor wrote may be seen late. Guards against a restarted coordinator that fails the save because it
    cannot see the index that exists."""
    effects = []

    def kept(store: Store, effect: Finalize) -> Finalized:
        effects.append(effect)
        return finalize(store, effect)

    monkeypatch.setattr(support.committed, "finalize", kept)
    members = tuple((Task("worker", index), f"p{index}.1") for index in range(2))
    run = LogState("run").lead(Leader("leader", "", ""), Generation("0badcafe", members))
    record = support.committed.write_checkpoint(store, run, 1, 1)
    clock = Clock.installed(monkeypatch)
    late = LaggingStore(store.url, clock, {".index": clock.now + 20.0, "manifest.json": clock.now + 30.0})
    assert finalize(late, effects[0]).manifest_crc32c == record.manifest_crc32c
    assert 30.0 <= clock.now - 1000.0 < 35.0
