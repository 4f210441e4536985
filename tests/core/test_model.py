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
from holdfast_coordinator.core import values as v
from support.cluster import Client, Cluster, Coordinator, Fate, Worker

SAVES = 4
REPEATABLE = (ev.Appended, ev.Finalized, ev.StateFileWritten, ev.ReadBack, ev.Deleted)
FATES: list[Fate] = ["good", "good", "lost", "late", "never", "bad"]
some = st.integers(0, 1000)


class Histories(RuleBasedStateMachine):
    @initialize(count=st.integers(1, 3), keep=st.sampled_from([None, 1, 2]))
    def start(self, count: int, keep: int | None) -> None:
        self.cluster = Cluster()
        self.count = count
        self.keep = keep
        self.cluster.coordinator()
        self._job(self.cluster.workers(count))

    def _job(self, workers: list[Worker], *, takeover: bool = False) -> None:
        for worker in workers:
            worker.terms = {"retention": v.RetentionPolicy(self.keep), "takeover": takeover, "timeout": 60.0}
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

    @rule()
    def late_writes_arrive(self) -> None:
        self.cluster.storage.land()

    @rule(seconds=st.sampled_from([0.5, 5.0, 12.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.tick(seconds)

    @rule(which=some)
    def a_connection_breaks(self, which: int) -> None:
        client = self.cluster.clients[which % len(self.cluster.clients)]
        if client.attached and client.coordinator.alive:
            client.detach()

    @rule(which=some)
    def a_worker_connects_again(self, which: int) -> None:
        client = self.cluster.clients[which % len(self.cluster.clients)]
        if client.worker.world and not client.attached and client.coordinator.alive:
            client.attach()

    @rule(which=some, ordinal=st.integers(1, SAVES))
    def a_worker_cannot_write(self, which: int, ordinal: int) -> None:
        client = self.cluster.clients[which % len(self.cluster.clients)]
        if client.waiting and isinstance(client.event, ev.Vote | ev.Reported) and client.coordinator.alive:
            client.fail()

    @rule(at_once=st.booleans(), which=some)
    @precondition(lambda self: len(self.cluster.coordinators) < 4)
    def the_coordinator_restarts(self, at_once: bool, which: int) -> None:
        """Killed, or, to its workers one by one, out of reach while it goes on."""
        old = self.newest
        self.cluster.coordinator()
        old.alive = not at_once
        for client in (
            self.cluster.clients if at_once else self.cluster.clients[which % len(self.cluster.clients) :][:1]
        ):
            client.move(self.newest)

    @rule(which=some)
    def a_worker_finds_the_new_coordinator(self, which: int) -> None:
        client = self.cluster.clients[which % len(self.cluster.clients)]
        if client.coordinator is not self.newest:
            client.move(self.newest)

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
        """Nobody waits for ever once the storage is well again."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.storage.land()
        for coordinator in self.cluster.coordinators[:-1]:
            coordinator.alive = False
        for client in self.cluster.clients:
            if client.coordinator is not self.newest:
                client.move(self.newest)
        for _ in range(600):
            self.newest.run()
            while self.newest.results:
                self.newest.deliver()
            going = [client for client in self.cluster.clients if not client.done]
            if not going:
                break
            for client in going:
                if client.worker.world and not client.attached and not client.waiting:
                    client.attach()
                if client.answered:
                    client.receive()
                    if client.done and client.attached:
                        client.detach()
                elif not client.waiting:
                    client.send()
            self.cluster.tick(0.5)
        self.cluster.check()
        # Who is told to wait for a world that can never be complete is told so, and knows how long it wants to.
        stuck = [client.event for client in self.cluster.clients if not client.done and client.worker.world]
        assert not stuck, f"{stuck} wait for ever: {self.cluster.storage.kinds}"


Histories.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("seed", range(20))
def test_histories_of_one_job(seed: int) -> None:
    """A long run in which one of ten things goes wrong: what a machine says and what stands in the log part ways."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    cluster.clients = [Client(cluster, worker, coordinator, 10) for worker in cluster.workers(3)]
    cluster.play(random.Random(seed), 500, faults=0.1)
    assert any(True in told.values() for told in cluster.outcomes.values())
