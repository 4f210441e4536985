"""How a world agrees on what to restore."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.membership import LOST_AFTER
from holdfast_coordinator.core.messages import Apply, Read
from holdfast_coordinator.core.restore_round import RestoreRound, candidates
from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, LogState, Tag
from support.cluster import Build, Call, Cluster, Coordinator, Worker, checkpoint

A, B = Task("worker", 0), Task("worker", 1)
OLD, MIDDLE, NEW = checkpoint(1), checkpoint(2), checkpoint(3)
STATE = LogState("run", checkpoints=(OLD, MIDDLE, NEW))


def start(state: LogState = STATE, count: int = 2) -> tuple[Cluster, Coordinator, list[Worker]]:
    cluster = Cluster(state)
    coordinator = cluster.coordinator()
    return cluster, coordinator, cluster.world(coordinator, count)


def say(coordinator: Coordinator, workers: list[Worker], prefix: str, *verdicts: str, ordinal: int = 1) -> list[Call]:
    """What workers find of a candidate. Where one finds damage, the coordinator does so too."""
    if "damaged" in verdicts:
        coordinator._cluster.storage.damaged.add(prefix)
    calls = [
        coordinator.call(worker.restore(ordinal, prefix, verdict, reason="a reason"))
        for worker, verdict in zip(workers, verdicts, strict=True)
    ]
    coordinator.run()
    return calls


def failure(answer: object) -> Failure:
    assert isinstance(answer, Failure)
    return answer


# -- candidates --


def test_newest_first() -> None:
    """Candidates are tried newest first, without condemned ones. Guards against trying the largest step first after a
    rollback, or a condemned one at every restart."""
    assert candidates(STATE, "") == (NEW, MIDDLE, OLD)
    assert candidates(STATE.restored(OLD.prefix), "") == (OLD, NEW, MIDDLE)
    assert candidates(LogState("run", checkpoints=STATE.checkpoints, damaged=(NEW.prefix,)), "") == (MIDDLE, OLD)


def test_none() -> None:
    """Without checkpoints there is no candidate. Guards against an empty run that cannot start."""
    assert candidates(None, "") == ()
    assert candidates(LogState("run"), "") == ()


def test_all_condemned() -> None:
    """If all are condemned, that is an error. Guards against a start from scratch."""
    state = LogState("run", checkpoints=(OLD, NEW), damaged=(OLD.prefix, NEW.prefix))
    verdict = failure(candidates(state, ""))
    assert (verdict.kind, verdict.object) == (Kind.CHECKPOINT_DAMAGED, NEW.prefix)


def test_a_target() -> None:
    """A target is the only candidate. Guards against restoring another checkpoint than was asked for."""
    again = LogState("run", checkpoints=(checkpoint(1), checkpoint(2), checkpoint(1, stock=True)))
    assert candidates(STATE, "2") == (MIDDLE,)
    assert candidates(again, "1") == (checkpoint(1, stock=True),), "the latest of that step"
    assert candidates(STATE, OLD.prefix) == (OLD,)
    (elsewhere,) = candidates(STATE, "/other/ckpt-4")  # type: ignore[misc]
    assert (elsewhere.prefix, elsewhere.stock) == ("/other/ckpt-4", True)


def test_a_tag() -> None:
    """A tag is looked up in the log, here for all workers. A checkpoint whose path looks like one is still found.
    Guards against two workers that restore what a tag meant to each, and against the newest in
    place of a missing tag."""
    tagged = STATE.tag(Tag("production", OLD.prefix, 0.0))
    assert candidates(tagged, "@production") == (OLD,)
    assert candidates(tagged.tag(Tag("production", MIDDLE.prefix, 1.0)), "@production") == (MIDDLE,)
    for state, there in ((tagged, "production"), (STATE, "no tags"), (None, "no tags")):
        verdict = failure(candidates(state, "@staging"))
        assert verdict.kind == Kind.INVALID_REQUEST
        assert verdict.message == f"no checkpoint of the run is tagged staging; there are: {there}"
    odd = replace(checkpoint(4, stock=True), prefix="@production")
    assert candidates(replace(tagged, checkpoints=(*STATE.checkpoints, odd)), "@production") == (odd,)


def test_a_step_that_does_not_exist() -> None:
    """For a missing step the error lists the existing ones. Guards against restoring the newest instead."""
    verdict = failure(candidates(STATE, "7"))
    assert verdict.kind == Kind.INVALID_REQUEST
    assert "step 7" in verdict.message
    assert "1, 2, 3" in verdict.message
    assert "none" in failure(candidates(None, "7")).message


def test_the_talk_without_a_machine() -> None:
    """A round decides only after all have reported. Guards against an early decision."""
    round_ = RestoreRound(1, "", (A, B), deadline=9.0)
    assert round_.propose(STATE, 5.0) is None
    assert round_.hear(A, "good", "") is None
    assert round_.missing == (B,)
    assert round_.hear(B, "good", "") == Apply(NEW)


VERDICTS = ("good", "damaged", "absent", "unreadable")


@pytest.mark.parametrize("second", VERDICTS)
@pytest.mark.parametrize("one", VERDICTS)
@pytest.mark.parametrize("other", VERDICTS)
@pytest.mark.parametrize("first", [True, False])
def test_every_verdict_with_every_other(one: str, other: str, second: str, first: bool) -> None:
    """Every mix of verdicts, in every order, has its one decision. Guards against going back because of one reader, and
    a decision that depends on who reports first."""
    round_ = RestoreRound(1, "", (A, B), deadline=9.0)
    round_.propose(STATE, 5.0)
    bad = {"damaged", "absent"}
    asked = bool({one, other} & bad)
    if first and asked:
        assert round_.hear_second(second) is None
    assert round_.hear(A, one, "why") is None
    decision = round_.hear(B, other, "why")
    if not first and asked and "unreadable" not in (one, other):
        assert decision is None, "decided without the second reader"
        decision = round_.hear_second(second)
    if one == other == "good":
        assert decision == Apply(NEW)
    elif "unreadable" not in (one, other) and second in bad:
        assert decision == Read(MIDDLE)
    else:
        worst = "unreadable" if "unreadable" in (one, other) else ""
        guilty = tuple(t for t, said in ((A, one), (B, other)) if said == worst or (not worst and said in bad))
        assert (failure(decision).kind, failure(decision).tasks) == (Kind.STORAGE, guilty)
        assert NEW.prefix in failure(decision).message


# -- in a world --


def test_all_restore_the_newest() -> None:
    """All restore the newest checkpoint together. Guards against a worker that applies what another has not verified
    yet."""
    _, coordinator, workers = start()
    first = [coordinator.call(worker.restore(1)) for worker in workers]
    assert [call.answer for call in first] == [None, None]
    coordinator.run()
    assert [call.answer for call in first] == [Read(NEW), Read(NEW)]
    one = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    assert one.answer is None
    two = coordinator.call(workers[1].restore(1, NEW.prefix, "good"))
    assert one.answer == two.answer == Apply(NEW)


def test_a_late_worker_reads_the_same() -> None:
    """A late worker reads the same candidate. Guards against a worker that comes after the others have begun and waits
    for ever."""
    _, coordinator, workers = start()
    assert coordinator.ask(workers[0].restore(1)) == Read(NEW)
    assert coordinator.ask(workers[1].restore(1)) == Read(NEW)


def test_a_tag_that_moves_while_workers_ask_for_it() -> None:
    """All restore what had the tag when it was looked up, and the next restore what has it then. Guards against a world
    that goes on from two checkpoints."""
    cluster, coordinator, workers = start(STATE.tag(Tag("production", OLD.prefix, 0.0)))
    assert coordinator.ask(workers[0].restore(1, target="@production")) == Read(OLD)
    cluster.storage._imported = cluster.storage.state.tag(Tag("production", MIDDLE.prefix, 1.0))
    assert coordinator.ask(workers[1].restore(1, target="@production")) == Read(OLD)
    calls = [coordinator.call(worker.restore(1, OLD.prefix, "good", "@production")) for worker in workers]
    assert [call.answer for call in calls] == [Apply(OLD)] * 2
    assert coordinator.ask(workers[0].restore(2, target="@production")) == Read(MIDDLE)


def test_nothing_to_restore() -> None:
    """Without a checkpoint all are told so. Guards against a first start that waits for one."""
    cluster, coordinator, workers = start(LogState("run"))
    assert cluster.restore(coordinator, workers) == Apply(None)


def test_a_damaged_one_is_passed_over_by_all() -> None:
    """A damaged candidate is passed over by all. Guards against two workers that go on from two checkpoints."""
    _, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    assert [c.answer for c in say(coordinator, workers, NEW.prefix, "good", "damaged")] == [Read(MIDDLE)] * 2
    assert [c.answer for c in say(coordinator, workers, MIDDLE.prefix, "damaged", "damaged")] == [Read(OLD)] * 2
    (applied, other) = (c.answer for c in say(coordinator, workers, OLD.prefix, "good", "good"))
    assert applied == other
    assert isinstance(applied, Apply)
    assert applied.record == OLD
    assert [passed.partition(":")[0] for passed in applied.passed_over] == [NEW.prefix, MIDDLE.prefix]
    assert "worker-1: a reason" in applied.passed_over[0]


def test_all_damaged_is_an_error() -> None:
    """If all are damaged, that is an error. Guards against a start from scratch."""
    _, coordinator, workers = start(LogState("run", checkpoints=(NEW,)))
    for worker in workers:
        coordinator.ask(worker.restore(1))
    one, two = say(coordinator, workers, NEW.prefix, "damaged", "good")
    assert one.answer == two.answer
    assert failure(one.answer).kind == Kind.CHECKPOINT_DAMAGED
    assert NEW.prefix in failure(one.answer).message


def test_a_chosen_one_that_is_damaged_is_an_error() -> None:
    """A damaged target is an error. Guards against restoring another checkpoint than was asked for."""
    cluster, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1, target="3"))
    cluster.storage.damaged.add(NEW.prefix)
    calls = [coordinator.call(worker.restore(1, NEW.prefix, "damaged", "3")) for worker in workers]
    coordinator.run()
    assert {failure(call.answer).kind for call in calls} == {Kind.CHECKPOINT_DAMAGED}


def test_unreadable_condemns_nothing() -> None:
    """An unreadable candidate is not condemned. Guards against expired credentials on one worker that make all give up
    the newest checkpoint."""
    cluster, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    one, two = say(coordinator, workers, NEW.prefix, "damaged", "unreadable")
    assert one.answer == two.answer
    verdict = failure(one.answer)
    assert (verdict.kind, verdict.tasks, verdict.object) == (Kind.STORAGE, (B,), NEW.prefix)
    assert cluster.storage.entries == []
    assert coordinator.ask(workers[0].restore(2)) == Read(NEW), "the next try begins anew"


def test_a_path_that_does_not_exist() -> None:
    """A missing path is an error. Guards against a mistyped path after which all train from scratch."""
    _, coordinator, workers = start()
    path = "/other/ckpt-4"
    for worker in workers:
        coordinator.ask(worker.restore(1, target=path))
    calls = [coordinator.call(worker.restore(1, path, "missing", path, "no index")) for worker in workers]
    assert {failure(call.answer).kind for call in calls} == {Kind.INVALID_REQUEST}
    assert path in failure(calls[0].answer).message


@pytest.mark.parametrize("verdict", ["missing", "", "a word of a later version"])
def test_what_is_not_good_is_not_applied(verdict: str) -> None:
    """Nobody applies what is not good for all. Guards against a worker that goes on without what the others have."""
    _, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    one, two = say(coordinator, workers, NEW.prefix, "good", verdict)
    assert one.answer == two.answer
    assert (failure(one.answer).kind, failure(one.answer).tasks) == (Kind.STORAGE, (B,))


def test_different_targets() -> None:
    """Different targets are refused. Guards against two workers that restore two checkpoints."""
    _, coordinator, workers = start()
    one = coordinator.call(workers[0].restore(1, target="2"))
    two = coordinator.call(workers[1].restore(1, target="3"))
    coordinator.run()
    assert failure(one.answer).kind == failure(two.answer).kind == Kind.INVALID_REQUEST
    assert "'2'" in failure(one.answer).message
    assert "'3'" in failure(one.answer).message


def test_a_different_target_after_nothing_was_found() -> None:
    """A different target is refused even if nothing was found. Guards against one worker that begins from scratch and
    another from a chosen checkpoint."""
    _, coordinator, workers = start(LogState("run"))
    call = coordinator.call(workers[0].restore(1))
    coordinator.run()
    assert call.answer is None
    assert failure(coordinator.ask(workers[1].restore(1, target="/other/ckpt-4"))).kind == Kind.INVALID_REQUEST
    assert failure(call.answer).kind == Kind.INVALID_REQUEST


def test_nothing_to_restore_is_agreed_on_by_all() -> None:
    """That there is nothing to restore takes all workers, too. Guards against a worker that trains alone in a world
    with a dead process, which its successor waits to join."""
    cluster, coordinator, workers = start(LogState("run"))
    call = coordinator.call(workers[0].restore(1))
    coordinator.run()
    assert call.answer is None
    coordinator.tell(workers[1].detached())
    for _ in range(3):
        coordinator.tell(workers[0].heartbeat())
        cluster.tick(LOST_AFTER / 2)
    assert "worker-1 went away" in failure(call.answer).message


def test_a_step_that_is_not_there_is_told_to_all() -> None:
    """A missing step is told to all. Guards against a worker that waits for another that was refused."""
    _, coordinator, workers = start()
    calls = [coordinator.call(worker.restore(1, target="7")) for worker in workers]
    coordinator.run()
    assert {failure(call.answer).kind for call in calls} == {Kind.INVALID_REQUEST}


def test_repeated_calls_get_the_same_answer() -> None:
    """Repeated calls get the same answer. Guards against a lost reply that leaves one worker without its state."""
    _, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
        assert coordinator.ask(worker.restore(1)) == Read(NEW)
    lost = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    again = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    done = coordinator.call(workers[1].restore(1, NEW.prefix, "good"))
    assert lost.answer == again.answer == done.answer == Apply(NEW)
    assert coordinator.ask(workers[0].restore(1, NEW.prefix, "good")) == Apply(NEW)
    coordinator.ask(workers[1].restore(2))
    assert coordinator.ask(workers[0].restore(1, NEW.prefix, "good")) == Apply(NEW), "also when the next has begun"


def test_a_verdict_on_what_was_passed_over() -> None:
    """A late verdict on a former candidate does not count. Guards against a repeat that is taken for a verdict on the
    next candidate."""
    _, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    say(coordinator, workers, NEW.prefix, "damaged", "damaged")
    assert coordinator.ask(workers[0].restore(1, NEW.prefix, "damaged")) == Read(MIDDLE)
    one, two = say(coordinator, workers, MIDDLE.prefix, "good", "good")
    assert isinstance(one.answer, Apply)
    assert one.answer == two.answer


def test_who_is_missing_is_named() -> None:
    """Missing workers are named. Guards against a restore that waits for ever, or says only that it was late."""
    cluster, coordinator, workers = start(count=3)
    calls = [coordinator.call(worker.restore(1)) for worker in workers[:2]]
    coordinator.run()
    calls = [coordinator.call(worker.restore(1, NEW.prefix, "good")) for worker in workers[:2]]
    cluster.beat(workers, coordinator, 600.0)
    for call in calls:
        assert failure(call.answer).kind == Kind.COORDINATOR_UNAVAILABLE
        assert failure(call.answer).tasks == (Task("worker", 2),)


def test_a_lost_worker_ends_it_early() -> None:
    """A lost worker ends the round early. Guards against ten minutes of waiting for a dead process."""
    cluster, coordinator, workers = start()
    coordinator.ask(workers[0].restore(1))
    call = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER)
    assert failure(call.answer).tasks == (B,)


def test_who_is_left_behind_is_told() -> None:
    """A worker in a round that another has given up is told. Guards against a worker that waits for ever."""
    _, coordinator, workers = start()
    coordinator.ask(workers[0].restore(1))
    call = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    coordinator.call(workers[1].restore(2))
    assert "restore 2" in failure(call.answer).message
    assert "is over" not in failure(call.answer).message
    assert failure(coordinator.ask(workers[0].restore(1, NEW.prefix, "good"))) == failure(call.answer)


def test_given_up_while_the_log_is_read() -> None:
    """A round that is given up while the log is read stays given up. Guards against an answer that is mixed into the
    next round."""
    _, coordinator, workers = start()
    first = coordinator.call(workers[0].restore(1))
    second = coordinator.call(workers[1].restore(2))
    coordinator.run()
    assert failure(first.answer).kind == Kind.INVALID_REQUEST
    assert second.answer == Read(NEW)


@pytest.mark.parametrize("target", ["", "3"])
def test_a_log_that_cannot_be_read(target: str) -> None:
    """A log that cannot be read is an error. Guards against 'nothing to restore' because the storage did not answer."""
    _, coordinator, workers = start()
    call = coordinator.call(workers[0].restore(1, target=target))
    coordinator.run({fx.ReadLog: "bad"})
    assert failure(call.answer).kind == Kind.STORAGE
    assert failure(call.answer).phase == "restore"


def test_a_log_that_is_not_read_in_time_is_nobodys_fault() -> None:
    """A log that is not read in time is the coordinator's fault. Guards against people who look for what is wrong with
    workers that have done their part."""
    cluster, coordinator, workers = start()
    calls = [coordinator.call(worker.restore(1)) for worker in workers]
    cluster.beat(workers, coordinator, 605.0)
    assert calls[0].answer == calls[1].answer
    assert "the coordinator could not read the log" in failure(calls[0].answer).message
    assert failure(calls[0].answer).tasks == ()


def test_going_back_is_recorded_when_the_next_save_leads() -> None:
    """Going back is recorded when the next save leads. Guards against a crash after which the restart goes on from what
    was abandoned."""
    cluster, coordinator, workers = start()
    assert cluster.restore(coordinator, workers, target="1") == Apply(OLD)
    assert cluster.storage.entries == [], "restoring changes nothing"
    for worker in workers:
        coordinator.call(worker.vote(1))
    coordinator.run()
    assert cluster.storage.kinds == ["import", "lead", "restored"]
    assert cluster.storage.state.checkpoints == (MIDDLE, NEW, OLD)
    assert cluster.storage.state_file == fx.WriteStateFile(2, cluster.storage.state)


def test_going_back_in_mid_run_is_recorded_too() -> None:
    """Going back in the middle of a run is recorded, too. Guards against a rollback by a leading world that a crash
    undoes."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers)
    cluster.save(coordinator, workers, 1)
    cluster.restore(coordinator, workers, 2, target="2")
    cluster.save(coordinator, workers, 2)
    assert cluster.storage.kinds == ["import", "lead", "commit", "restored", "commit"]
    steps = [record.step for record in cluster.storage.state.checkpoints]
    assert steps == [1, 3, 10, 2, 20]
    cluster.save(coordinator, workers, 3)
    assert cluster.storage.kinds[-1:] == ["commit"], "once"


