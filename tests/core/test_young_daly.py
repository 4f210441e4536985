"""The interval of Young and Daly: the formulas beside a search for the least loss, and what is told of few data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core.young_daly import Advice, advise, daly
from support.cluster import Cluster, Coordinator, Worker


def loss(interval: float, cost: float, between: float) -> float:
    """The time that training takes, by Daly's complete model (equation 20): failures may come while it saves, too."""
    return (math.exp((interval + cost) / between) - 1.0) / interval


@given(st.floats(0.001, 100.0), st.floats(200.0, 1e6))
def test_nothing_is_better(cost: float, between: float) -> None:
    """No other interval loses noticeably less. Guards against a formula with a wrong factor, which looks as good."""
    best = daly(cost, between)
    found = min((best * 1.02**power for power in range(-150, 150)), key=lambda each: loss(each, cost, between))
    assert loss(best, cost, between) <= loss(found, cost, between) * 1.001
    assert best == pytest.approx(found, rel=0.05)


def test_where_a_save_costs_little() -> None:
    """Where a save costs little the interval is Young's. Guards against seconds that are taken for minutes."""
    assert daly(1.0, 86_400.0) == pytest.approx(math.sqrt(2 * 86_400.0), rel=0.01)


def test_where_a_save_costs_more_than_there_is() -> None:
    """Where jobs fail before two saves are done, the interval is their time. Guards against a negative one."""
    assert daly(100.0, 40.0) == 40.0


def test_few_failures_say_little() -> None:
    """The range is wide with few failures, and narrow with many; without any there is a lower end alone. Guards against
    an advice to the second from one bad night."""
    one = advise([2.0], [5.0], 1, 36_000.0)
    many = advise([2.0], [5.0], 100, 3_600_000.0)
    none = advise([2.0], [5.0], 0, 36_000.0)
    assert one
    assert many
    assert none
    assert one.interval == many.interval == daly(2.0, 36_000.0)
    assert one.most
    assert many.most
    assert one.least < many.least < many.interval < many.most < one.most
    assert one.least == pytest.approx(daly(2.0, 36_000.0 / 4.744), rel=0.02)  # chi-square with 4 degrees: 9.488
    assert one.most == pytest.approx(daly(2.0, 36_000.0 / 0.0513), rel=0.15)  # with 2: 0.1026
    assert none.interval is None
    assert none.most is None
    assert none.least == pytest.approx(daly(2.0, 36_000.0 / 2.996), rel=0.02)  # with 2: 5.991


def test_no_shorter_than_a_save() -> None:
    """No interval is shorter than a save takes, however little it costs. Guards against an advice that cannot be
    followed."""
    assert advise([0.0], [60.0, 61.0, 62.0], 4, 3600.0) == Advice(0.0, 4, 3600.0, 61.0, 61.0, 61.0)
    found = advise([0.001], [60.0], 4, 3600.0)
    assert found
    assert found.interval == 60.0


def test_without_anything_to_go_by() -> None:
    """Without a save or without any time of training, nothing is said. Guards against a division by it."""
    assert advise([], [], 3, 3600.0) is None
    assert advise([1.0], [1.0], 3, 0.0) is None


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8), st.integers(0, 10_000), st.floats(1e-6, 1e11))
def test_whatever_was_measured(costs: list[float], failures: int, trained: float) -> None:
    """Whatever was measured, the interval lies in its range, and all are numbers. Guards against a status that ends in
    a traceback."""
    found = advise(costs, costs, failures, trained)
    assert found
    assert 0.0 <= found.least < math.inf
    if found.interval is not None:
        assert found.most is not None
        assert found.least <= found.interval <= found.most < math.inf


def job(cluster: Cluster) -> tuple[Coordinator, Worker]:
    """The next job, with a coordinator of its own."""
    for before in cluster.coordinators:
        before.alive = False
    coordinator = cluster.coordinator()
    (worker,) = cluster.world(coordinator, 1)
    return coordinator, worker


def waited(cluster: Cluster, coordinator: Coordinator, worker: Worker) -> float:
    """Seconds until the workers are asked to save, by the clock."""
    requests = coordinator.machine.worlds[worker.caller.generation].requests
    seconds = 0.0
    while not requests.agreement.open:
        coordinator.tell(worker.heartbeat(save_every=600.0, by_advice=True))
        cluster.tick(1.0)
        seconds += 1.0
    return seconds


@pytest.mark.parametrize("failures", [0, 3])
def test_saves_by_the_advice(failures: int) -> None:
    """Saves by the advice come as often as status says, and as often as at first until that is known. Guards against a
    program that asks for the best interval and gets another, or no saves at all."""
    cluster = Cluster()
    assert waited(cluster, *job(cluster)) == 600.0
    for _ in range(failures + 1):
        coordinator, worker = job(cluster)
        cluster.save(coordinator, [worker], 1)
        coordinator.tell(worker.heartbeat(save_every=600.0, by_advice=True))
        cluster.tick(300.0)
        worker.cost_before = 2.0
        cluster.save(coordinator, [worker], 2)
    advice = coordinator.machine.advice(coordinator.machine.worlds[worker.caller.generation])
    assert advice
    assert (advice.cost, advice.failures, advice.trained) == (2.0, failures, 300.0 * (failures + 1))
    interval = advice.interval if failures else advice.least
    assert interval
    assert waited(cluster, coordinator, worker) == math.ceil(2.0 + interval)
