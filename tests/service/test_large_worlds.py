"""Worlds of hundreds of workers: what each sends and gets to join is the same in a world of any size."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import holdfast_coordinator.calls
import holdfast_coordinator.clusters
from holdfast_coordinator import wire
from holdfast_coordinator.calls import Calls
from holdfast_coordinator.clusters import Clusters
from holdfast_coordinator.core.messages import Waiting
from holdfast_coordinator.door import ADMITTED, Admitted
from holdfast_coordinator.served_runs import ServedRuns
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Cluster, Task, describe, digest, first_difference, names
from holdfast_storage.records import Leader
from support.coordinators import ROOTS
from support.joining import join_request
from support.light_worker import cluster_of


@pytest.fixture(autouse=True)
def admitted() -> None:
    """The door has let in what is called here."""
    ADMITTED.set(Admitted())


class Job:
    """The workers of a world, which call the coordinator in the way of a session, and what they send and get."""

    def __init__(self, folder: Path, size: int) -> None:
        self.run = str(folder)
        self.cluster = cluster_of(size)
        self.callers = [
            pb.Caller(run=self.run, task=f"worker-{n}", incarnation=f"process{n:05d}.1") for n in range(size)
        ]
        self.joined: dict[str, pb.JoinReply] = {}
        self.bytes: Counter[str] = Counter()
        self._attending: list[asyncio.Task[None]] = []

    async def join(self, calls: Calls, caller: pb.Caller) -> None:
        """Join, or join again."""
        described = False
        while True:
            request = join_request(caller, self.cluster)
            if not described:
                request.ClearField("cluster")
            if before := self.joined.get(caller.task):
                request.members.extend(before.members)
                request.fork_point = before.fork_point
            reply = await calls.join(request)
            self.bytes[caller.task] += request.ByteSize() + reply.ByteSize()
            described |= reply.cluster_wanted
            if not reply.cluster_wanted and not reply.waiting_for:
                break
        self.joined.setdefault(caller.task, reply)
        caller.generation = reply.generation
        self._attending.append(asyncio.create_task(self._attend(calls, caller)))

    async def join_all(self, calls: Calls) -> None:
        await asyncio.gather(*(self.join(calls, caller) for caller in reversed(self.callers)))

    async def _attend(self, calls: Calls, caller: pb.Caller) -> None:
        async def beats() -> AsyncIterator[pb.Heartbeat]:
            yield pb.Heartbeat(caller=caller)
            await asyncio.Event().wait()

        async for _ in calls.attend(beats()):
            pass

    async def close(self, *coordinators: Calls) -> None:
        for task in self._attending:
            task.cancel()
        await asyncio.gather(*self._attending, return_exceptions=True)
        for calls in coordinators:
            await calls._runs.close()


def coordinator() -> Calls:
    return Calls(ServedRuns(Leader("coordinator", "here:1", "here"), ROOTS))


async def first_join(folder: Path, size: int) -> Job:
    job, calls = Job(folder, size), coordinator()
    await job.join_all(calls)
    await job.close(calls)
    assert len({reply.generation for reply in job.joined.values()}) == 1
    return job


def test_what_a_worker_sends_and_gets_does_not_grow_with_the_world(tmp_path: Path) -> None:
    """All but the chief, and the one that describes the cluster, send and get as much in a world of 500 as in one of
    50. Guards against a join of N workers that moves N times N names, and takes memory and minutes."""
    costs = []
    for size in (50, 500):
        job = asyncio.run(first_join(tmp_path / str(size), size))
        *most, second, first = sorted(job.bytes.values())
        assert first + second > 20 * size  # the cluster, and the members
        costs.append(max(most))
        assert [task for task, reply in job.joined.items() if reply.members] == ["worker-0"]
    assert costs[1] <= costs[0] + 8  # longer names of tasks and of the folder


def test_a_restarted_coordinator_learns_a_world_from_its_chief(tmp_path: Path) -> None:
    """A world that has not saved yet comes back to a restarted coordinator as it was, whoever comes first. Guards
    against workers that know no members, and are not let in again."""

    async def restart() -> None:
        job, calls = Job(tmp_path / "run", 30), coordinator()
        await job.join_all(calls)
        successor = coordinator()
        chief, *others = job.callers
        waiting = [asyncio.create_task(job.join(successor, caller)) for caller in others]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        await job.join(successor, chief)
        await asyncio.gather(*waiting)
        machine = successor._runs.find(job.run)
        assert machine is not None
        (world,) = machine.machine.worlds.values()
        assert world.generation.id == chief.generation
        assert world.tasks == tuple(Task("worker", n) for n in range(30))
        await job.close(calls, successor)

    asyncio.run(restart())


def test_the_chief_hears_of_its_world_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others hear of their world once the chief attends, and wait for it by name until then. Guards against a
    world that some know of, and that nobody can describe to a restarted coordinator."""
    monkeypatch.setattr(holdfast_coordinator.calls, "POLL", 0.05)

    async def lost_reply() -> None:
        job, calls = Job(tmp_path / "run", 2), coordinator()
        chief, other = job.callers
        joining = [asyncio.create_task(calls.join(join_request(caller, job.cluster))) for caller in (chief, other)]
        to_chief, to_other = await asyncio.gather(*joining)
        assert len(to_chief.members) == 2
        assert list(to_other.waiting_for) == ["worker-0"]
        assert not to_other.generation
        await asyncio.gather(job.join(calls, other), job.join(calls, chief))
        assert job.joined["worker-1"].generation == to_chief.generation
        await job.close(calls)

    asyncio.run(lost_reply())


def test_an_answer_names_ten_tasks_and_counts_the_others() -> None:
    """An answer lists ten tasks, and says how many more there are; so does an error. Guards against 4,000 answers of
    4,000 names, every few seconds."""
    tasks = tuple(Task("worker", n) for n in range(500))
    reply = wire.join_reply(Waiting(tasks), "coordinator", to_chief=False)
    assert (len(reply.waiting_for), reply.waiting_for_more) == (10, 490)
    assert names(tasks).endswith("worker-8, worker-9 and 490 more")
    assert len(describe(cluster_of(500))) < 300


def test_where_two_clusters_differ_is_told() -> None:
    """The first difference of two clusters is told. Guards against an error about two large clusters whose
    descriptions look alike."""
    one, other = cluster_of(500), cluster_of(500)
    changed: Cluster = (("worker", (*other[0][1][:400], "else:1", *other[0][1][401:])),)
    assert first_difference(one, changed) == "worker-400 is 127.0.0.1:1400 or else:1"
    assert first_difference(one, cluster_of(499)) == "there are 500 or 499 tasks of job worker"


def test_another_worker_is_asked_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the one that was asked for the cluster does not answer, one other is asked, not all. Guards against a world
    that waits for a worker that is gone, and against all clusters at once."""
    monkeypatch.setattr(holdfast_coordinator.clusters, "GIVEN_WITHIN", 0.02)
    cluster = cluster_of(3)

    async def ask() -> None:
        clusters = Clusters()
        assert await clusters.find(digest(cluster)) is None
        waiting = [asyncio.create_task(clusters.find(digest(cluster))) for _ in range(20)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [None]
        clusters.learn(digest(cluster), cluster)
        assert [found is cluster for found in await asyncio.gather(*(set(waiting) - done))] == [True] * 19

    asyncio.run(ask())
