"""Whoever dies in mid-save: workers, coordinators, and connections."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

import holdfast.session.session
import holdfast_coordinator.core.membership
from holdfast.restoring.staging import Staged
from holdfast_coordinator.core.membership import LOST_AFTER
from holdfast_protos.client import Link
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import CoordinatorUnavailable, SaveFailed, Superseded
from holdfast_storage.layout import OWN_FOLDER
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import LightWorker, World, all_join, committed, log_kinds, outcomes, together, until
from support.passing_time import PassingTime


def held_up(worker: LightWorker, verb: str = "write", part: str = ".data-") -> Gate:
    gate = Gate(verb, part)
    worker.store = GatedStore(worker.store, gate)
    return gate


# -- workers --


def test_a_worker_that_dies_ends_the_save_by_its_name(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """A worker that dies ends the save, and is named. Guards against ten minutes of waiting for a dead host."""
    workers = world(3, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 3))
    gate = held_up(workers[2])
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    workers[2].die()
    until(lambda: coordinator.attended_by(store.url, 2))
    passing.by(LOST_AFTER)
    for error in outcomes(saves[:2]):
        assert isinstance(error, SaveFailed)
        assert "worker-2 lost (connection gone" in str(error)
        assert (error.workers, error.phase) == (("worker-2",), "write")
    gate.open()
    assert isinstance(outcomes(saves[2:])[0], CoordinatorUnavailable)
    run = read_run(store)
    assert run is not None
    assert run.checkpoints == ()


def test_a_worker_that_died_before_it_voted_is_named(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """A worker that died before its vote is named. Guards against a save that hangs in the vote."""
    workers = world(2, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 2))
    save = workers[0].save(1)
    workers[1].die()
    until(lambda: coordinator.attended_by(store.url, 1))
    passing.by(LOST_AFTER)
    (error,) = outcomes([save])
    assert isinstance(error, SaveFailed)
    assert (error.workers, error.phase) == (("worker-1",), "vote")
    assert store.list() == [f"{OWN_FOLDER}/"]


@pytest.mark.parametrize("embedded", [True, False])
def test_a_chief_stops_writing_what_has_failed(
    store: Store, coordinator: Coordinator, world: World, embedded: bool
) -> None:
    """A chief stops writing a save that has failed. Guards against others that wait at the next save until the chief
    has written everything."""
    chief, other = workers = world(2, "" if embedded else coordinator)
    all_join(workers)
    gates = [held_up(worker) for worker in workers]
    saves = [worker.save(1) for worker in workers]
    for gate in gates:
        assert gate.reached.wait(60.0)
    other.close()
    until(lambda: 1 in chief.session.aborted)
    for gate in gates:
        gate.open()
    (error,) = outcomes(saves[:1])
    assert isinstance(error, SaveFailed)
    assert "worker-1 closed its manager before its part of the save was done" in str(error)
    saves[1].wait()


def test_a_worker_that_closed_its_manager_is_named(store: Store, coordinator: Coordinator, world: World) -> None:
    """A worker that closed its manager is named. Guards against workers with different save calls that only learn it at
    a deadline."""
    workers = world(2, coordinator)
    all_join(workers)
    save = workers[0].save(1)
    workers[1].close()
    (error,) = outcomes([save])
    assert isinstance(error, SaveFailed)
    assert "worker-1 closed its manager" in str(error)


def test_a_worker_that_hangs_is_named_at_the_deadline(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """A worker that hangs is named at the deadline. Guards against an anonymous failure when a worker lives and its
    storage does not answer."""
    workers = world(2, coordinator)
    all_join(workers)
    gate = held_up(workers[1])
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: "waiting for worker-1 to write" in coordinator.status(store.url).reason)
    status = coordinator.status(store.url)
    assert status.run.activity.phase == "write"
    assert status.run.activity.step == 1
    passing.by(60.0)
    (error,) = outcomes(saves[:1])
    assert isinstance(error, SaveFailed)
    assert (error.workers, error.phase) == (("worker-1",), "write")
    gate.open()
    (error,) = outcomes(saves[1:])
    assert isinstance(error, SaveFailed)
    workers[1].store = store
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]


def test_a_worker_that_hears_of_the_end_stops_writing(store: Store, coordinator: Coordinator, world: World) -> None:
    """A worker that hears of the end stops writing. Guards against gigabytes for a save that failed long ago."""
    workers = world(2, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 2))
    gates = [held_up(worker) for worker in workers]
    saves = [worker.save(1) for worker in workers]
    assert all(gate.reached.wait(60.0) for gate in gates)
    gates[0].fail(OSError("no space"))
    until(lambda: 1 in workers[1].session.aborted)
    gates[1].open()
    for error in outcomes(saves):
        assert isinstance(error, SaveFailed)
        assert error.workers == ("worker-0",)


def test_an_old_connection_that_ends_late_is_not_the_end_of_its_worker(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late end of an old connection is not the end of its worker. Guards against a worker that is back after a
    network failure and counts as lost."""
    workers = world(2, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 2))
    stop = threading.Event()

    def beats() -> object:
        yield pb.Heartbeat(caller=workers[1].session.caller())
        stop.wait(60.0)

    link = Link(coordinator.address, workers[1].session._access)
    old = threading.Thread(target=lambda: list(link.attend(beats())))  # type: ignore[arg-type]
    old.start()
    gate = held_up(workers[1])
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    until(lambda: any(len(listeners) == 2 for listeners in driver._listeners.values()))
    monkeypatch.setattr(holdfast_coordinator.core.membership, "LOST_AFTER", 0.0)
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    stop.set()
    old.join(60.0)
    link.close()
    until(lambda: all(len(listeners) == 1 for listeners in driver._listeners.values()))
    assert coordinator.attended_by(store.url, 2)
    gate.open()
    assert outcomes(saves) == [None, None]


