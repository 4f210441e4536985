"""Worlds: how they form, who is in them, who lives."""

from __future__ import annotations

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.membership import ALIVE_FOR, LOST_AFTER, POLL, REMEMBERED, World
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, chief_of, tasks_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Generation, LogState
from support.cluster import Cluster, Worker, checkpoint

A, B = Task("worker", 0), Task("worker", 1)


def refused(answer: object) -> Failure:
    assert isinstance(answer, Failure)
    return answer


def test_tasks_that_save() -> None:
    """Chief and workers save, or chief and parameter servers, the chief first. Guards against waiting for evaluators,
    and for workers that hold nothing."""
    cluster = (("chief", ("a",)), ("evaluator", ("e",)), ("ps", ()), ("worker", ("d", "f")))
    assert tasks_of(cluster) == (Task("chief", 0), Task("worker", 0), Task("worker", 1))
    cluster = (("chief", ("a",)), ("ps", ("b", "c")), ("worker", ("d", "f")))
    assert tasks_of(cluster) == (Task("chief", 0), Task("ps", 0), Task("ps", 1))
    assert chief_of(cluster) == Task("chief", 0)


def test_a_world_forms_when_all_have_joined() -> None:
    """A world forms when all have joined. Guards against workers that train in worlds of their own."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    one, two = cluster.workers(2)
    first = coordinator.call(one.join())
    coordinator.run()
    assert first.answer is None
    second = coordinator.call(two.join())
    assert first.answer is None, "answered before the log was read"
    coordinator.run()
    assert isinstance(first.answer, v.Joined)
    assert first.answer == second.answer
    assert first.answer.members == ((A, one.incarnation), (B, two.incarnation))


def test_who_is_missing_is_named() -> None:
    """Missing workers are named. Guards against a worker that waits in silence for one that never starts."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    worker = cluster.workers(2)[0]
    call = coordinator.call(worker.join())
    cluster.tick(POLL - 1)
    assert call.answer is None
    cluster.tick(1)
    assert call.answer == v.Waiting((B,))


def test_who_is_missing_is_named_before_the_time_is_over() -> None:
    """Missing workers are named before the time is over. Guards against a worker that gives up after three seconds
    without a name."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    call = coordinator.call(cluster.workers(2)[0].join(3.0))
    cluster.tick(1)
    assert call.answer is None
    cluster.tick(1)
    assert call.answer == v.Waiting((B,))


def test_who_does_not_ask_again_is_not_waited_for() -> None:
    """A worker that does not ask again does not count as joined. Guards against a world with a process that died while
    it was joining."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    one, two = cluster.workers(2)
    coordinator.call(one.join())
    cluster.tick(POLL)
    cluster.tick(ALIVE_FOR)
    assert coordinator.machine.forming is None
    assert coordinator.ask(two.join()) is None


def test_nobody_is_in_a_world_who_is_between_two_calls() -> None:
    """Nobody is in a world between two calls. Guards against a worker in one world with a dead process of the job's
    life before."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    coordinator.call(cluster.workers(2)[0].join())
    cluster.tick(POLL)  # told whom it waits for, and then killed
    one, two = cluster.workers(2)
    second = coordinator.call(two.join())
    coordinator.run()
    assert second.answer is None
    cluster.tick(POLL)
    assert second.answer == v.Waiting((A,))
    first = coordinator.call(one.join())
    second = coordinator.call(two.join())
    coordinator.run()
    assert isinstance(first.answer, v.Joined)
    assert first.answer == second.answer
    assert first.answer.members == ((A, one.incarnation), (B, two.incarnation))


def test_a_large_world_whose_workers_come_one_by_one_forms() -> None:
    """A large world whose workers come one by one forms. Guards against sixty-four workers that are never all there at
    once."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.workers(64)
    calls = {number: coordinator.call(worker.join()) for number, worker in enumerate(workers[:1])}
    again: dict[int, float] = {}
    while not all(isinstance(call.answer, v.Joined) for call in calls.values()):
        assert cluster.now.monotonic < 64 * 0.5 + 3.0
        cluster.tick(0.5)
        if len(calls) < len(workers):
            calls[len(calls)] = coordinator.call(workers[len(calls)].join())
        for number, call in calls.items():
            if isinstance(call.answer, v.Waiting) and again.setdefault(number, cluster.now.monotonic + 1.0) <= (
                cluster.now.monotonic
            ):
                del again[number]
                calls[number] = coordinator.call(workers[number].join())
        coordinator.run()
    assert len({call.answer.generation for call in calls.values() if isinstance(call.answer, v.Joined)}) == 1


