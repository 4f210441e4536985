"""The metrics of checkpoints whose jobs had no rule for them: read once from their manifests, then in the log."""

from __future__ import annotations

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core.rules import Best, Newest, Policy
from holdfast_storage.records import LogState
from support.cluster import Cluster, Coordinator, Worker, checkpoint

LOSSES = {10: 0.5, 20: 0.1, 30: 0.3}
BEST = (Newest(1), Best(1, "loss", "min"))


def job(cluster: Cluster, policy: Policy) -> tuple[Coordinator, list[Worker]]:
    """A job with this policy, after whatever was there."""
    if cluster.coordinators:
        cluster.coordinators[-1].alive = False
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    for worker in workers:
        worker.terms = {"retention": policy}
    cluster.restore(coordinator, workers)
    return coordinator, workers


def after_an_earlier_job(policy: Policy = BEST) -> tuple[Cluster, Coordinator, list[Worker]]:
    """A job with this policy, after one that kept all, by no metric."""
    cluster = Cluster()
    coordinator, workers = job(cluster, ())
    for ordinal, step in enumerate(LOSSES, 1):
        cluster.save(coordinator, workers, ordinal, step)
    for record in cluster.storage.state.checkpoints:
        assert record.metrics == ()
        cluster.storage.metrics[record.prefix] = (("accuracy", 0.5), ("loss", LOSSES[record.step]))
    return cluster, *job(cluster, policy)


def steps(cluster: Cluster) -> list[int]:
    return [record.step for record in cluster.storage.state.checkpoints]


def test_the_best_of_an_earlier_job_is_kept() -> None:
    """The best of a job that had no such rule is kept, and the log tells its metrics from then on. Guards against a
    program that asks for the best, and with its first save removes the best that there is."""
    cluster, coordinator, workers = after_an_earlier_job()
    cluster.save(coordinator, workers, 1, 40)
    assert steps(cluster) == [20, 40]
    assert [record.metrics for record in cluster.storage.state.checkpoints] == [(("loss", 0.1),), (("loss", None),)]

    coordinator, workers = job(cluster, BEST)
    cluster.storage.metrics.clear()  # they are not read again
    cluster.save(coordinator, workers, 1, 50)
    assert steps(cluster) == [20, 50]


def test_another_metric_is_looked_for_as_well() -> None:
    """Each metric is looked for once. Guards against one that is taken as known because another is."""
    cluster, coordinator, workers = after_an_earlier_job()
    cluster.save(coordinator, workers, 1, 40)
    coordinator, workers = job(cluster, (*BEST, Best(1, "accuracy", "max")))
    cluster.save(coordinator, workers, 1, 50)
    assert steps(cluster) == [20, 50]
    assert dict(cluster.storage.state.checkpoints[0].metrics) == {"loss": 0.1, "accuracy": 0.5}


def test_what_cannot_be_read_is_not_judged() -> None:
    """A checkpoint whose metrics cannot be read stays until they can be. Guards against storage that is away for a
    moment, after which the best is gone."""
    cluster, coordinator, workers = after_an_earlier_job()
    coordinator.ask(workers[0].vote(1, 40))
    coordinator.call(workers[0].report(1, 40))
    coordinator.run({fx.ReadMetrics: "bad"})
    assert steps(cluster) == [10, 20, 30, 40]
    cluster.save(coordinator, workers, 2, 50)
    assert steps(cluster) == [20, 50]


def test_a_copy_without_a_log() -> None:
    """What was imported counts by its manifests. Guards against a copied run whose best is the first to go."""
    records = tuple(map(checkpoint, LOSSES))
    cluster = Cluster(LogState("run", checkpoints=(checkpoint(1, stock=True), *records)))
    for record in records:
        cluster.storage.metrics[record.prefix] = (("loss", LOSSES[record.step]),)
    coordinator, workers = job(cluster, BEST)
    cluster.save(coordinator, workers, 1, 40)
    assert steps(cluster) == [1, 20, 40]


def test_nothing_is_read_without_a_rule_for_it() -> None:
    """Without a rule for a metric, no manifest is read and the log holds none. Guards against a log that grows, and a
    start that reads all manifests of a year."""
    cluster, coordinator, workers = after_an_earlier_job((Newest(1),))
    coordinator.ask(workers[0].vote(1, 40))
    coordinator.call(workers[0].report(1, 40))
    assert not [effect for effect in coordinator.run() if isinstance(effect, fx.ReadMetrics)]
    assert steps(cluster) == [40]
    assert cluster.storage.state.checkpoints[0].metrics == ()


def test_upkeep_is_not_over_before() -> None:
    """Whoever waits until all is removed waits for the metrics, too. Guards against a blocking save after which more is
    left than the rules keep."""
    cluster, coordinator, workers = after_an_earlier_job()
    coordinator.ask(workers[0].vote(1, 40))
    coordinator.call(workers[0].report(1, 40))
    while not any(isinstance(effect, fx.ReadMetrics) for effect in coordinator.pending):
        coordinator.carry_out()
        coordinator.deliver()
    call = coordinator.call(workers[0].await_upkeep())
    assert call.answer is None
    assert coordinator.machine.upkeep == "reading the metrics of earlier checkpoints, to know the best"
    coordinator.run()
    assert call.answer is not None
    assert steps(cluster) == [20, 40]
