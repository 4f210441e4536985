"""Histories too long for a transcript, or the same at every point of a save: for the others see `test_transcripts`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.attempt import Phase
from holdfast_coordinator.core.rules import Newest, Policy
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import LogState
from support.cluster import WALL, Call, Cluster, Coordinator, Worker


def start(count: int = 2, imported: LogState | None = None) -> tuple[Cluster, Coordinator, list[Worker]]:
    cluster = Cluster(imported)
    coordinator = cluster.coordinator()
    return cluster, coordinator, cluster.world(coordinator, count)


def vote(coordinator: Coordinator, workers: list[Worker], ordinal: int) -> list[Call]:
    """All have been told to go."""
    calls = [coordinator.call(worker.vote(ordinal)) for worker in workers]
    coordinator.run()
    assert all(isinstance(call.answer, v.Go) for call in calls)
    return calls


def report(coordinator: Coordinator, workers: list[Worker], ordinal: int) -> list[Call]:
    return [coordinator.call(worker.report(ordinal)) for worker in workers]


def outcome(call: Call) -> v.SaveOutcome:
    assert isinstance(call.answer, v.SaveOutcome), call.answer
    return call.answer


def failed(call: Call) -> Failure:
    failure = outcome(call).failure
    assert failure is not None
    return failure


def refusal(call: Call | v.Answer | Failure | None) -> Failure:
    answer = call.answer if isinstance(call, Call) else call
    assert isinstance(answer, Failure), answer
    return answer


@pytest.mark.parametrize("behind", [1, 16, 17, 18, 60])
def test_a_laggard_is_told_what_the_others_were(behind: int) -> None:
    """A worker that lags is told about each save what the others were told. Guards against an internal error, or
    another answer, for a worker that slept while saves failed for want of its part."""
    cluster, coordinator, workers = start()
    told = {}
    for ordinal in range(1, behind + 2):
        call = coordinator.call(workers[0].vote(ordinal))
        cluster.tick(600.0)
        told[ordinal] = failed(call)
    for ordinal in range(1, behind + 2):
        assert failed(coordinator.call(workers[1].vote(ordinal))) == told[ordinal]
        assert failed(coordinator.call(workers[1].vote(ordinal))) == told[ordinal], "and again"
    assert cluster.save(coordinator, workers, behind + 2).committed


def test_a_laggard_of_a_restarted_coordinator() -> None:
    """A worker that lags behind a restarted coordinator gets a definite answer. Guards against the same, when nobody
    knows any more how those saves have failed."""
    _, coordinator, workers = start()
    coordinator.call(workers[0].vote(40))
    for ordinal in range(1, 40):
        answer = coordinator.call(workers[1].vote(ordinal))
        assert "the other workers have gone on to save 40 without it" in failed(answer).message
        assert outcome(coordinator.call(workers[1].give_up(ordinal))) == outcome(answer)
    coordinator.call(workers[1].vote(40))
    coordinator.run()
    for worker in workers:
        coordinator.call(worker.report(40))
    coordinator.run()
    assert coordinator.machine.worlds[workers[0].caller.generation].committed == 40


def test_an_outcome_that_was_forgotten_is_not_guessed() -> None:
    """A forgotten outcome is not guessed. Guards against an old commit that is reported as failed."""
    cluster, coordinator, workers = start(1)
    for ordinal in range(1, 22):
        cluster.save(coordinator, workers, ordinal)
    assert refusal(coordinator.ask(workers[0].report(1))).kind == Kind.INVALID_REQUEST
    assert coordinator.ask(workers[0].report(20)) == v.SaveOutcome(20, True)


def restart(cluster: Cluster, workers: list[Worker]) -> Coordinator:
    cluster.coordinators[-1].alive = False
    coordinator = cluster.coordinator()
    for worker in workers:
        assert coordinator.ask(worker.rejoin()) == worker.world
        coordinator.tell(worker.attached())
        coordinator.tell(worker.heartbeat())
    return coordinator


def keep(workers: list[Worker], policy: Policy) -> None:
    for worker in workers:
        worker.terms = {"retention": policy}


def test_a_clock_that_was_wrong_is_not_believed_for_ever() -> None:
    """A clock that was wrong is not believed for ever. Guards against all later commits getting the time of a clock
    that was a year ahead for a moment."""
    cluster, coordinator, workers = start(1)
    coordinator.machine.handle(ev.Tick(), v.Now(0.0, WALL + 1e9))
    cluster._time = 100.0
    cluster.save(coordinator, workers, 1)
    cluster._time = 99.0
    cluster.save(coordinator, workers, 2)
    times = [record.time for record in cluster.storage.state.checkpoints]
    assert times == [WALL + 100.0, WALL + 99.0]


def test_busy() -> None:
    """A machine is busy exactly while an orderly end should wait. Guards against a coordinator that ends in the middle
    of a commit, or never."""
    cluster, coordinator, workers = start()
    keep(workers, (Newest(1),))
    assert not coordinator.machine.busy
    cluster.save(coordinator, workers, 1)
    assert not coordinator.machine.busy
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while coordinator.pending:
        assert coordinator.machine.busy
        coordinator.carry_out()
        coordinator.deliver()
    assert not coordinator.machine.busy


def phases(cluster: Cluster, coordinator: Coordinator, workers: list[Worker], until: Phase) -> None:
    """Bring save 2 to a phase."""
    cluster.save(coordinator, workers, 1)

    def there() -> bool:
        attempt = coordinator.machine.worlds[workers[0].caller.generation].attempt
        return attempt is not None and attempt.phase is until

    steps: list[Callable[[], object]] = [lambda w=w: coordinator.call(w.vote(2)) for w in workers]
    steps += [lambda w=w: coordinator.call(w.report(2)) for w in workers]
    for step in steps:
        if there():
            return
        step()
    while not there():
        coordinator.carry_out()
        coordinator.deliver()


@pytest.mark.parametrize("until", [Phase.VOTING, Phase.WRITING, Phase.FINALIZING, Phase.COMMITTING, Phase.PUBLISHING])
def test_killed_in_any_phase(until: Phase) -> None:
    """A kill in any phase loses nothing but the save in flight. Guards against the one moment at which a kill loses a
    save or a checkpoint."""
    cluster, coordinator, workers = start()
    phases(cluster, coordinator, workers, until)
    stood = "commit" in cluster.storage.kinds[3:]
    coordinator = restart(cluster, workers)
    if until is Phase.VOTING:
        assert cluster.save(coordinator, workers, 2).committed
    else:
        calls = report(coordinator, workers, 2)
        coordinator.run()
        assert {outcome(call) for call in calls} == {v.SaveOutcome(2, True)}
    assert stood == (until is Phase.PUBLISHING)
    assert [record.step for record in cluster.storage.state.checkpoints] == [10, 20]
    assert cluster.save(coordinator, workers, 3).committed
    cluster.check()


def test_results_of_saves_that_nobody_knows() -> None:
    """They change nothing. Guards against the index of another save that is taken for that of the one on its way."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    report(coordinator, workers, 1)
    assert coordinator.tell(ev.Finalized(workers[0].caller.generation, 7, "x/y")) == []
    assert coordinator.tell(ev.Finalized("unknown", 1, "x/y")) == []
    coordinator.run()
    assert cluster.storage.kinds == ["import", "lead", "commit"]