def test_who_has_not_heard_that_its_world_has_formed() -> None:
    """A member that does not know that its world has formed is told. Guards against a coordinator killed between two
    replies, and a member that waits in vain or blocks the next job."""
    cluster = Cluster()
    old = cluster.coordinator()
    one, two = cluster.workers(2)
    calls = [old.call(one.join()), old.call(two.join())]
    old.run()
    assert isinstance(calls[1].answer, v.Joined)
    two.world = calls[1].answer
    new = cluster.coordinator()
    first = new.call(one.join())
    new.run()
    assert first.answer is None
    assert new.ask(two.rejoin()) == first.answer == two.world
    assert new.machine.forming is None


def test_a_call_that_is_gone_is_not_waited_for() -> None:
    """A call that is gone does not count. Guards against holding the next job to the cluster of one that is gone."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    call = coordinator.call(cluster.workers(2)[0].join())
    assert isinstance(call.event, ev.Join)
    coordinator.tell(ev.Cancelled(call.event.request))
    cluster.world(coordinator, 3)


def test_a_join_may_be_repeated() -> None:
    """A join may be repeated. Guards against a lost reply after which a worker joins twice, or gets another world."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    one, two = cluster.workers(2)
    lost = coordinator.call(one.join())
    again = coordinator.call(one.join())
    assert lost.answer == v.Waiting((B,))
    second = coordinator.call(two.join())
    while_reading = coordinator.call(two.join())
    coordinator.run()
    assert isinstance(again.answer, v.Joined)
    assert coordinator.ask(one.join()) == again.answer == second.answer == while_reading.answer


def test_a_newer_process_takes_the_place_of_an_older() -> None:
    """A newer process takes the place of an older one. Guards against a restarted worker that its dead predecessor
    locks out."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    old, _ = cluster.workers(2)
    new, other = cluster.workers(2)
    first = coordinator.call(old.join())
    call = coordinator.call(new.join())
    assert refused(first.answer).kind == Kind.SUPERSEDED
    coordinator.call(other.join())
    coordinator.run()
    assert isinstance(call.answer, v.Joined)


def test_a_replaced_process_is_refused_for_ever() -> None:
    """A replaced process is refused for ever. Guards against an earlier worker that comes back and votes for
    its task."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    ghost = Worker(A, workers[0].cluster, "ghost.1")
    ghost.world = workers[0].world
    for build in (ghost.vote(1), ghost.report(1), ghost.give_up(1), ghost.restore(1), ghost.rejoin()):
        assert refused(coordinator.ask(build)).kind == Kind.SUPERSEDED
    coordinator.tell(ghost.heartbeat())
    coordinator.tell(ghost.detached())
    assert coordinator.machine.worlds[workers[0].caller.generation].presence[A].attached


def test_clusters_that_differ() -> None:
    """Clusters that differ are refused. Guards against workers with another TF_CONFIG each, some of which wait for
    ever."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    two, three = cluster.workers(2), cluster.workers(3)
    waiting = coordinator.call(two[0].join())
    answer = refused(coordinator.ask(three[1].join()))
    assert answer == refused(waiting.answer)
    assert answer.kind == Kind.INVALID_REQUEST
    assert "worker-1 says" in answer.message
    assert "host-2:1" in answer.message
    cluster.world(coordinator, 2)


def test_clusters_that_differ_are_told_to_who_is_about_to_ask_again() -> None:
    """A worker between two calls is told that clusters differ. Guards against a worker that waits the whole timeout for
    a world that never forms."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    two, three = cluster.workers(2), cluster.workers(3)
    coordinator.call(two[0].join())
    cluster.tick(POLL)
    answer = refused(coordinator.ask(three[1].join()))
    assert refused(coordinator.ask(two[0].join())) == answer
    assert coordinator.ask(two[0].join()) is None, "told once: it may try again"
    cluster.tick(POLL)
    answer = refused(coordinator.ask(three[1].join()))
    cluster.tick(590.0)
    assert refused(coordinator.ask(two[0].join())) == answer, "for as long as it may ask"
    assert coordinator.ask(two[0].join()) is None
    cluster.tick(POLL)
    coordinator.ask(three[1].join())
    cluster.tick(600.0)
    assert coordinator.ask(two[0].join()) is None, "long ago"