def test_passing_over_counts_as_going_back() -> None:
    """Passing over a checkpoint counts as going back. Guards against a damaged newest one that the next restart tries
    first."""
    cluster, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    say(coordinator, workers, NEW.prefix, "damaged", "damaged")
    say(coordinator, workers, MIDDLE.prefix, "good", "good")
    for worker in workers:
        coordinator.call(worker.vote(1))
    coordinator.run()
    assert cluster.storage.state.damaged == (NEW.prefix,)
    assert cluster.storage.state.restorable[-1] == MIDDLE


def test_another_directory_is_no_rollback() -> None:
    """A checkpoint of another directory is no rollback. Guards against a pretrained checkpoint in the run's own
    list."""
    cluster, coordinator, workers = start()
    assert cluster.restore(coordinator, workers, target="/pretrained/ckpt-9").record is not None
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds == ["import", "lead", "commit"]


def test_a_laggard_is_told_what_all_have_agreed_on() -> None:
    """A worker that lags is told what all have agreed on. Guards against a lost last reply, twenty more restores, and a
    denial that the round existed."""
    cluster, coordinator, workers = start()
    applied = cluster.restore(coordinator, workers)
    told = []
    for ordinal in range(2, 22):
        coordinator.ask(workers[0].restore(ordinal))
        call = coordinator.call(workers[0].restore(ordinal, NEW.prefix, "good"))
        cluster.tick(601.0)
        told.append(failure(call.answer))
    assert coordinator.ask(workers[1].restore(1, NEW.prefix, "good")) == applied
    for ordinal, answer in zip(range(2, 22), told, strict=True):
        assert coordinator.ask(workers[1].restore(ordinal)) == answer


