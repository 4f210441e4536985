"""Random histories of workers, coordinators and storage, against what must hold in all of them.

The model is the cluster in memory: it knows what every worker was told and what stands in the log. After every step it
is compared with what the machines do (`check_invariants`, `Cluster.check`): an outcome once told never changes, all
workers get the same, a save was committed just when its commit entry stands in the log, only the leader's entries
follow a lead entry, no retired name is live again. In the end storage and network are well again, and every worker
must come to the end of its training.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.rules import Newest
from support.cluster import Client, Cluster, Coordinator, Fate, Worker

SAVES = 4
REPEATABLE = (
    ev.Appended,
    ev.Finalized,
    ev.StateFileWritten,
    ev.ReadBack,
    ev.Listed,
    ev.ObjectsRead,
    ev.Examined,
    ev.OrphansFound,
    ev.Deleted,
)
FATES: list[Fate] = ["good", "good", "lost", "late", "never", "bad"]
some = st.integers(0, 1000)


class Histories(RuleBasedStateMachine):
    @initialize(
        count=st.integers(1, 3),
        keep=st.sampled_from([None, 1, 2]),
        full_every=st.sampled_from([1, 3]),
        served=st.booleans(),
    )
    def start(self, count: int, keep: int | None, full_every: int, served: bool) -> None:
        self.cluster = Cluster()
        self.cluster.served = served and count > 1
        self.full_every = full_every
        self.count = count
        self.keep = keep
        self.cluster.coordinator()
        self._job(self.cluster.workers(count))

    def _job(self, workers: list[Worker], *, takeover: bool = False) -> None:
        for worker in workers:
            worker.full_every = self.full_every
            worker.terms = {
                "retention": (Newest(self.keep),) if self.keep else (),
                "takeover": takeover,
                "timeout": 60.0,
            }
            self.cluster.clients.append(Client(self.cluster, worker, self.newest, SAVES))

    @property
    def newest(self) -> Coordinator:
        return self.cluster.coordinators[-1]

    @property
    def alive(self) -> list[Coordinator]:
        return [coordinator for coordinator in self.cluster.coordinators if coordinator.alive]

    @rule(seed=some, steps=st.integers(1, 60))
    def all_goes_well(self, seed: int, steps: int) -> None:
        self.cluster.play(random.Random(seed), steps)

    @rule(seed=some, steps=st.integers(1, 20))
    def much_goes_wrong(self, seed: int, steps: int) -> None:
        self.cluster.play(random.Random(seed), steps, faults=0.3)

    @rule(which=some, index=some, fate=st.sampled_from(FATES))
    def storage_works(self, which: int, index: int, fate: Fate) -> None:
        coordinator = self.alive[which % len(self.alive)]
        if coordinator.pending:
            coordinator.carry_out(index % len(coordinator.pending), fate)

    @rule(which=some, index=some, repeat=st.booleans())
    def a_result_arrives(self, which: int, index: int, repeat: bool) -> None:
        coordinator = self.alive[which % len(self.alive)]
        if coordinator.results:
            index %= len(coordinator.results)
            coordinator.deliver(index, repeat=repeat and isinstance(coordinator.results[index], REPEATABLE))

    @rule(seed=some, times=st.integers(1, 5))
    def something_happens(self, seed: int, times: int) -> None:
        for number in range(times):
            self.cluster.disturb(random.Random(seed + number))

    @rule(killed=st.booleans())
    @precondition(lambda self: len(self.cluster.coordinators) < 4)
    def the_coordinator_restarts(self, killed: bool) -> None:
        self.cluster.restart(killed=killed)

    @rule(same_processes=st.booleans(), takeover=st.booleans())
    @precondition(lambda self: len(self.cluster.clients) < 3 * self.count)
    def another_job_starts(self, same_processes: bool, takeover: bool) -> None:
        last = [client.worker for client in self.cluster.clients[-self.count :]]
        self._job(self.cluster.workers(self.count, last if same_processes else None), takeover=takeover)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.check()

    def teardown(self) -> None:
        """Nobody waits for ever once all is well again."""
        if hasattr(self, "cluster"):
            assert self.cluster.calm() == []


Histories.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("seed", range(300))
def test_long_histories(seed: int) -> None:
    """In long random histories all invariants hold. Guards against what takes many steps to go wrong, such as a commit
    in doubt that is given up and lands after all."""
    chance = random.Random(seed)
    cluster = Cluster()
    policy = chance.choice([(), (Newest(1),), (Newest(2),)])
    full_every = chance.choice([1, 4])
    count = chance.randint(1, 3)
    cluster.served = seed % 3 == 0 and count > 1
    jobs = [cluster.workers(count)]
    for number in range(400):
        if number == 0 or (len(jobs) < 3 and chance.random() < 0.004):
            if number:
                jobs.append(cluster.workers(len(jobs[0]), jobs[-1] if chance.random() < 0.5 else None))
            coordinator = cluster.coordinators[-1] if cluster.coordinators else cluster.coordinator()
            takeover = chance.random() < 0.5
            goes_back = chance.choice([0, 3])
            for worker in jobs[-1]:
                worker.goes_back = goes_back
                worker.full_every = full_every
                worker.terms = {"retention": policy, "takeover": takeover, "timeout": 60.0}
                cluster.clients.append(Client(cluster, worker, coordinator, 6))
        elif chance.random() < 0.004:
            cluster.restart(killed=chance.random() < 0.5)
        elif chance.random() < 0.08:
            cluster.disturb(chance)
        elif not cluster.step(chance, faults=0.1):
            cluster.tick()
        if number % 10 == 0:
            cluster.check()
    assert cluster.calm() == []