def test_a_task_that_is_not_in_its_cluster() -> None:
    """A task outside of its cluster is refused. Guards against a world that is never complete."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    stranger = Worker(Task("worker", 7), cluster.workers(2)[0].cluster, "p.1")
    assert "TF_CONFIG" in refused(coordinator.ask(stranger.join())).message
    evaluator = Worker(Task("evaluator", 0), cluster.workers(2)[0].cluster, "p.1")
    assert refused(coordinator.ask(evaluator.join())).kind == Kind.INVALID_REQUEST


def test_a_log_that_cannot_be_read() -> None:
    """If the log cannot be read, nobody joins. Guards against a world that begins without knowing what it builds on."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    worker = cluster.workers(1)[0]
    call = coordinator.call(worker.join())
    coordinator.run({fx.ReadLog: "bad"})
    assert refused(call.answer).kind == Kind.STORAGE
    cluster.world(coordinator, 1)


def test_a_log_that_is_gone() -> None:
    """A log that has disappeared is an error. Guards against a job that starts from memory, or from scratch, because
    the directory is not mounted."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    cluster.save(coordinator, workers, 1)
    gone, cluster.storage.entries = cluster.storage.entries, []
    for build in (cluster.workers(1)[0].join(), workers[0].restore(1)):
        failure = refused(coordinator.ask(build))
        assert failure.kind == Kind.STORAGE
        assert "not mounted" in failure.message
    cluster.storage.entries = gone[:-1]
    assert refused(coordinator.ask(cluster.workers(1)[0].join())).kind == Kind.STORAGE
    cluster.storage.entries = gone
    cluster.world(coordinator, 1)


def test_a_read_that_was_overtaken_is_no_loss() -> None:
    """A read that an entry has overtaken is no alarm. Guards against an alarm about a log that was empty when it was
    read."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    joining = coordinator.call(cluster.workers(1)[0].join())
    coordinator.carry_out()
    overtaken = coordinator.results.pop()
    coordinator.call(workers[0].vote(1))
    assert coordinator.pending == []
    coordinator.tell(overtaken)
    coordinator.run()
    assert isinstance(joining.answer, v.Joined)
    slow = coordinator.call(cluster.workers(1)[0].join())
    coordinator.carry_out()
    late = coordinator.results.pop()
    coordinator.call(workers[0].report(1))
    coordinator.run()
    assert cluster.storage.kinds[-1] == "commit"
    coordinator.tell(late)
    assert isinstance(slow.answer, v.Joined)


def test_an_unknown_generation_is_told_to_join_again() -> None:
    """An unknown generation is told to join again. Guards against a worker that a restarted coordinator does not
    answer, or answers as if it knew it."""
    cluster = Cluster()
    workers = cluster.world(cluster.coordinator(), 1)
    restarted = cluster.coordinator()
    for build in (workers[0].vote(1), workers[0].report(1), workers[0].give_up(1), workers[0].restore(1)):
        assert refused(restarted.ask(build)).kind == Kind.UNKNOWN_GENERATION
    restarted.tell(workers[0].attached())
    assert not restarted.machine.knows(workers[0].caller)
    assert restarted.ask(workers[0].rejoin()) == workers[0].world
    assert restarted.machine.knows(workers[0].caller)


def test_alive() -> None:
    """A worker is alive while its heartbeats come. Guards against a worker that hangs and counts as alive, or a good
    one that counts as dead."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    assert world.living(0.0) == ()
    world.update(A, connections=1, heard=0.0)
    assert world.living(ALIVE_FOR - 1) == (A,)
    assert world.living(ALIVE_FOR) == ()
    world.left.add(A)
    assert world.living(0.0) == ()


def test_gone() -> None:
    """A worker is gone when its connection is lost for long enough. Guards against losing a worker that only
    reconnects, and waiting for one that is lost."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    world.update(A, lost=0.0)
    assert world.gone(LOST_AFTER - 1) == set()
    assert world.gone(LOST_AFTER) == {A}
    world.left.add(B)
    assert world.gone(0.0) == {B}