# -- a log that the coordinator's mount shows late --


def behind(shown: int) -> tuple[Cluster, Coordinator, list[Worker], list[Entry]]:
    """A coordinator whose mount does not show all of the log yet; the entries that it will show."""
    cluster, first, job = start()
    cluster.save(first, job, 1)
    first.alive = False
    entries = cluster.storage.entries
    cluster.storage.entries = entries[:shown]
    cluster.storage._imported = LogState("run")
    coordinator = cluster.coordinator()
    return cluster, coordinator, cluster.world(coordinator, 2), entries


def sees(worker: Worker, entries: int, *said: str) -> Build:
    """A restore call of a worker whose mount shows so many entries."""

    def call(request: int) -> ev.Restore:
        event = worker.restore(1, *said)(request)
        assert isinstance(event, ev.Restore)
        return replace(event, entries=entries)

    return call


def test_what_a_worker_sees_of_the_log_is_waited_for() -> None:
    """What a worker sees of the log is waited for. Guards against restoring an older checkpoint because of the
    coordinator's mount."""
    cluster, coordinator, workers, entries = behind(2)
    assert coordinator.ask(sees(workers[0], 2)) == Read(NEW), "nobody who has spoken knows better"
    call = coordinator.call(sees(workers[1], 3))
    coordinator.run()
    assert call.answer is None
    reason = "waiting for the coordinator's storage to show log entry 2, which worker-1 sees"
    assert coordinator.status().reason == reason
    # The other one has read the older one meanwhile, and that counts for nothing.
    other = coordinator.call(workers[0].restore(1, NEW.prefix, "good"))
    cluster.tick(5.0)
    coordinator.tell(ev.Tick())
    coordinator.run()
    assert call.answer is other.answer is None
    cluster.storage.entries = entries
    coordinator.tell(ev.Tick())
    coordinator.run()
    newest = entries[-1].state.checkpoints[-1]
    assert call.answer == other.answer == Read(newest)
    calls = say(coordinator, workers, newest.prefix, "good", "good")
    assert [c.answer for c in calls] == [Apply(newest)] * 2
    assert cluster.save(coordinator, workers, 1).committed, "it builds on what it has restored"


