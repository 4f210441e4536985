"""Worlds: how they form, who is in them, who lives."""

from __future__ import annotations

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.membership import ALIVE_FOR, LOST_AFTER, POLL, REMEMBERED, World
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, tasks_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Generation, LogState
from support.cluster import Cluster, Worker, checkpoint

A, B = Task("worker", 0), Task("worker", 1)


def refused(answer: object) -> Failure:
    assert isinstance(answer, Failure)
    return answer


def test_tasks_that_save() -> None:
    """Parameter servers and evaluators waited for, or the chief not the first."""
    cluster = (("chief", ("a",)), ("evaluator", ("e",)), ("ps", ("b", "c")), ("worker", ("d", "f")))
    assert tasks_of(cluster) == (Task("chief", 0), Task("worker", 0), Task("worker", 1))


def test_a_world_forms_when_all_have_joined() -> None:
    """Workers that train in worlds of their own."""
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
    """A worker that waits in silence for one that never starts."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    worker = cluster.workers(2)[0]
    call = coordinator.call(worker.join())
    cluster.tick(POLL - 1)
    assert call.answer is None
    cluster.tick(1)
    assert call.answer == v.Waiting((B,))


def test_who_is_missing_is_named_before_the_time_is_over() -> None:
    """A worker that waits for three seconds gives up without having heard for whom."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    call = coordinator.call(cluster.workers(2)[0].join(3.0))
    cluster.tick(1)
    assert call.answer is None
    cluster.tick(1)
    assert call.answer == v.Waiting((B,))


def test_who_does_not_ask_again_is_not_waited_for() -> None:
    """A world formed with a process that died while it was joining."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    one, two = cluster.workers(2)
    coordinator.call(one.join())
    cluster.tick(POLL)
    cluster.tick(ALIVE_FOR)
    assert coordinator.machine.forming is None
    assert coordinator.ask(two.join()) is None


def test_nobody_is_in_a_world_who_is_between_two_calls() -> None:
    """A job that is restarted while it joins: its first worker in one world with a dead process of the life before."""
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
    """Sixty-four workers of which at any moment some are between two calls: never all there at once, for hours."""
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
    """A coordinator killed between two replies: one worker in the world, and the other waits to join it, in vain; and
    then, although it is in its world, it is in the way of the next job's."""
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
    """The cluster specification of a job that is gone, held against the next one."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    call = coordinator.call(cluster.workers(2)[0].join())
    assert isinstance(call.event, ev.Join)
    coordinator.tell(ev.Cancelled(call.event.request))
    cluster.world(coordinator, 3)


def test_a_join_may_be_repeated() -> None:
    """A lost reply to a join: the worker joins twice, or gets another world than the others."""
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
    """A restarted worker locked out by its dead predecessor."""
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
    """A worker of an earlier world that comes back and votes in the name of its task."""
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
    """Workers with another TF_CONFIG each, of which some wait for ever."""
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
    """A worker that was just told to ask again, and then waits for the whole timeout for a world that never forms."""
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
    """A task index beyond the cluster's end: a world that is never complete."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    stranger = Worker(Task("worker", 7), cluster.workers(2)[0].cluster, "p.1")
    assert "TF_CONFIG" in refused(coordinator.ask(stranger.join())).message
    evaluator = Worker(Task("evaluator", 0), cluster.workers(2)[0].cluster, "p.1")
    assert refused(coordinator.ask(evaluator.join())).kind == Kind.INVALID_REQUEST


def test_a_log_that_cannot_be_read() -> None:
    """A world that was told to begin without knowing what it builds on."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    worker = cluster.workers(1)[0]
    call = coordinator.call(worker.join())
    coordinator.run({fx.ReadLog: "bad"})
    assert refused(call.answer).kind == Kind.STORAGE
    cluster.world(coordinator, 1)


def test_a_log_that_is_gone() -> None:
    """The directory is unmounted, and a job starts from what the coordinator remembers of it, or from nothing."""
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
    """A log that was empty when it was read, and an entry made meanwhile: an alarm about nothing."""
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
    """A worker that a restarted coordinator leaves without an answer, or answers as if it knew it."""
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
    """A worker that hangs counts as alive, or one that is well as dead."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    assert world.living(0.0) == ()
    world.update(A, connections=1, heard=0.0)
    assert world.living(ALIVE_FOR - 1) == (A,)
    assert world.living(ALIVE_FOR) == ()
    world.left.add(A)
    assert world.living(0.0) == ()