def test_a_new_connection_outlives_the_end_of_the_old() -> None:
    """A new connection outlives the end of the old one. Guards against losing a worker that reconnected before its old
    connection was noticed as dead."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    coordinator.call(workers[0].vote(1))
    coordinator.tell(workers[1].attached())
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER)
    world = coordinator.machine.worlds[workers[0].caller.generation]
    assert world.attempt is not None
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER)
    assert world.attempt is None


def test_the_same_processes() -> None:
    """A second manager in the same processes is recognised. Guards against refusing a program's second manager, and
    letting another job through."""
    first = Generation("g", ((A, "a.1"), (B, "b.1")))
    assert World(Generation("h", ((A, "a.2"), (B, "b.7"))), ()).same_processes(first)
    assert not World(Generation("h", ((A, "a.2"), (B, "c.1"))), ()).same_processes(first)
    assert not World(Generation("h", ((A, "a.2"),)), ()).same_processes(first)


def test_outcomes_are_remembered() -> None:
    """Outcomes are kept for as long as a member may ask. Guards against forgetting one behind many failures, and memory
    that grows without end."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    world.remember(v.SaveOutcome(1, True))
    world.remember(v.SaveOutcome(2, True))
    for ordinal in range(3, 103):
        world.saves(A, ordinal)
        world.remember(v.SaveOutcome(ordinal, False, Failure(Kind.STORAGE, f"no {ordinal}")))
    assert len(world.outcomes) == 102
    world.saves(B, 50)
    assert sorted(world.outcomes) == [2, *range(50, 103)]
    world.saves(B, 40)  # a call that was late
    assert sorted(world.outcomes) == [2, *range(50, 103)]
    world.saves(B, 102)
    assert sorted(world.outcomes) == [2, *range(103 - REMEMBERED, 103)], "the last commit, for good, and the last ones"


def test_committed_saves_in_the_log() -> None:
    """Only this generation's commits in the log count for it. Guards against taking commits of others, or stock
    checkpoints, for its own."""
    state = LogState("run", checkpoints=(checkpoint(3, stock=True), checkpoint(7), checkpoint(5)))
    assert state.last_committed("0000000a") == 7
    assert state.last_committed("0000000b") == 0
    assert state.last_committed("") == 0


def test_worlds_that_are_over_are_forgotten() -> None:
    """Worlds that are over are forgotten. Guards against memory that grows with every restart of a job."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    first = cluster.world(coordinator, 2)
    cluster.save(coordinator, first, 1)
    for worker in first:
        coordinator.tell(worker.detached())
    cluster.tick(LOST_AFTER)
    assert list(coordinator.machine.worlds) == [first[0].caller.generation], "it still leads"
    second = cluster.world(coordinator, 2)
    cluster.save(coordinator, second, 1)
    cluster.tick()
    assert list(coordinator.machine.worlds) == [second[0].caller.generation]


def test_leaving() -> None:
    """A member may wait for the others to leave, within a bound. Guards against a chief that ends while others wait for
    the last commit, or that waits for ever."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    chief = coordinator.call(workers[0].leave(30.0))
    assert chief.answer is None
    assert coordinator.ask(workers[1].leave()) == v.Left()
    assert chief.answer == v.Left()

    workers = cluster.world(coordinator, 2)
    chief = coordinator.call(workers[0].leave(30.0))
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER)
    assert chief.answer == v.Left(), "waits for a worker that is gone"

    workers = cluster.world(coordinator, 2)
    chief = coordinator.call(workers[0].leave(30.0))
    cluster.beat(workers[1:], coordinator, 30.0)
    assert chief.answer == v.Left()


def test_status() -> None:
    """The status tells what the run waits for. Guards against a status without a reason."""
    cluster = Cluster()
    coordinator = cluster.coordinator()

    def status() -> pb.StatusReply:
        coordinator.run()
        return coordinator.status()

    assert status().reason == "no worker has joined"
    one, two = cluster.workers(2)
    coordinator.call(one.join())
    assert status().reason == "waiting for worker-1 to join"
    coordinator.call(two.join())
    coordinator.run()
    assert status().reason == "no save is in flight"
    workers = cluster.world(coordinator, 2)
    cluster.save(coordinator, workers, 1)
    coordinator.call(workers[1].vote(2, step=20))
    assert status().reason == "waiting for worker-0 to call save()"
    doing = status().run.activity
    assert (doing.phase, doing.step, status().run_id) == ("vote", 20, "run")
    assert [worker.alive for worker in status().run.workers] == [True, True]