def test_nothing_there_is_not_believed_where_a_worker_sees_a_log() -> None:
    """An empty folder is not believed if a worker sees a log. Guards against a start from scratch because the chief's
    mount shows nothing for a while."""
    cluster, coordinator, workers, entries = behind(0)
    first = coordinator.call(sees(workers[0], 0))
    coordinator.run()
    second = coordinator.call(sees(workers[1], 3))
    coordinator.run()
    assert first.answer is second.answer is None
    cluster.storage.entries = entries
    coordinator.tell(ev.Tick())
    coordinator.run()
    assert first.answer == second.answer == Read(entries[-1].state.checkpoints[-1])


def test_a_log_that_never_comes_is_an_error() -> None:
    """A log that never appears is an error. Guards against two directories of one name, and looking for the other one's
    entries for ever."""
    cluster, coordinator, workers, _ = behind(2)
    calls = [coordinator.call(sees(worker, 9)) for worker in workers]
    coordinator.run()
    cluster.tick(601.0)
    coordinator.tell(ev.Tick())
    for call in calls:
        assert "has not shown log entry 8 in time, which worker-0 sees" in failure(call.answer).message
    coordinator.run()


# -- and then a coordinator that was restarted --


def test_a_restarted_coordinator_learns_what_was_restored() -> None:
    """A restarted coordinator learns what was restored. Guards against a job that is superseded because another one
    committed between its join and its restore."""
    cluster, coordinator, workers = start()
    other = cluster.coordinator()
    job = cluster.world(other, 1)
    cluster.save(other, job, 1)
    other.alive = False
    restored = cluster.restore(coordinator, workers)
    assert restored.record == cluster.storage.state.checkpoints[-1]
    restarted = cluster.coordinator()
    for worker in workers:
        restarted.ask(worker.rejoin())
        restarted.tell(worker.attached())
    assert cluster.save(restarted, workers, 1).committed