def test_gone() -> None:
    """A worker that only changes its connection counts as lost, or one that is lost is waited for."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    world.update(A, lost=0.0)
    assert world.gone(LOST_AFTER - 1) == set()
    assert world.gone(LOST_AFTER) == {A}
    world.left.add(B)
    assert world.gone(0.0) == {B}


def test_a_new_connection_outlives_the_end_of_the_old() -> None:
    """A worker that connected again before the end of its old connection was noticed, and counts as lost."""
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
    """A second manager of a program refused by its own first one; or one process of another job let through."""
    first = Generation("g", ((A, "a.1"), (B, "b.1")))
    assert World(Generation("h", ((A, "a.2"), (B, "b.7"))), ()).same_processes(first)
    assert not World(Generation("h", ((A, "a.2"), (B, "c.1"))), ()).same_processes(first)
    assert not World(Generation("h", ((A, "a.2"),)), ()).same_processes(first)


def test_outcomes_are_remembered() -> None:
    """What a member may still ask for is forgotten behind many failures; or memory without end."""
    world = World(Generation("g", ((A, "a.1"), (B, "b.1"))), ())
    world.remember(v.Outcome(1, True))
    world.remember(v.Outcome(2, True))
    for ordinal in range(3, 103):
        world.saves(A, ordinal)
        world.remember(v.Outcome(ordinal, False, Failure(Kind.STORAGE, f"no {ordinal}")))
    assert len(world.outcomes) == 102
    world.saves(B, 50)
    assert sorted(world.outcomes) == [2, *range(50, 103)]
    world.saves(B, 40)  # a call that was late
    assert sorted(world.outcomes) == [2, *range(50, 103)]
    world.saves(B, 102)
    assert sorted(world.outcomes) == [2, *range(103 - REMEMBERED, 103)], "the last commit, for good, and the last ones"


def test_committed_saves_in_the_log() -> None:
    """Commits of another generation, or stock checkpoints, taken for this one's."""
    state = LogState("run", checkpoints=(checkpoint(3, stock=True), checkpoint(7), checkpoint(5)))
    assert state.last_committed("0000000a") == 7
    assert state.last_committed("0000000b") == 0
    assert state.last_committed("") == 0


def test_worlds_that_are_over_are_forgotten() -> None:
    """Memory that grows with every restart of a job."""
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
    """A chief that ends while others still wait for the last commit, or that waits for ever."""
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
    """A status that does not tell what the run waits for."""
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


def test_status_of_the_world_that_lives() -> None:
    """A job that has ended, and its successor on the same coordinator, which nobody can look at until it has saved."""
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
    """Two jobs wait for the lead of one that is gone, and each refuses the other for being there."""
    cluster = Cluster()
    coordinator, other = cluster.coordinator(), cluster.coordinator()
    first = cluster.world(coordinator, 1)
    cluster.save(coordinator, first, 1)
    coordinator.ask(first[0].leave())
    cluster.world(coordinator, 1)
    assert cluster.save(other, cluster.world(other, 1), 1).committed


def test_whose_connection_outlives_a_hand_over_is_not_lost() -> None:
    """A world goes to another coordinator process and comes back, over connections that were there all along: every
    worker counts as lost, and each save that takes longer than a moment fails."""
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
    assert [call.answer for call in calls] == [v.Outcome(3, True)] * 2
    cluster.beat(workers, coordinator, 2 * LOST_AFTER)
    for worker in workers:
        coordinator.call(worker.vote(4))
    coordinator.run()
    cluster.beat(workers, coordinator, 1.0)
    calls = [coordinator.call(worker.report(4)) for worker in workers]
    coordinator.run()
    assert [call.answer for call in calls] == [v.Outcome(4, True)] * 2
    for worker in workers:
        coordinator.tell(worker.detached())
    cluster.tick(LOST_AFTER)
    assert coordinator.machine.worlds[workers[0].caller.generation].gone(cluster.now.monotonic) == {A, B}