def test_the_status_of_a_job_that_ends() -> None:
    """The status names those who have not ended. Guards against a chief that stays, and nobody knows for whom."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 3)
    coordinator.call(workers[0].leave(30.0))
    coordinator.call(workers[2].leave())
    coordinator.run()
    assert coordinator.status().reason == "waiting for worker-1 to end"


def test_status_of_the_world_that_lives() -> None:
    """The status shows the world that is alive. Guards against a job that has ended and hides its successor until that
    has saved."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    first = cluster.world(coordinator, 2)
    cluster.save(coordinator, first, 1)

    def generation() -> str:
        coordinator.run()
        return coordinator.status().run.generation

    second = cluster.world(coordinator, 2)
    assert generation() == first[0].caller.generation, "it leads"
    for worker in first:
        coordinator.ask(worker.leave())
    assert generation() == second[0].caller.generation
    for worker in second:
        coordinator.ask(worker.leave())
    assert generation() == first[0].caller.generation


def test_a_job_that_has_ended_is_not_alive_because_of_another() -> None:
    """A job that has ended is not alive because of another job. Guards against two jobs that wait for the lead of one
    that is gone and refuse each other."""
    cluster = Cluster()
    coordinator, other = cluster.coordinator(), cluster.coordinator()
    first = cluster.world(coordinator, 1)
    cluster.save(coordinator, first, 1)
    coordinator.ask(first[0].leave())
    cluster.world(coordinator, 1)
    assert cluster.save(other, cluster.world(other, 1), 1).committed


def test_who_outlives_a_chief_is_no_other_job() -> None:
    """Processes that are in both worlds do not keep the next one from the lead; the chief of the one before does, while
    it lives. Guards against parameter servers that outlive their chief, and for whose sake every save of the next one
    is refused."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    first = cluster.world(coordinator, 3)
    assert cluster.save(coordinator, first, 1).committed
    second = cluster.world(coordinator, 3, [*cluster.workers(1), *first[1:]])
    failure = cluster.save(coordinator, second, 1).failure
    assert failure is not None
    assert "has living workers (worker-0)." in failure.message
    coordinator.tell(first[0].detached())
    assert cluster.save(coordinator, second, 2).committed
    assert cluster.storage.state.generation is not None
    assert cluster.storage.state.generation.id == second[0].caller.generation


def test_whose_connection_outlives_a_hand_over_is_not_lost() -> None:
    """Workers that stayed connected through a hand-over are not lost. Guards against a world that comes back from
    another coordinator process and whose workers all count as lost."""
    cluster = Cluster()
    coordinator, other = cluster.coordinator(), cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    assert cluster.save(coordinator, workers, 1).committed
    for worker in workers:
        other.ask(worker.rejoin())
    assert cluster.save(other, workers, 2).committed
    calls = [coordinator.call(worker.vote(3)) for worker in workers]
    coordinator.run()
    calls = [coordinator.call(worker.report(3)) for worker in workers]
    coordinator.run()
    assert [refused(call.answer).kind for call in calls] == [Kind.UNKNOWN_GENERATION] * 2
    for worker in workers:
        assert coordinator.ask(worker.rejoin()) == worker.world
    calls = [coordinator.call(worker.report(3)) for worker in workers]
    coordinator.run()
    assert [call.answer for call in calls] == [v.SaveOutcome(3, True)] * 2
    cluster.beat(workers, coordinator, 2 * LOST_AFTER)
    for worker in workers:
        coordinator.call(worker.vote(4))
    coordinator.run()
    cluster.beat(workers, coordinator, 1.0)
    calls = [coordinator.call(worker.report(4)) for worker in workers]
    coordinator.run()
    assert [call.answer for call in calls] == [v.SaveOutcome(4, True)] * 2
    for worker in workers:
        coordinator.tell(worker.detached())
    cluster.tick(LOST_AFTER)
    assert coordinator.machine.worlds[workers[0].caller.generation].gone(cluster.now.monotonic) == {A, B}