@pytest.mark.parametrize("knows", [0, 1])
def test_killed_when_some_have_been_told_to_apply(knows: int) -> None:
    """If a coordinator dies after some were told to apply, the others are told, too. Guards against a worker that
    trains while the others wait and then fail."""
    cluster, coordinator, workers = start()
    for worker in workers:
        coordinator.ask(worker.restore(1))
    applied = say(coordinator, workers, NEW.prefix, "good", "good")[knows].answer
    assert isinstance(applied, Apply)
    workers[knows].applied(applied)
    coordinator.alive = False
    successor = cluster.coordinator()
    other = workers[1 - knows]
    successor.ask(other.rejoin())
    waiting = successor.call(other.restore(1, NEW.prefix, "good"))
    successor.run()
    assert not isinstance(waiting.answer, Apply)
    successor.ask(workers[knows].rejoin())
    again = waiting if waiting.answer is None else successor.call(other.restore(1, NEW.prefix, "good"))
    assert again.answer == applied
    other.applied(applied)
    assert cluster.save(successor, workers, 1).committed
    cluster.check()


@pytest.mark.parametrize("knows", [0, 1])
def test_a_tag_that_moves_when_some_have_been_told_to_apply(knows: int) -> None:
    """If the coordinator dies then and the tag moves, the next one, which finds the tag elsewhere, has the others apply
    the same. Guards against a world that goes on from two checkpoints."""
    cluster, coordinator, workers = start(STATE.tag(Tag("production", OLD.prefix, 0.0)))
    for worker in workers:
        coordinator.ask(worker.restore(1, target="@production"))
    calls = [coordinator.call(worker.restore(1, OLD.prefix, "good", "@production")) for worker in workers]
    applied = calls[knows].answer
    assert isinstance(applied, Apply)
    workers[knows].applied(applied)
    coordinator.alive = False
    cluster.storage._imported = cluster.storage.state.tag(Tag("production", MIDDLE.prefix, 1.0))
    successor, other = cluster.coordinator(), workers[1 - knows]
    successor.ask(other.rejoin())
    waiting = successor.call(other.restore(1, OLD.prefix, "good", "@production"))
    successor.run()
    assert waiting.answer == Read(MIDDLE), "it does not know yet"
    moved = successor.call(other.restore(1, MIDDLE.prefix, "good", "@production"))
    successor.run()
    assert moved.answer is None, "it waits for who has applied"
    successor.ask(workers[knows].rejoin())
    assert moved.answer == Read(OLD)
    assert successor.ask(other.restore(1, OLD.prefix, "good", "@production")) == applied