# -- coordinators --


def test_a_coordinator_restarted_in_mid_save_commits_it(start: StartCoordinator, store: Store, world: World) -> None:
    """A coordinator that is restarted in the middle of a save commits it. Guards against throwing away gigabytes
    because a small process was restarted."""
    first = start()
    workers = world(3, first)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None] * 3
    gate = held_up(workers[2])
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: "waiting for worker-2 to write" in first.status(store.url).reason)
    first.stop()
    second = start(first.address)
    gate.open()
    assert outcomes(saves) == [None] * 3
    assert [record.step for record in committed(store)] == [1, 2]
    assert log_kinds(store) == ["import", "lead", "commit", "lead", "commit"]
    assert second.status(store.url).run.generation == workers[0].session.generation
    until(lambda: second.attended_by(store.url, 3))


def test_a_coordinator_restarted_after_a_restore_learns_of_it(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """A coordinator that is restarted after a restore learns of it. Guards against a job that goes on from what was
    abandoned, or is superseded by what it restored."""
    first, other = start(), start()
    workers, job = world(2, first), world(1, other)
    all_join([*workers, *job])
    assert outcomes([job[0].save(1)]) == outcomes([job[0].save(2)]) == [None]
    job[0].close()
    for staged in together([lambda w=worker: w.restore("1") for worker in workers]):
        assert isinstance(staged, Staged)
        staged.close()
    first.stop()
    start(first.address)
    assert outcomes([worker.save(3) for worker in workers]) == [None] * 2
    assert [record.step for record in committed(store)] == [2, 1, 3]


def test_a_coordinator_restarted_during_the_vote_goes_on_with_it(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """A coordinator that is restarted during the vote goes on with it. Guards against losing the first save of a run,
    which nobody has led yet."""
    first = start()
    workers = world(3, first)
    all_join(workers)
    saves = [worker.save(1) for worker in workers[:2]]
    until(lambda: "waiting for worker-2 to call save()" in first.status(store.url).reason)
    first.stop()
    start(first.address)
    saves.append(workers[2].save(1))
    assert outcomes(saves) == [None] * 3
    assert [record.step for record in committed(store)] == [1]


@pytest.mark.parametrize("at", ["commit", "checkpoint"])
def test_a_coordinator_lost_around_the_commit_leaves_one_outcome(
    start: StartCoordinator, store: Store, world: World, at: str
) -> None:
    """A coordinator that is lost around the commit leaves one outcome. Guards against a committed save that is reported
    as failed, or committed twice."""
    first = start()
    workers = world(2, first)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None] * 2
    driver = first.server.runs.find(store.url)
    assert driver is not None
    gate = Gate("create", "_holdfast/log") if at == "commit" else Gate("replace", "checkpoint")
    driver.store = GatedStore(store, gate)
    driver._log._store = driver.store
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    stopping = threading.Thread(target=first.stop)
    stopping.start()
    stopping.join(60.0)
    start(first.address)
    if at == "commit":
        gate.open()  # the old one's request arrives after the new one has come up
    assert outcomes(saves) == [None, None]
    gate.open()
    assert [record.step for record in committed(store)] == [1, 2]
    assert log_kinds(store).count("commit") == 2


def test_a_coordinator_of_the_chief_is_followed_to_another_address(
    start: StartCoordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chief's coordinator is followed to another address. Guards against workers that ask at the hint's old address
    for ever."""
    from holdfast.session.hint import Hint
    from support.light_worker import cluster_of

    first = start()
    Hint(first.address, cluster_of(2)).write(store)
    workers = world(2)
    workers[0].session._coordinator = first.address  # as the embedded one, but it can be taken away from under it
    all_join(workers)
    gate = held_up(workers[1])
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    first.stop()
    second = start()
    workers[0].session._coordinator = second.address
    Hint(second.address, cluster_of(2)).write(store)
    gate.open()
    assert outcomes(saves) == [None, None]
    until(lambda: second.attended_by(store.url, 2))


def test_a_coordinator_that_stays_away_ends_the_save_in_time(
    start: StartCoordinator, store: Store, world: World, passing: PassingTime
) -> None:
    """If the coordinator stays away, the save ends in time, in doubt. Guards against waiting for ever, and calling it a
    certain failure."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    gate = held_up(workers[1])
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    coordinator.stop()
    gate.open()
    passing.until(lambda: not any(save.is_busy for save in saves))
    for error in outcomes(saves):
        assert isinstance(error, CoordinatorUnavailable)
        assert coordinator.address in str(error)
        assert "is not known" in str(error)
    assert all(worker.session.unreachable_since is not None for worker in workers)


def test_a_save_is_not_held_up_by_a_coordinator_that_is_away(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """The training loop is not held up while the coordinator is away. Guards against a lock that is held by attempts to
    join again."""
    coordinator = start()
    (worker,) = world(1, coordinator)
    worker.join()
    with worker.session._joining:
        (result,) = together([worker.join], timeout=30.0)
    assert result is worker


def test_a_job_and_its_coordinator_restarted_at_the_same_address_go_on(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """A job and coordinator that are restarted at the same address go on. Guards against a new coordinator that asks
    itself whether the old workers live, and refuses its own."""
    first = start()
    before = world(2, first)
    all_join(before)
    assert outcomes([worker.save(1) for worker in before]) == [None, None]
    for worker in before:
        worker.die()
    first.stop()
    second = start(first.address)
    after = world(2, second)
    all_join(after)
    until(lambda: second.attended_by(store.url, 2))
    assert outcomes([worker.save(2) for worker in after]) == [None, None]


def test_a_job_whose_coordinator_was_restarted_is_still_at_work(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """A job whose coordinator was restarted still counts as alive. Guards against a second job that takes the run in
    the minutes until the next save."""
    first = start()
    ours = world(2, first)
    all_join(ours)
    assert outcomes([worker.save(1) for worker in ours]) == [None, None]
    first.stop()
    second = start(first.address)
    until(lambda: second.server.runs.find(store.url) is not None)
    until(lambda: second.attended_by(store.url, 2))
    theirs = world(2, second)
    all_join(theirs)
    for error in outcomes([worker.save(2) for worker in theirs]):
        assert isinstance(error, SaveFailed)
        assert "another training job is running on this directory" in str(error)
    assert outcomes([worker.save(2) for worker in ours]) == [None, None]


def test_a_second_job_is_refused_while_the_first_one_lives(start: StartCoordinator, store: Store, world: World) -> None:
    """A second job is refused while the first one lives. Guards against two jobs that overwrite each other's
    checkpoints."""
    first, second = start(), start()
    ours = world(2, first)
    all_join(ours)
    assert outcomes([worker.save(1) for worker in ours]) == [None, None]
    until(lambda: first.attended_by(store.url, 2))
    theirs = world(2, second)
    all_join(theirs)
    for error in outcomes([worker.save(2) for worker in theirs]):
        assert isinstance(error, SaveFailed)
        assert f"its coordinator at {first.address} has living workers (worker-0, worker-1)" in str(error)
    assert outcomes([worker.save(2) for worker in ours]) == [None, None]
    assert log_kinds(store) == ["import", "lead", "commit", "commit"]


def test_a_second_job_at_the_same_coordinator_is_refused_too(
    coordinator: Coordinator, store: Store, world: World
) -> None:
    """A second job at the same coordinator is refused, too. Guards against a later job that takes the run from the one
    that is training."""
    ours = world(2, coordinator)
    all_join(ours)
    assert outcomes([worker.save(1) for worker in ours]) == [None, None]
    until(lambda: coordinator.attended_by(store.url, 2))
    theirs = world(2, coordinator)
    all_join(theirs)
    for error in outcomes([worker.save(2) for worker in theirs]):
        assert isinstance(error, SaveFailed)
        assert "another training job is running on this directory" in str(error)
    assert outcomes([worker.save(2) for worker in ours]) == [None, None]


def test_a_state_file_that_is_written_late_is_not_an_older_one(
    start: StartCoordinator, store: Store, world: World
) -> None:
    """A state file that is written late is not an older one. Guards against latest_checkpoint finding what a
    coordinator wrote that has lost the run."""
    first, second = start(), start()
    (worker,) = world(1, first)
    worker.join()
    assert outcomes([worker.save(0)]) == [None]
    driver = first.server.runs.find(store.url)
    assert driver is not None
    gate = Gate("replace", "checkpoint")
    driver.store = GatedStore(store, gate)
    save = worker.save(1)
    assert gate.reached.wait(60.0)
    (other,) = world(1, second, takeover=True)
    other.join()
    assert outcomes([other.save(2)]) == [None]
    gate.open()
    assert outcomes([save]) == [None]
    until(lambda: not driver._effects)
    assert b'model_checkpoint_path: "ckpt-2.' in store.read("checkpoint")


@pytest.mark.parametrize("same", [True, False])
def test_a_takeover_supersedes_the_first_job(start: StartCoordinator, store: Store, world: World, same: bool) -> None:
    """A takeover supersedes the first job. Guards against a job that nobody can end and that keeps its run, or two jobs
    that commit."""
    first = start()
    second = first if same else start()
    ours = world(2, first)
    all_join(ours)
    assert outcomes([worker.save(1) for worker in ours]) == [None, None]
    until(lambda: first.attended_by(store.url, 2))
    theirs = world(2, second, takeover=True)
    all_join(theirs)
    assert outcomes([worker.save(2) for worker in theirs]) == [None, None]
    if same:
        # They are told without asking.
        until(lambda: all(worker.session.superseded is not None for worker in ours))
    for error in outcomes([worker.save(3) for worker in ours]):
        assert isinstance(error, Superseded)
    until(lambda: all(worker.session.superseded is not None for worker in ours))
    assert outcomes([worker.save(3) for worker in theirs]) == [None, None]
    assert [record.step for record in committed(store)] == [1, 2, 3]
    assert log_kinds(store) == ["import", "lead", "commit", "lead", "commit", "commit"]


def test_a_save_in_flight_is_superseded_and_leaves_no_trace(
    start: StartCoordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superseded save in flight leaves no trace. Guards against a commit on top of the successor's."""
    # What the first job has written is gone: it is waited for, and soon looked at why.
    monkeypatch.setattr("holdfast_coordinator.core.saving.LOOK", 0.1)
    first, second = start(), start()
    ours = world(2, first)
    all_join(ours)
    assert outcomes([worker.save(1) for worker in ours]) == [None, None]
    gate = held_up(ours[1])
    saves = [worker.save(2) for worker in ours]
    assert gate.reached.wait(60.0)
    theirs = world(2, second, takeover=True)
    all_join(theirs)
    assert outcomes([worker.save(5) for worker in theirs]) == [None, None]
    before = {name: store.read(name) for name in ["checkpoint"]}
    gate.open()
    assert all(isinstance(error, Superseded) for error in outcomes(saves))
    assert [record.step for record in committed(store)] == [1, 5]
    assert {name: store.read(name) for name in before} == before


def test_a_worker_of_a_world_that_was_replaced_is_told(start: StartCoordinator, store: Store, world: World) -> None:
    """A worker of a replaced world is told so. Guards against a process that hung for an hour and joins again."""
    first = start()
    zombies = world(2, first)
    all_join(zombies)
    assert outcomes([worker.save(1) for worker in zombies]) == [None, None]
    first.stop()
    second = start()
    workers = world(2, second)
    all_join(workers)
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    for zombie in zombies:
        zombie.session._coordinator = second.address
    for error in outcomes([zombie.save(2) for zombie in zombies]):
        assert isinstance(error, Superseded)
        assert "has taken the run over since" in str(error)
    assert [record.step for record in committed(store)] == [1, 2]


def test_heartbeats_tell_what_a_worker_does(
    coordinator: Coordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats tell what a worker is doing now. Guards against a status that is minutes old."""
    monkeypatch.setattr(holdfast.session.session, "BEAT", 60.0)
    workers = world(2, coordinator)
    all_join(workers)
    gate = held_up(workers[1])
    saves = [worker.save(4) for worker in workers]
    assert gate.reached.wait(60.0)

    def told() -> Sequence[pb.WorkerStatus]:
        return coordinator.status(store.url).run.workers

    until(lambda: [(worker.phase, worker.step) for worker in told()] == [("commit", 4), ("write", 4)])
    straggler = told()[1]
    assert straggler.alive
    assert straggler.bytes_total > 0
    assert 0 <= straggler.seconds_since_heard < 60
    gate.open()
    assert outcomes(saves) == [None, None]
    until(lambda: {worker.phase for worker in told()} == {"train"})