def test_a_restore_that_goes_on_after_the_coordinator_was_killed_is_another() -> None:
    """A round after a restart of the coordinator is a new one. Guards against taking an earlier decision for the
    answer."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers)
    coordinator.alive = False
    successor = cluster.coordinator()
    for worker in workers:
        successor.ask(worker.rejoin())
    assert cluster.restore(successor, workers, 2, target="1").record == OLD


def test_going_back_outlives_the_coordinator() -> None:
    """Going back outlives the coordinator. Guards against a kill between a rollback and the next save that makes the
    abandoned checkpoint the newest."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers, target="1")
    restarted = cluster.coordinator()
    for worker in workers:
        restarted.ask(worker.rejoin())
    for worker in workers:
        restarted.call(worker.vote(1))
    restarted.run({fx.Append: "good"})
    assert cluster.storage.kinds == ["import", "lead", "restored"]
    assert cluster.storage.state.checkpoints == (MIDDLE, NEW, OLD)


def test_going_back_outlives_a_coordinator_that_led() -> None:
    """Going back outlives a coordinator that led. Guards against a rollback that is lost because the lead entry stands
    and the next one does not."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers, target="1")
    for worker in workers:
        coordinator.call(worker.vote(1))
    while cluster.storage.kinds != ["import", "lead"]:
        coordinator.carry_out()
        coordinator.deliver()
    restarted = cluster.coordinator()
    for worker in workers:
        restarted.ask(worker.rejoin())
    assert cluster.save(restarted, workers, 1).committed
    assert cluster.storage.kinds == ["import", "lead", "lead", "restored", "commit"]


def test_what_was_restored_long_ago_is_no_rollback() -> None:
    """What was restored long ago is no rollback. Guards against a restart of the coordinator that puts the first
    checkpoint in front of all later ones."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers, target="1")
    cluster.save(coordinator, workers, 1)
    restarted = cluster.coordinator()
    for worker in workers:
        restarted.ask(worker.rejoin())
    cluster.save(restarted, workers, 2)
    assert cluster.storage.kinds == ["import", "lead", "restored", "commit", "lead", "commit"]


def test_going_back_is_recorded_with_the_commit_at_the_latest() -> None:
    """Going back is recorded with the commit at the latest. Guards against a refused entry, and a restart that goes on
    from what was abandoned."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    cluster.restore(coordinator, workers, target="1")
    for worker in workers:
        coordinator.call(worker.vote(2))
    coordinator.run({fx.Append: "bad"})
    assert coordinator.ask(workers[0].give_up(2)) is not None
    for worker in workers:
        coordinator.call(worker.vote(3))
    coordinator.run({fx.Append: "bad"})
    for worker in workers:
        coordinator.call(worker.report(3))
    coordinator.run()
    assert cluster.storage.kinds == ["import", "lead", "commit", "commit"]
    assert [record.step for record in cluster.storage.state.checkpoints] == [2, 3, 10, 1, 30]


def test_going_back_is_given_up_with_a_job_that_is_gone() -> None:
    """The entry of a rollback is given up with its job. Guards against a late entry that supersedes the
    restarted job."""
    cluster, coordinator, workers = start()
    assert cluster.save(coordinator, workers, 1).committed
    cluster.restore(coordinator, workers, target="1")
    for worker in workers:
        coordinator.call(worker.vote(2))
    while not (isinstance(effect := coordinator.pending[0], fx.Append) and effect.entry.kind == "restored"):
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.run({fx.Append: "never"})
    call = coordinator.call(workers[0].report(2))
    for worker in workers:
        coordinator.tell(worker.detached())
    while call.answer is None:
        cluster.tick()
        coordinator.run({fx.Append: "never"})
    new = cluster.world(coordinator, 2)
    applied = cluster.restore(coordinator, new)
    assert applied.record is not None
    assert applied.record.step == 10
    cluster.tick()
    coordinator.run()
    assert cluster.storage.kinds[-1] == "abort"
    assert cluster.save(coordinator, new, 1).committed


def test_a_restore_during_a_save_counts_for_the_next() -> None:
    """A restore during a save counts for the next save. Guards against a commit in flight that becomes the newest after
    a crash."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    for worker in workers:
        coordinator.call(worker.vote(2))
    coordinator.run()
    cluster.restore(coordinator, workers, target="1")
    for worker in workers:
        coordinator.call(worker.report(2))
    coordinator.run()
    cluster.save(coordinator, workers, 3)
    assert [record.step for record in cluster.storage.state.checkpoints] == [2, 3, 10, 20, 1, 30]
