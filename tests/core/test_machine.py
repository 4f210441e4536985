"""The life of saves, worlds and leads, effect by effect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.attempt import Phase
from holdfast_coordinator.core.membership import LOST_AFTER
from holdfast_coordinator.core.upkeep import AWAITED_FOR
from holdfast_protos.conventions import UNKNOWN_GENERATION
from holdfast_storage.cluster import Task
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from support.cluster import WALL, Call, Cluster, Coordinator, Fate, Worker, checkpoint

A, B = Task("worker", 0), Task("worker", 1)
APPEND_LOST: dict[type, Fate] = {fx.Append: "lost"}


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


def outcome(call: Call) -> v.Outcome:
    assert isinstance(call.answer, v.Outcome), call.answer
    return call.answer


def failed(call: Call) -> v.Failure:
    failure = outcome(call).failure
    assert failure is not None
    return failure


def refusal(call: Call | v.Answer | v.Failure | None) -> v.Failure:
    answer = call.answer if isinstance(call, Call) else call
    assert isinstance(answer, v.Failure), answer
    return answer


def entry(effects: list[fx.Effect]) -> Entry:
    (append,) = (effect for effect in effects if isinstance(effect, fx.Append))
    return append.entry


# -- the life of a save --


def test_a_save_effect_by_effect() -> None:
    """Steps of a commit left out, or taken in another order."""
    cluster, coordinator, (one, two) = start()
    generation = one.caller.generation
    coordinator.call(one.vote(1))
    assert coordinator.tell(two.vote(1)(99)) == [fx.ReadLog()]
    coordinator.carry_out()

    effects = coordinator.deliver()
    assert (entry(effects).kind, entry(effects).number) == ("import", 0)
    coordinator.carry_out()
    effects = coordinator.deliver()
    lead = entry(effects)
    assert (lead.kind, lead.number, lead.state.leader) == ("lead", 1, coordinator.machine.leader)
    assert lead.state.generation is not None
    assert lead.state.generation.members == ((A, one.incarnation), (B, two.incarnation))

    coordinator._calls[99] = Call(two.vote(1)(99))
    coordinator.carry_out()
    effects = coordinator.deliver()
    assert effects[0] == fx.WriteStateFile(lead.number, lead.state)
    assert [(type(e), e.answer) for e in effects[1:] if isinstance(e, fx.Reply)] == [(fx.Reply, v.Go((), (), 1))] * 2
    coordinator.run()

    waiting = coordinator.call(one.report(1))
    assert coordinator.pending == []
    effects = coordinator.tell(two.report(1)(98))
    coordinator._calls[98] = Call(two.report(1)(98))
    (finalize,) = effects
    assert isinstance(finalize, fx.Finalize)
    assert [task for task, _ in finalize.reports] == [A, B]
    assert (finalize.ordinal, finalize.step, finalize.checkpoint_name) == (1, 10, "ckpt")
    coordinator.carry_out()

    (append,) = coordinator.deliver()
    prefix = f"ckpt-10.{generation}.1/ckpt-10"
    assert isinstance(append, fx.Append)
    assert (append.entry.kind, append.entry.number, append.entry.note) == ("commit", 2, prefix)
    assert append.entry.state.checkpoints[-1].prefix == prefix
    assert append.entry.state.checkpoints[-1].time == WALL
    coordinator.carry_out()

    assert coordinator.deliver() == [fx.WriteStateFile(append.entry.number, append.entry.state)]
    assert waiting.answer is None, "told before TensorFlow's state file says so"
    coordinator.carry_out()
    effects = coordinator.deliver()
    assert {e.request for e in effects if isinstance(e, fx.Reply)} == {98, waiting.event.request}  # type: ignore[union-attr]
    assert {e.answer for e in effects if isinstance(e, fx.Reply)} == {v.Outcome(1, True)}
    assert cluster.storage.kinds == ["import", "lead", "commit"]
    cluster.check()


def test_the_lead_is_taken_once() -> None:
    """A lead entry for every save."""
    cluster, coordinator, workers = start()
    for ordinal in (1, 2, 3):
        assert cluster.save(coordinator, workers, ordinal).committed
    assert cluster.storage.kinds == ["import", "lead", "commit", "commit", "commit"]


def test_joining_and_restoring_change_nothing() -> None:
    """A notebook that looks, and fences the job that trains."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    entries = list(cluster.storage.entries)
    elsewhere = cluster.coordinator()
    cluster.restore(elsewhere, cluster.world(elsewhere, 2))
    assert cluster.storage.entries == entries
    assert cluster.save(coordinator, workers, 2).committed


def test_stock_checkpoints_are_taken_over() -> None:
    """A directory of TensorFlow's own, forgotten at the first save."""
    cluster, coordinator, workers = start(imported=LogState("run", checkpoints=(checkpoint(7, stock=True),)))
    for worker in workers:
        worker.terms = {"retention": v.RetentionPolicy(1)}
    for ordinal in (1, 2, 3):
        cluster.save(coordinator, workers, ordinal)
    assert [record.step for record in cluster.storage.state.checkpoints] == [7, 30]


def test_the_chief_decides_what_is_local() -> None:
    """Worker-local values that are told to some and not to others."""
    cluster, coordinator, workers = start()
    workers[1].crcs = (1, 2, 9)
    calls = vote(coordinator, workers, 1)
    assert [call.answer for call in calls] == [v.Go((2,), (), 1)] * 2
    assert cluster.save(coordinator, workers, 1).committed


def test_divergence_is_told_to_all_before_a_byte_is_written() -> None:
    """A save with a corrupt replica in it; or a lead taken for a save that was refused."""
    cluster, coordinator, workers = start(3)
    workers[1].crcs = (1, 8, 3)
    told = cluster.save(coordinator, workers, 1)
    assert told.failure is not None
    assert (told.failure.kind, told.failure.tasks, told.failure.positions) == ("replica_divergence", (B,), (1,))
    assert cluster.storage.entries == []
    workers[1].crcs = (1, 2, 3)
    assert cluster.save(coordinator, workers, 2).committed


def test_specs_are_asked_for_once() -> None:
    """Two models that differ, and a save that ends only at its deadline."""
    _, coordinator, workers = start(3)
    specs = (v.TensorSpec("a", 1, (2,)),)
    one = coordinator.call(workers[0].vote(1))
    two = coordinator.call(workers[1].vote(1))
    three = coordinator.call(workers[2].vote(1, spec_digest=b"other"))
    assert one.answer == three.answer == v.SpecsWanted()
    assert two.answer is None
    one = coordinator.call(workers[0].vote(1, specs=specs))
    three = coordinator.call(workers[2].vote(1, spec_digest=b"other", specs=()))
    assert three.answer == v.SpecsWanted(), "a lost reply: asked again"
    one = coordinator.call(workers[0].vote(1, specs=specs))
    three = coordinator.call(workers[2].vote(1, spec_digest=b"other", specs=(v.TensorSpec("a", 1, (3,)),)))
    assert outcome(one) == outcome(two) == outcome(three)
    assert failed(one).object == "a"


# -- repeated calls and lost replies --


def test_a_repeated_vote_gets_the_same_answer() -> None:
    """A lost reply: the worker votes again, and is told something else, or nothing."""
    _, coordinator, workers = start()
    first = coordinator.call(workers[0].vote(1))
    again = coordinator.call(workers[0].vote(1))
    go = coordinator.call(workers[1].vote(1))
    leading = coordinator.call(workers[1].vote(1))
    coordinator.run()
    assert first.answer == again.answer == go.answer == leading.answer
    assert isinstance(go.answer, v.Go)
    assert coordinator.ask(workers[0].vote(1)) == go.answer
    report(coordinator, workers[:1], 1)
    assert coordinator.ask(workers[1].vote(1)) == go.answer


def test_a_repeated_report_gets_the_same_answer() -> None:
    """A success that becomes a failure because its answer was lost."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    calls = [*report(coordinator, workers, 1), *report(coordinator, workers, 1)]
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}
    assert coordinator.ask(workers[0].report(1)) == v.Outcome(1, True)
    assert coordinator.ask(workers[0].vote(1)) == v.Outcome(1, True)
    assert coordinator.ask(workers[0].give_up(1)) == v.Outcome(1, True)
    assert cluster.storage.kinds.count("commit") == 1


def test_a_failure_stays_a_failure() -> None:
    """A failure that was told to one worker, and a commit for another."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    told = coordinator.ask(workers[0].give_up(1))
    assert isinstance(told, v.Outcome)
    assert not told.committed
    assert coordinator.ask(workers[1].report(1)) == told
    assert coordinator.ask(workers[0].report(1)) == told
    assert "commit" not in cluster.storage.kinds


def test_late_results_of_a_save_that_is_over() -> None:
    """The index of a save that was given up, taken for the next one's."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    report(coordinator, workers, 1)
    coordinator.carry_out()
    cluster.tick(600.0)
    calls = [coordinator.call(worker.vote(2)) for worker in workers]
    coordinator.deliver()
    assert [type(call.answer) for call in calls] == [v.Go, v.Go]
    coordinator.tell(ev.Finalized(workers[0].caller.generation, 7, "x/y"))
    coordinator.tell(ev.Finalized("unknown", 1, "x/y"))
    assert cluster.storage.kinds == ["import", "lead"]


def test_whoever_waits_for_objects_looks_whether_it_still_leads() -> None:
    """Another job has taken the run and removed what this one has written: its workers are told, after a minute, to
    look at their mounts."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    other = cluster.coordinator()
    job = cluster.world(other, 2)
    for worker in job:
        worker.terms = {"takeover": True}
    assert cluster.save(other, job, 1).committed
    calls = [coordinator.call(worker.report(1)) for worker in workers]
    finalize = coordinator.pending.pop()
    assert isinstance(finalize, fx.Finalize)
    assert coordinator.pending == []
    assert coordinator.machine.finalizes(finalize.generation.id, 1)
    cluster.tick(9.0)
    assert coordinator.pending == []
    cluster.tick(2.0)
    assert coordinator.pending == [fx.ReadLog()]
    coordinator.run()
    assert {failed(call).kind for call in calls} == {"superseded"}
    assert not coordinator.machine.finalizes(finalize.generation.id, 1), "and nobody waits for its objects any more"


def test_saves_out_of_step() -> None:
    """A worker that skips a save() pairs its state with that of others at another step."""
    _, coordinator, workers = start()
    waiting = coordinator.call(workers[0].vote(1))
    other = coordinator.call(workers[1].vote(2))
    assert "gone on to save 2" in failed(waiting).message
    assert other.answer is None
    late = coordinator.call(workers[0].vote(1))
    assert outcome(late) == outcome(waiting)


def test_a_worker_that_reported_waits_for_the_outcome() -> None:
    """A save that could still be committed is given up by the impatience of one worker."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    waiting = coordinator.call(workers[0].report(1))
    assert refusal(coordinator.ask(workers[0].vote(2))).kind == "invalid_request"
    coordinator.call(workers[1].report(1))
    coordinator.run()
    assert outcome(waiting).committed
    assert cluster.save(coordinator, workers, 2).committed


def test_a_skipped_save_has_failed() -> None:
    """A worker that waits for ever for a save that the others have left behind."""
    _, coordinator, workers = start(3)
    coordinator.call(workers[0].vote(5))
    late = coordinator.call(workers[1].vote(3))
    assert failed(late).kind == "save_failed"
    assert outcome(coordinator.call(workers[1].report(3))) == outcome(late)
    assert outcome(coordinator.call(workers[1].give_up(4))).ordinal == 4


@pytest.mark.parametrize("behind", [1, 16, 17, 18, 60])
def test_a_laggard_is_told_what_the_others_were(behind: int) -> None:
    """A worker that slept while the saves of the others failed, one after the other, for want of its part: an internal
    error, or another answer than theirs."""
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
    """As above, where nobody knows any more how those saves have failed."""
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
    """An old commit reported as failed."""
    cluster, coordinator, workers = start(1)
    for ordinal in range(1, 22):
        cluster.save(coordinator, workers, ordinal)
    assert refusal(coordinator.ask(workers[0].report(1))).kind == "invalid_request"
    assert coordinator.ask(workers[0].report(20)) == v.Outcome(20, True)


# -- failures --


def test_a_deadline_names_who_did_not_vote() -> None:
    """A save that waits for ever, or fails without saying for whom it waited."""
    cluster, coordinator, workers = start(3)
    calls = [coordinator.call(worker.vote(1)) for worker in workers[:2]]
    cluster.beat(workers, coordinator, 595.0)
    assert calls[0].answer is None
    cluster.beat(workers, coordinator, 5.0)
    for call in calls:
        assert (failed(call).kind, failed(call).phase) == ("save_failed", "vote")
        assert failed(call).tasks == (Task("worker", 2),)
    (notice,) = coordinator.notices
    assert (notice.caller, notice.ordinal) == (workers[2].caller, 1)
    assert outcome(coordinator.call(workers[2].vote(1))) == outcome(calls[0])


def test_a_deadline_names_who_did_not_report() -> None:
    """As above, of the worker whose disk hangs."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    (call,) = report(coordinator, workers[:1], 1)
    cluster.beat(workers, coordinator, 600.0)
    assert (failed(call).phase, failed(call).tasks) == ("write", (B,))


def test_a_lost_worker_ends_a_save_early() -> None:
    """Ten minutes of waiting for a process that was killed."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    (call,) = report(coordinator, workers[:1], 1)
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER - 1)
    assert call.answer is None
    cluster.tick(1)
    assert failed(call).tasks == (B,)
    assert "worker-1 lost" in failed(call).message


def test_a_worker_that_comes_back_in_time_is_not_lost() -> None:
    """A save that fails for every short break of the network."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    (call,) = report(coordinator, workers[:1], 1)
    coordinator.tell(workers[1].detached())
    cluster.tick(LOST_AFTER - 1)
    coordinator.tell(workers[1].attached())
    cluster.tick(LOST_AFTER)
    coordinator.ask(workers[1].report(1))
    assert outcome(call).committed


def test_who_has_done_its_part_may_be_lost() -> None:
    """A save that has all it needs, and fails because a worker ended after its report."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    report(coordinator, workers[:1], 1)
    coordinator.tell(workers[0].detached())
    cluster.tick(LOST_AFTER)
    assert coordinator.ask(workers[1].report(1)) == v.Outcome(1, True)


def test_a_worker_that_left_ends_a_save() -> None:
    """A worker that closed its manager before the last save, and is waited for."""
    cluster, coordinator, workers = start()
    call = coordinator.call(workers[0].vote(1))
    coordinator.ask(workers[1].leave())
    cluster.tick()
    assert "worker-1 closed its manager" in failed(call).message


def test_a_worker_that_cannot_write_fails_the_save_for_all() -> None:
    """An error that stays on one worker while the others go on believing that they have a checkpoint."""
    cluster, coordinator, workers = start(3)
    vote(coordinator, workers, 1)
    (waiting,) = report(coordinator, workers[:1], 1)
    told = coordinator.call(workers[1].give_up(1, "No space left on device"))
    coordinator.run()
    assert outcome(told) == outcome(waiting)
    assert (failed(told).kind, failed(told).tasks, failed(told).phase) == ("storage", (B,), "write")
    assert [notice.caller for notice in coordinator.notices] == [workers[2].caller]
    assert cluster.save(coordinator, workers, 2).committed


@pytest.mark.parametrize("who", ["a worker", "the coordinator"])
def test_what_another_job_has_deleted_is_no_failure_of_the_storage(who: str) -> None:
    """A job whose run was taken over told to look at its mounts, because the new one cleans up behind it."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    waiting = [coordinator.call(workers[0].report(1))]
    if who == "the coordinator":
        waiting.append(coordinator.call(workers[1].report(1)))
    other = cluster.coordinator()
    second = cluster.world(other, 1)
    second[0].terms = {"takeover": True}
    cluster.save(other, second, 1)
    assert not [name for name in cluster.storage.folders if workers[0].caller.generation in name]
    if who == "a worker":
        waiting.append(coordinator.call(workers[1].give_up(1, "No such file or directory")))
    coordinator.run()
    assert [failed(call).kind for call in waiting] == ["superseded"] * 2


def test_a_write_that_fails_while_the_log_cannot_be_read() -> None:
    """A save whose failure is never told, because storage fails, or hangs, altogether."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    told = coordinator.call(workers[1].give_up(1))
    coordinator.run({fx.ReadLog: "bad"})
    assert (failed(told).kind, failed(told).tasks) == ("storage", (B,))
    vote(coordinator, workers, 2)
    told = coordinator.call(workers[1].give_up(2))
    again = coordinator.call(workers[1].give_up(2))
    assert told.answer is None
    cluster.tick(600.0)
    assert failed(told) == failed(again)
    coordinator.run()
    assert cluster.save(coordinator, workers, 3).committed


def test_giving_up_before_anybody_has_voted() -> None:
    """A worker that could not even take its snapshot, and the others wait for its vote."""
    _, coordinator, workers = start()
    told = coordinator.call(workers[1].give_up(1))
    assert outcome(coordinator.call(workers[0].vote(1))) == outcome(told)


def test_an_index_that_cannot_be_written_fails_the_save() -> None:
    """A commit without an index."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    coordinator.run({fx.Finalize: "bad"})
    assert {failed(call).kind for call in calls} == {"storage"}
    assert "commit" not in cluster.storage.kinds


def test_a_refused_append_fails_the_save() -> None:
    """A full disk under the log: an endless try, or an unknown outcome where it is known."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    coordinator.run({fx.Append: "bad"})
    for call in calls:
        assert (failed(call).kind, failed(call).phase) == ("storage", "commit")
    assert cluster.save(coordinator, workers, 2).committed, "the next one may succeed"


def test_a_refused_lead_fails_the_save() -> None:
    """As above, at the first save: a directory that cannot be written."""
    cluster, coordinator, workers = start()
    calls = [coordinator.call(worker.vote(1)) for worker in workers]
    coordinator.run({fx.Append: "bad"})
    for call in calls:
        assert (failed(call).kind, failed(call).phase) == ("storage", "lead")
    assert cluster.storage.entries == []
    assert cluster.save(coordinator, workers, 2).committed


def test_a_log_that_cannot_be_read_fails_the_save() -> None:
    """A lead taken over a log that nobody has read."""
    _, coordinator, workers = start()
    calls = [coordinator.call(worker.vote(1)) for worker in workers]
    coordinator.run({fx.ReadLog: "bad"})
    assert {failed(call).phase for call in calls} == {"lead"}


def test_a_state_file_that_cannot_be_written_fails_nothing() -> None:
    """A commit reported as failed because a derived file was not written."""
    _, coordinator, workers = start()
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    coordinator.run({fx.WriteStateFile: "bad"})
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}


# -- unknown outcomes --


def committing(cluster: Cluster, coordinator: Coordinator, workers: list[Worker], fate: Fate) -> list[Call]:
    """A save whose commit entry was sent, with an answer that was lost."""
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    coordinator.carry_out()
    coordinator.deliver()
    coordinator.carry_out(0, fate)
    assert coordinator.deliver() == []
    assert [call.answer for call in calls] == [None] * len(calls), "what is not known is reported"
    return calls


def test_an_append_whose_answer_was_lost() -> None:
    """A commit that stands and is reported as failed, or is made twice."""
    cluster, coordinator, workers = start()
    calls = committing(cluster, coordinator, workers, "lost")
    cluster.tick()
    again = coordinator.pending[-1]
    assert isinstance(again, fx.Append)
    assert again.entry == cluster.storage.entries[-1], "the same entry in the same slot"
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}
    assert cluster.storage.kinds.count("commit") == 1


def test_tries_are_paced() -> None:
    """A storage that refuses at once, asked again without a pause."""
    cluster, coordinator, workers = start()
    committing(cluster, coordinator, workers, "never")
    assert coordinator.pending == []
    cluster.tick()
    coordinator.carry_out(0, "bad")
    assert coordinator.deliver() == [], "refused this time, but the first may still land"
    cluster.tick()
    assert len(coordinator.pending) == 1


def test_giving_up_an_unknown_commit() -> None:
    """A commit that arrives after its failure was reported."""
    cluster, coordinator, workers = start()
    calls = committing(cluster, coordinator, workers, "late")
    cluster.beat(workers, coordinator, 600.0)
    while coordinator.pending:
        coordinator.carry_out(0, "never")
        coordinator.deliver()
    cluster.tick()
    (abort,) = coordinator.pending
    assert isinstance(abort, fx.Append)
    assert (abort.entry.kind, abort.entry.number) == ("abort", 2)
    assert calls[0].answer is None
    coordinator.run()
    assert {failed(call).phase for call in calls} == {"commit"}
    cluster.storage.land()
    assert cluster.storage.kinds == ["import", "lead", "abort"]
    assert cluster.save(coordinator, workers, 2).committed
    cluster.check()


def test_the_commit_wins_over_its_abort() -> None:
    """A success reported as a failure, because the abort was already decided."""
    cluster, coordinator, workers = start()
    calls = committing(cluster, coordinator, workers, "late")
    cluster.beat(workers, coordinator, 600.0)
    coordinator.carry_out(0, "never")
    coordinator.deliver()
    cluster.tick()
    cluster.storage.land()
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}
    assert cluster.storage.kinds == ["import", "lead", "commit"]


def test_an_abort_goes_into_the_slot_that_it_settles() -> None:
    """The log was read past an unknown commit: the abort in the next slot, and a failure told of what was committed."""
    cluster, coordinator, workers = start()
    calls = committing(cluster, coordinator, workers, "lost")
    coordinator.call(cluster.workers(1)[0].join())
    coordinator.run()
    assert coordinator.machine.ledger.number == 2
    cluster.beat(workers, coordinator, 600.0)
    while coordinator.pending:
        coordinator.carry_out(0, "never")
        coordinator.deliver()
    cluster.tick()
    (abort,) = coordinator.pending
    assert isinstance(abort, fx.Append)
    assert (abort.entry.kind, abort.entry.number) == ("abort", 2)
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}


def test_a_commit_that_waits_behind_an_unknown_entry() -> None:
    """The wrong entry aborted at the deadline, and a save without an outcome for ever."""
    cluster, coordinator, workers = start()
    for worker in workers:
        worker.terms = {"retention": v.RetentionPolicy(1)}
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while not any(isinstance(p, fx.Append) and p.entry.kind == "retire" for p in coordinator.pending):
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.carry_out(0, "never")
    coordinator.deliver()
    vote(coordinator, workers, 3)
    calls = report(coordinator, workers, 3)
    coordinator.carry_out()
    coordinator.deliver()
    cluster.beat(workers, coordinator, 600.0)
    assert {failed(call).kind for call in calls} == {"save_failed"}
    coordinator.run()
    assert cluster.storage.kinds[-1] == "retire"
    assert cluster.save(coordinator, workers, 4).committed


def test_a_failed_retire_does_not_fail_the_save_behind_it() -> None:
    """A save lost because an older checkpoint could not be retired."""
    cluster, coordinator, workers = start()
    for worker in workers:
        worker.terms = {"retention": v.RetentionPolicy(1)}
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    calls = report(coordinator, workers, 2)
    while not any(isinstance(p, fx.Append) and p.entry.kind == "retire" for p in coordinator.pending):
        coordinator.carry_out()
        coordinator.deliver()
    assert outcome(calls[0]).committed
    vote_calls = [coordinator.call(worker.vote(3)) for worker in workers]
    assert all(isinstance(call.answer, v.Go) for call in vote_calls)
    calls = report(coordinator, workers, 3)
    coordinator.carry_out(1)  # finalize
    coordinator.deliver()
    coordinator.carry_out(0, "bad")  # retire
    coordinator.deliver()
    coordinator.run()
    assert outcome(calls[0]).committed


def test_a_lead_of_unknown_outcome() -> None:
    """A save that begins to write under a lead that may not stand, or a lead entry for every try."""
    cluster, coordinator, workers = start()
    calls = [coordinator.call(worker.vote(1)) for worker in workers]
    coordinator.run(APPEND_LOST)
    assert [call.answer for call in calls] == [None, None]
    for _ in range(3):
        cluster.tick()
        coordinator.run()
    assert all(isinstance(call.answer, v.Go) for call in calls)
    assert cluster.storage.kinds == ["import", "lead"]


@pytest.mark.parametrize("kind", ["lead", "restored"])
def test_what_a_job_that_has_gone_wanted_in_the_log_is_given_up(kind: str) -> None:
    """The log cannot be written for a while; a job ends, and the next one restores. Then the entry of the first stands
    after all: it leads the run, or has rolled it back, and the job that lives may save nothing any more."""
    cluster, coordinator, workers = start()
    assert cluster.save(coordinator, workers, 1).committed
    assert cluster.save(coordinator, workers, 2).committed
    gone = workers
    if kind == "lead":
        gone = cluster.world(coordinator, 2)
        for worker in workers:
            coordinator.tell(worker.detached())
    cluster.restore(coordinator, gone, 1, "10" if kind == "restored" else "")
    calls = [coordinator.call(worker.vote(3)) for worker in gone]
    while not (isinstance(effect := coordinator.pending[0], fx.Append) and effect.entry.kind == kind):
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.run({fx.Append: "never"})
    if kind == "restored":
        calls = report(coordinator, gone, 3)
    while calls[0].answer is None:
        cluster.beat(gone, coordinator, 5.0)
        coordinator.run({fx.Append: "never"})
    assert {failed(call).kind for call in calls} == {"save_failed"}
    for worker in gone:
        coordinator.tell(worker.detached())
    new = cluster.world(coordinator, 2)
    cluster.restore(coordinator, new)
    cluster.tick()
    coordinator.run()
    assert cluster.storage.kinds[-1] == "abort"
    assert cluster.save(coordinator, new, 1).committed


def test_a_leader_goes_on_behind_the_abort_of_one_that_gave_up_taking_the_run() -> None:
    """Another job tries to take the run over, cannot write its entry, and gives up; the job that leads is told that it
    has been superseded, by nobody."""
    cluster, coordinator, workers = start()
    assert cluster.save(coordinator, workers, 1).committed
    other = cluster.coordinator()
    rivals = cluster.world(other, 2)
    cluster.restore(other, rivals)
    calls = [other.call(rival.vote(1, takeover=True, timeout=30.0)) for rival in rivals]
    while calls[0].answer is None:
        other.run({fx.Append: "never"})
        cluster.beat(rivals, other, 5.0)
        for worker in workers:
            coordinator.tell(worker.heartbeat())
    assert {failed(call).kind for call in calls} == {"save_failed"}
    other.run()
    assert cluster.storage.kinds[-1] == "abort"
    assert cluster.save(coordinator, workers, 2).committed
    assert cluster.save(coordinator, workers, 3).committed
    cluster.check()


def test_a_commit_that_is_given_up_fails_where_somebody_elses_abort_stands() -> None:
    """Its slot is taken by the abort of a job that gave up taking the run: it is tried again, after it was given up."""
    cluster, coordinator, workers = start()
    assert cluster.save(coordinator, workers, 1).committed
    other = cluster.coordinator()
    rivals = cluster.world(other, 2)
    cluster.restore(other, rivals)
    lost = [other.call(rival.vote(1, takeover=True, timeout=30.0)) for rival in rivals]
    for worker in workers:
        coordinator.call(worker.vote(2))
    coordinator.run()
    calls = report(coordinator, workers, 2)
    while not isinstance(coordinator.pending[0], fx.Append):
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.run({fx.Append: "never"})
    attempt = coordinator.machine.worlds[workers[0].caller.generation].attempt
    assert attempt is not None
    while lost[0].answer is None or attempt.phase is not Phase.ABORTING:
        other.run({fx.Append: "never"})
        cluster.beat(rivals, other, 5.0)
        coordinator.run({fx.Append: "never"})
        for worker in workers:
            coordinator.tell(worker.heartbeat())
    other.run()
    assert cluster.storage.kinds[-1] == "abort"
    cluster.tick()
    coordinator.run()
    assert {failed(call).kind for call in calls} == {"save_failed"}
    assert cluster.save(coordinator, workers, 3).committed
    cluster.check()


def test_repeated_results_are_taken_once() -> None:
    """The result of an append, told twice, finishes the entry after it."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    before = list(cluster.storage.entries)
    vote(coordinator, workers, 2)
    calls = report(coordinator, workers, 2)
    coordinator.carry_out()
    coordinator.deliver(repeat=True)
    coordinator.deliver()
    coordinator.tell(ev.Appended(before[-1]))
    assert calls[0].answer is None
    coordinator.carry_out()
    coordinator.deliver(repeat=True)
    coordinator.deliver()
    coordinator.run()
    assert outcome(calls[0]) == v.Outcome(2, True)
    assert cluster.storage.kinds.count("commit") == 2


# -- other jobs on the same directory --


def second_job(cluster: Cluster, elsewhere: bool, **terms: object) -> tuple[Coordinator, list[Worker]]:
    coordinator = cluster.coordinator() if elsewhere else cluster.coordinators[0]
    workers = cluster.world(coordinator, 2)
    for worker in workers:
        worker.terms = dict(terms)
    cluster.restore(coordinator, workers)
    return coordinator, workers


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("moved_on", [False, True])
def test_a_second_job_is_refused_while_the_first_lives(elsewhere: bool, moved_on: bool) -> None:
    """Two jobs on one directory by mistake, that undo each other's work; or a reason that sends the user astray."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    other, second = second_job(cluster, elsewhere)
    if moved_on:
        cluster.save(coordinator, workers, 2)
    told = cluster.save(other, second, 1)
    assert told.failure is not None
    assert told.failure.kind == "invalid_request"
    assert "worker-0, worker-1" in told.failure.message
    assert "takeover" in told.failure.message
    assert cluster.save(coordinator, workers, 3).committed, "the first is not disturbed"
    cluster.check()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_restarted_job_takes_the_run(elsewhere: bool) -> None:
    """A job that cannot save after a restart because of its own dead predecessor."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    for worker in workers:
        coordinator.tell(worker.detached())
    other, second = second_job(cluster, elsewhere)
    assert cluster.save(other, second, 1).committed
    assert [record.step for record in cluster.storage.state.checkpoints] == [10, 10]
    (first, _) = [coordinator.call(worker.vote(2)) for worker in workers]
    coordinator.run()
    if isinstance(first.answer, v.Go):  # it has not looked into the log since
        (first, _) = report(coordinator, workers, 2)
        coordinator.run()
    superseded = first.answer.failure if isinstance(first.answer, v.Outcome) else first.answer
    assert isinstance(superseded, v.Failure)
    assert superseded.kind == "superseded"


def test_a_coordinator_that_does_not_answer_is_dead() -> None:
    """A run that nobody can ever lead again, because its leader cannot be asked."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator.alive = False
    other, second = second_job(cluster, True)
    assert cluster.save(other, second, 1).committed


def test_a_leader_without_an_address_is_not_asked() -> None:
    """A world of one that listens nowhere, waited for."""
    cluster = Cluster()
    coordinator = cluster.coordinator(address="")
    cluster.save(coordinator, cluster.world(coordinator, 1), 1)
    other, second = second_job(cluster, True)
    assert cluster.save(other, second, 1).committed


def test_takeover() -> None:
    """An operator who cannot take a run from a job that hangs."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    other, second = second_job(cluster, True, takeover=True)
    assert cluster.save(other, second, 1).committed
    calls = [coordinator.call(worker.vote(2)) for worker in workers]
    coordinator.run()
    calls = [coordinator.call(worker.report(2)) for worker in workers]
    coordinator.run()
    assert {failed(call).kind for call in calls} == {"superseded"}
    assert [notice.ordinal for notice in coordinator.notices] == [None, None]
    assert cluster.save(other, second, 2).committed
    cluster.check()


def test_the_next_manager_of_the_same_processes_takes_over() -> None:
    """A program that makes a second manager, refused by its own first."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    second = cluster.world(coordinator, 2, workers)
    assert cluster.save(coordinator, second, 1).committed
    assert refusal(coordinator.ask(workers[0].vote(2))).kind == "superseded"
    assert {notice.caller for notice in coordinator.notices} == {worker.caller for worker in workers}


def test_a_job_that_does_not_build_on_the_newest_is_refused() -> None:
    """A job that restored before another one saved and ended: hours of training silently undone."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    other, second = second_job(cluster, True)
    cluster.save(coordinator, workers, 2)
    coordinator.alive = False
    told = cluster.save(other, second, 1)
    assert told.failure is not None
    assert told.failure.kind == "superseded"
    assert "ckpt-20" in told.failure.message
    cluster.restore(other, second, 2)
    assert cluster.save(other, second, 2).committed, "once it has restored that"


def test_a_restore_that_failed_is_none() -> None:
    """A job that could not read the newest, and then saves over it as if it had."""
    cluster, coordinator, workers = start()
    other = cluster.coordinator()
    second = cluster.world(other, 2)
    cluster.save(coordinator, workers, 1)
    coordinator.alive = False
    for worker in second:
        other.ask(worker.restore(1))
    newest = cluster.storage.state.checkpoints[-1].prefix
    for worker in second:
        other.call(worker.restore(1, newest, "unreadable"))
    assert cluster.save(other, second, 1).failure is not None


@pytest.mark.parametrize("first", [0, 1])
def test_two_jobs_race_for_an_empty_directory(first: int) -> None:
    """Both lead, each in its own eyes."""
    cluster = Cluster()
    jobs = []
    for _ in range(2):
        coordinator = cluster.coordinator()
        workers = cluster.world(coordinator, 2)
        calls = [coordinator.call(worker.vote(1)) for worker in workers]
        coordinator.carry_out()  # both have read the empty log
        coordinator.deliver()
        jobs.append((coordinator, workers, calls))
    jobs[first][0].run()
    jobs[1 - first][0].run()
    assert isinstance(jobs[first][2][0].answer, v.Go)
    assert failed(jobs[1 - first][2][0]).kind == "invalid_request"
    assert cluster.storage.kinds == ["import", "lead"]


def test_two_worlds_of_one_coordinator_race() -> None:
    """A lead decided in view of a log that another world of the same coordinator has moved since."""
    cluster, coordinator, workers = start()
    second = cluster.world(coordinator, 2)
    calls = [coordinator.call(worker.vote(1)) for worker in (*workers, *second)]
    coordinator.run()
    assert isinstance(calls[0].answer, v.Go)
    assert failed(calls[2]).kind == "invalid_request"
    assert cluster.storage.kinds == ["import", "lead"]


def test_two_worlds_ask_one_leader() -> None:
    """The answer to one question overwritten by another: a save that waits for its deadline."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    other, second = second_job(cluster, True)
    third = cluster.world(other, 2)
    calls = [other.call(worker.vote(1)) for worker in (*second, *third)]
    other.run()
    assert {failed(call).kind for call in calls} == {"invalid_request"}


def test_what_was_told_once_is_told_again_after_a_takeover() -> None:
    """A committed save whose reply was lost becomes a failure when another job takes the run."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    other, second = second_job(cluster, False, takeover=True)
    cluster.save(other, second, 1)
    assert coordinator.ask(workers[1].report(1)) == v.Outcome(1, True)
    assert coordinator.ask(workers[1].rejoin()) == workers[1].world
    assert refusal(coordinator.ask(workers[1].vote(2))).kind == "superseded"
    assert refusal(coordinator.ask(workers[1].restore(2))).kind == "superseded"


def test_a_takeover_in_mid_save() -> None:
    """A commit of a fenced world; or workers of it that are never told."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    (waiting,) = report(coordinator, workers[:1], 1)
    other, second = second_job(cluster, False, takeover=True)
    assert cluster.save(other, second, 1).committed
    assert failed(waiting).kind == "superseded"
    assert refusal(coordinator.ask(workers[1].vote(2))).kind == "superseded"
    assert coordinator.ask(workers[1].report(1)) == outcome(waiting)
    cluster.check()


def test_a_commit_behind_another_worlds_lead() -> None:
    """A world that is fenced commits once more, because its coordinator is the one that leads."""
    cluster, coordinator, workers = start()
    second = cluster.world(coordinator, 2, workers)
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    rivals = [coordinator.call(worker.vote(1)) for worker in second]
    while not any(isinstance(effect, fx.Append) for effect in coordinator.pending):
        index = next(i for i, effect in enumerate(coordinator.pending) if isinstance(effect, fx.ReadLog))
        coordinator.carry_out(index)
        coordinator.deliver()
    (finalize,) = (i for i, effect in enumerate(coordinator.pending) if isinstance(effect, fx.Finalize))
    coordinator.carry_out(finalize)
    coordinator.deliver()
    coordinator.run()
    assert {failed(call).kind for call in calls} == {"superseded"}
    assert isinstance(rivals[0].answer, v.Go)
    assert cluster.storage.kinds == ["import", "lead", "lead", "retire"]
    assert cluster.storage.state.checkpoints == (), "what it wrote is an orphan"
    cluster.check()


def test_an_old_reading_of_the_log_ends_no_lead() -> None:
    """The predecessor's entry, read before the lead was taken and told after it, taken for a newer leader's."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator.alive = False
    other, second = second_job(cluster, True)
    calls = [other.call(worker.vote(1)) for worker in second]
    other.carry_out()
    other.deliver()
    other.call(cluster.workers(1)[0].join())
    other.carry_out(1)
    while other.pending:
        other.carry_out()
        other.deliver(-1)
    assert isinstance(calls[0].answer, v.Go)
    assert isinstance(other.results[0], ev.LogRead)
    other.deliver()
    assert cluster.save(other, second, 1).committed


@pytest.mark.parametrize("commit_first", [False, True])
def test_a_takeover_races_with_a_commit(commit_first: bool) -> None:
    """Both stand: a checkpoint by somebody who did not lead."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    other, second = second_job(cluster, True, takeover=True)
    calls = report(coordinator, workers, 1)
    coordinator.carry_out()
    coordinator.deliver()
    if commit_first:
        coordinator.carry_out()
    rivals = [other.call(worker.vote(1)) for worker in second]
    other.run()
    coordinator.run()
    while coordinator.results:
        coordinator.deliver()
        coordinator.run()
    assert outcome(calls[0]).committed == commit_first
    assert isinstance(rivals[0].answer, v.Go)
    cluster.check()


# -- a coordinator that is restarted --


def restart(cluster: Cluster, workers: list[Worker]) -> Coordinator:
    cluster.coordinators[-1].alive = False
    coordinator = cluster.coordinator()
    for worker in workers:
        assert coordinator.ask(worker.rejoin()) == worker.world
        coordinator.tell(worker.attached())
        coordinator.tell(worker.heartbeat())
    return coordinator


def test_restarted_while_workers_vote() -> None:
    """A coordinator that was killed in mid-save costs the save, or the job."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator.call(workers[0].vote(2))
    coordinator = restart(cluster, workers)
    assert cluster.save(coordinator, workers, 2).committed
    assert cluster.storage.kinds == ["import", "lead", "commit", "lead", "commit"]
    cluster.check()


def test_restarted_while_workers_write() -> None:
    """As above: some have reported, some have been told to go, some wait for that."""
    cluster, coordinator, workers = start(3)
    workers[2].crcs = (1, 2, 9)
    go = vote(coordinator, workers, 1)[0].answer
    assert isinstance(go, v.Go)
    report(coordinator, workers[:1], 1)
    coordinator = restart(cluster, workers)
    waiting = coordinator.call(workers[2].vote(1))
    first = coordinator.call(workers[0].report(1, worker_local=go.worker_local))
    coordinator.run()
    told = waiting.answer
    assert isinstance(told, v.Go)
    assert told.worker_local == (2,)
    calls = [coordinator.call(worker.report(1, worker_local=(2,))) for worker in workers[1:]]
    coordinator.run()
    assert {outcome(call) for call in (first, *calls)} == {v.Outcome(1, True)}
    cluster.check()


def test_restarted_in_the_first_lead() -> None:
    """A lead entry of a dead coordinator, that its own world's next one respects as a rival's."""
    cluster, coordinator, workers = start()
    for worker in workers:
        coordinator.call(worker.vote(1))
    while "lead" not in cluster.storage.kinds:
        coordinator.carry_out()
        if "lead" not in cluster.storage.kinds:
            coordinator.deliver()
    coordinator = restart(cluster, workers)
    assert cluster.save(coordinator, workers, 1).committed


def test_restarted_after_the_commit() -> None:
    """A commit that stands, made a second time or reported as failed, because its coordinator died before it told."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    report(coordinator, workers, 1)
    while "commit" not in cluster.storage.kinds:
        coordinator.carry_out()
        coordinator.deliver()
    coordinator = restart(cluster, workers)
    calls = report(coordinator, workers, 1)
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}
    assert cluster.storage.kinds.count("commit") == 1
    cluster.check()


def test_restarted_after_some_were_told_of_a_commit() -> None:
    """One worker goes on to the next save, the other is told that its committed save has failed."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator = restart(cluster, workers)
    next_vote = coordinator.call(workers[0].vote(2))
    assert coordinator.ask(workers[1].report(1)) == v.Outcome(1, True)
    coordinator.ask(workers[1].vote(2))
    assert isinstance(next_vote.answer, v.Go)


def test_restarted_after_some_were_told_of_a_failure() -> None:
    """A save that failed for one worker commits for the others; or they wait for it while it saves on."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    coordinator.ask(workers[0].give_up(1))
    coordinator = restart(cluster, workers)
    waiting = coordinator.call(workers[1].report(1))
    coordinator.run()
    next_vote = coordinator.call(workers[0].vote(2))
    assert failed(waiting).kind == "save_failed"
    coordinator.ask(workers[1].vote(2))
    assert isinstance(next_vote.answer, v.Go)
    cluster.check()


def test_a_late_commit_of_a_dead_coordinator() -> None:
    """The PUT of a coordinator that was killed arrives after its successor has read the log."""
    cluster, coordinator, workers = start()
    committing(cluster, coordinator, workers, "late")
    coordinator = restart(cluster, workers)
    calls = report(coordinator, workers, 1)
    coordinator.carry_out()  # the log is read
    coordinator.deliver()
    cluster.storage.land()
    coordinator.run()
    assert {outcome(call) for call in calls} == {v.Outcome(1, True)}
    assert cluster.storage.kinds == ["import", "lead", "commit", "lead"]


def test_a_rejoin_alone_fences_nobody() -> None:
    """A worker at the wrong address for a moment ends the lead of a coordinator that is well."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    elsewhere = cluster.coordinator()
    elsewhere.ask(workers[1].rejoin())
    elsewhere.tell(workers[1].attached())
    cluster.tick()
    assert cluster.save(coordinator, workers, 2).committed


def test_a_world_is_handed_over() -> None:
    """A coordinator that ends in good order tells its last workers that they are superseded, for ever."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    stays = coordinator.call(workers[0].report(1))
    elsewhere = cluster.coordinator()
    elsewhere.ask(workers[1].rejoin())
    moved = elsewhere.call(workers[1].report(1))
    elsewhere.run()
    coordinator.call(cluster.workers(1)[0].join())
    coordinator.run()
    assert refusal(stays).kind == "unknown_generation"
    assert coordinator.notices == []
    assert elsewhere.ask(workers[0].rejoin()) == workers[0].world
    assert elsewhere.ask(workers[0].report(1)) == v.Outcome(1, True)
    assert outcome(moved).committed
    cluster.check()


def test_a_world_is_handed_over_in_mid_commit() -> None:
    """A commit entry that lost its race against the lead of the same world's next coordinator, told as a failure."""
    cluster, coordinator, workers = start()
    vote(coordinator, workers, 1)
    calls = report(coordinator, workers, 1)
    coordinator.carry_out()
    coordinator.deliver()
    elsewhere = cluster.coordinator()
    elsewhere.ask(workers[1].rejoin())
    moved = elsewhere.call(workers[1].report(1))
    elsewhere.run()
    coordinator.run()
    assert {refusal(call).kind for call in calls} == {"unknown_generation"}
    elsewhere.ask(workers[0].rejoin())
    assert elsewhere.ask(workers[0].report(1)) == v.Outcome(1, True)
    assert outcome(moved).committed
    cluster.check()


def test_a_restore_is_handed_over_once() -> None:
    """A restore that waits for the log when its world turns out to be another coordinator's: it is answered twice."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    elsewhere = cluster.coordinator()
    for worker in workers:
        elsewhere.ask(worker.rejoin())
    cluster.save(elsewhere, workers, 2)
    waiting = coordinator.call(workers[0].restore(1))
    coordinator.run()
    assert refusal(waiting).kind == "unknown_generation"


def test_a_commit_made_elsewhere_meanwhile_is_found() -> None:
    """Workers that go to and fro between two coordinators: a commit made a second time, or told as a failure."""
    cluster, coordinator, workers = start()
    elsewhere = cluster.coordinator()
    for worker in workers:
        elsewhere.ask(worker.rejoin())
    waiting = elsewhere.call(workers[0].vote(1))
    elsewhere.run()
    assert cluster.save(coordinator, workers, 1).committed
    assert elsewhere.ask(workers[1].vote(1)) == v.Outcome(1, True)
    assert waiting.answer == v.Outcome(1, True)
    cluster.check()


def test_a_coordinator_that_was_left_behind_does_not_take_the_lead_back() -> None:
    """An old save that waits for the log takes the run from the coordinator that its workers have gone to since."""
    cluster, coordinator, workers = start()
    waiting = [coordinator.call(worker.vote(1)) for worker in workers]
    elsewhere = cluster.coordinator()
    for worker in workers:
        elsewhere.ask(worker.rejoin())
    for ordinal in (1, 2):
        assert cluster.save(elsewhere, workers, ordinal).committed
    coordinator.run()
    assert {refusal(call).kind for call in waiting} == {"unknown_generation"}
    assert cluster.save(elsewhere, workers, 3).committed
    assert cluster.storage.kinds.count("lead") == 1


def test_a_successor_that_slept_knows_nothing_of_what_another_one_told() -> None:
    """A save that all workers were told had failed is committed by a process that held their reports for a while."""
    cluster = Cluster()
    first = cluster.coordinator()
    workers = cluster.world(first, 2)
    cluster.save(first, workers, 1)
    for worker in workers:
        assert isinstance(first.ask(worker.vote(2)), v.Go | None)
    first.alive = False
    sleeper, other = cluster.coordinator(), cluster.coordinator()
    for coordinator in (sleeper, other):
        for worker in workers:
            coordinator.ask(worker.rejoin())
    slept = [sleeper.call(worker.report(2)) for worker in workers]
    told = [other.call(worker.report(2)) for worker in workers]
    other.run({fx.Finalize: "bad"})
    assert all(isinstance(call.answer, v.Outcome) and not call.answer.committed for call in told)
    sleeper.run()
    assert [refusal(call).kind for call in slept] == [UNKNOWN_GENERATION] * 2
    assert cluster.storage.kinds == ["import", "lead", "commit", "lead"]
    # Its workers may come back to it, and say what they still want.
    for worker in workers:
        sleeper.ask(worker.rejoin())
    assert cluster.save(sleeper, workers, 3).committed
    cluster.check()


def test_a_superseded_world_cannot_come_back() -> None:
    """A zombie of an earlier job finds a coordinator that does not know it, and saves."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator.alive = False
    other, second = second_job(cluster, True)
    cluster.save(other, second, 1)
    assert refusal(other.ask(workers[0].rejoin())).kind == "superseded"
    third = cluster.coordinator()
    assert refusal(third.ask(workers[0].rejoin())).kind == "superseded"


def test_superseded_between_rejoin_and_save() -> None:
    """A world that rejoined in time and then saves over the job that took the run since."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    restarted = restart(cluster, workers)
    other, second = second_job(cluster, True, takeover=True)
    cluster.save(other, second, 1)
    calls = [restarted.call(worker.vote(2)) for worker in workers]
    restarted.run()
    assert {refusal(call).kind for call in calls} == {"superseded"}
    cluster.check()


def test_a_rejoin_when_the_log_cannot_be_read() -> None:
    """A worker that is let in, or thrown out for ever, for want of an answer from the storage."""
    cluster, coordinator, workers = start()
    cluster.save(coordinator, workers, 1)
    coordinator.alive = False
    coordinator = cluster.coordinator()
    call = coordinator.call(workers[0].rejoin())
    coordinator.run({fx.ReadLog: "bad"})
    assert refusal(call).kind == "storage"
    for worker in workers:
        coordinator.ask(worker.rejoin())
    call = coordinator.call(workers[0].vote(2))
    coordinator.run({fx.ReadLog: "bad"})
    assert refusal(call).kind == "storage"
    call = coordinator.call(workers[0].vote(2))
    coordinator.run({fx.Append: "bad"})
    assert refusal(call).kind == "storage"
    assert cluster.save(coordinator, workers, 2).committed


def test_a_rejoin_of_a_world_that_never_saved() -> None:
    """A world whose coordinator was restarted before its first save is taken for superseded."""
    cluster, coordinator, workers = start()
    cluster.restore(coordinator, workers)
    coordinator = restart(cluster, workers)
    assert cluster.save(coordinator, workers, 1).committed
    assert cluster.storage.kinds == ["import", "lead", "commit"]


# -- retention --


def keep(workers: list[Worker], policy: v.RetentionPolicy) -> None:
    for worker in workers:
        worker.terms = {"retention": policy}


def test_retention_comes_after_reading_back() -> None:
    """The only good checkpoint deleted in favour of one that cannot be read."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    coordinator.run({fx.ReadBackCheckpoint: "bad"})
    assert [record.step for record in cluster.storage.state.checkpoints] == [10, 20]
    assert "could not be read back" in coordinator.remarks[0]
    cluster.save(coordinator, workers, 3)
    assert [record.step for record in cluster.storage.state.checkpoints] == [30]


def test_retention_effect_by_effect() -> None:
    """A folder deleted before the log says so: listed, and not there."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    old = cluster.storage.state.checkpoints[0]
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    for _ in range(3):  # finalize, commit, state file
        coordinator.carry_out()
        effects = coordinator.deliver()
    new = cluster.storage.state.checkpoints[-1]
    assert effects[-1] == fx.ReadBackCheckpoint(new, cluster.now.monotonic)
    coordinator.carry_out()
    retire = entry(coordinator.deliver())
    assert (retire.kind, retire.state.checkpoints, retire.state.retired) == ("retire", (new,), (old.folder,))
    coordinator.carry_out()
    assert coordinator.deliver() == [fx.WriteStateFile(retire.number, retire.state), fx.DeleteFolder(old.folder)]
    coordinator.run()
    cluster.save(coordinator, workers, 3)
    assert old.folder not in cluster.storage.state.retired, "deleted, and forgotten with the next entry"


def test_nothing_is_retired_twice() -> None:
    """A state file that is written late has the replacement read back again, and an entry made that changes nothing."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while not (isinstance(coordinator.pending[0], fx.Append) and entry(coordinator.pending).kind == "retire"):
        coordinator.carry_out()
        coordinator.deliver()
    newest = cluster.storage.state.checkpoints[-1].prefix
    assert coordinator.tell(ev.StateFileWritten(coordinator.machine.ledger.number, newest)) == []
    coordinator.run()
    assert cluster.storage.kinds[-2:] == ["commit", "retire"]


def awaited(coordinator: Coordinator, workers: list[Worker]) -> list[Call]:
    return [coordinator.call(worker.await_upkeep()) for worker in workers]


def test_who_waits_is_told_when_all_is_removed() -> None:
    """`wait()` returns with three checkpoints on disk where one is to be kept, or while the last is half deleted."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    assert [call.answer for call in awaited(coordinator, workers)] == [v.UpkeepOver()] * len(workers)
    vote(coordinator, workers, 2)
    calls = report(coordinator, workers, 2)
    for _ in range(3):  # finalize, commit, state file
        coordinator.carry_out()
        coordinator.deliver()
    assert [call.answer for call in calls] == [v.Outcome(2, True)] * len(workers), "the save itself waits for nothing"
    waiting = awaited(coordinator, workers)
    seen = []
    while coordinator.pending:
        assert not any(call.answer for call in waiting)
        seen.append(type(coordinator.pending[0]))
        coordinator.carry_out()
        coordinator.deliver()
    assert seen == [fx.ReadBackCheckpoint, fx.Append, fx.WriteStateFile, fx.DeleteFolder]
    assert [call.answer for call in waiting] == [v.UpkeepOver()] * len(workers)


@pytest.mark.parametrize("bad", [fx.ReadBackCheckpoint, fx.Append, fx.WriteStateFile, fx.DeleteFolder])
def test_who_waits_for_what_fails_is_told_too(bad: type) -> None:
    """A folder that cannot be deleted, or a replacement that cannot be read back, keeps `wait()` for ever."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    for _ in range(3):
        coordinator.carry_out()
        coordinator.deliver()
    waiting = awaited(coordinator, workers)
    coordinator.run({bad: "bad"})
    assert [call.answer for call in waiting] == [v.UpkeepOver()] * len(workers)


def test_what_hangs_is_waited_for_once() -> None:
    """A storage that never answers a deletion stops the training for as long at every save that blocks."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while not isinstance(coordinator.pending[0], fx.DeleteFolder):
        coordinator.carry_out()
        coordinator.deliver()
    (first, *_) = awaited(coordinator, workers)
    status = coordinator.call(ev.Ask).answer
    assert isinstance(status, v.Status)
    (folder,) = cluster.storage.state.retired
    assert status.reason == f"deleting 1 folder(s), such as {folder}"
    cluster.beat(workers, coordinator, AWAITED_FOR - 1.0)
    assert first.answer is None
    cluster.beat(workers, coordinator, 2.0)
    assert first.answer == v.UpkeepOver()
    assert awaited(coordinator, workers)[0].answer == v.UpkeepOver()


def test_nothing_goes_that_stock_readers_still_find() -> None:
    """A `checkpoint` file that cannot be written goes on naming a checkpoint that retention has deleted."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    for ordinal in (2, 3):
        vote(coordinator, workers, ordinal)
        report(coordinator, workers, ordinal)
        coordinator.run({fx.WriteStateFile: "bad"})
    assert [record.step for record in cluster.storage.state.checkpoints] == [10, 20, 30]
    assert len(cluster.storage.folders) == 3
    cluster.save(coordinator, workers, 4)
    assert [record.step for record in cluster.storage.state.checkpoints] == [40]
    assert len(cluster.storage.folders) == 1


@pytest.mark.parametrize("retired", [False, True])
def test_nothing_goes_while_the_world_goes_back(retired: bool) -> None:
    """A job goes back to its oldest checkpoint right after a save, and finds it half deleted."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(2))
    for ordinal in (1, 2):
        cluster.save(coordinator, workers, ordinal)
    oldest = cluster.storage.state.checkpoints[0]
    vote(coordinator, workers, 3)
    report(coordinator, workers, 3)
    last = fx.Append if retired else fx.ReadBackCheckpoint
    while not (
        isinstance(effect := coordinator.pending[0], last)
        and (not isinstance(effect, fx.Append) or effect.entry.kind == "retire")
    ):
        coordinator.carry_out()
        coordinator.deliver()
    held = coordinator.pending.pop()
    calls = [coordinator.call(worker.restore(1, target="10")) for worker in workers]
    coordinator.run()
    assert [call.answer for call in calls] == [v.Read(oldest)] * 2
    coordinator.pending.append(held)
    coordinator.run()
    assert oldest.folder in cluster.storage.folders
    cluster.restore(coordinator, workers, 1, "10")
    cluster.save(coordinator, workers, 4)
    steps = [record.step for record in cluster.storage.state.checkpoints]
    assert steps == ([30, 40] if retired else [10, 40])
    assert cluster.storage.folders == {record.folder for record in cluster.storage.state.checkpoints}


def test_retention_goes_on_after_a_restore() -> None:
    """A job that restores after each save, as one that evaluates does, and whose storage fills up."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(2))
    for ordinal in (1, 2):
        cluster.save(coordinator, workers, ordinal)
    vote(coordinator, workers, 3)
    report(coordinator, workers, 3)
    while not isinstance(coordinator.pending[0], fx.ReadBackCheckpoint):
        coordinator.carry_out()
        coordinator.deliver()
    held = coordinator.pending.pop()
    for worker in workers:
        coordinator.call(worker.restore(1, target=""))
    coordinator.run()
    coordinator.pending.append(held)
    coordinator.run()
    assert len(cluster.storage.folders) == 3
    cluster.restore(coordinator, workers, 1, "")
    assert [record.step for record in cluster.storage.state.checkpoints] == [20, 30]
    assert cluster.storage.folders == {record.folder for record in cluster.storage.state.checkpoints}


def test_without_a_policy_nothing_is_read_back() -> None:
    """Every checkpoint read twice for nothing."""
    cluster, coordinator, workers = start()
    for ordinal in (1, 2, 3):
        vote(coordinator, workers, ordinal)
        report(coordinator, workers, ordinal)
        while coordinator.pending:
            assert not isinstance(coordinator.pending[0], fx.ReadBackCheckpoint)
            coordinator.carry_out()
            coordinator.deliver()
    assert len(cluster.storage.state.checkpoints) == 3


def test_who_is_left_behind_finishes_the_deleting() -> None:
    """Folders that nobody deletes, because the coordinator was killed between the entry and the deletion."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while not any(isinstance(effect, fx.DeleteFolder) for effect in coordinator.pending):
        coordinator.carry_out()
        coordinator.deliver()
    assert len(cluster.storage.folders) == 2
    coordinator = restart(cluster, workers)
    assert cluster.save(coordinator, workers, 3).committed
    assert cluster.storage.folders == {cluster.storage.state.checkpoints[-1].folder}


def test_a_deletion_that_failed_is_tried_again() -> None:
    """A folder that is there for ever because the storage was away for a moment."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    coordinator.run({fx.DeleteFolder: "bad"})
    assert len(cluster.storage.state.retired) == 1
    cluster.save(coordinator, workers, 3)
    assert len(cluster.storage.folders) == 1


def test_a_policy_ends_with_its_world() -> None:
    """A job that keeps all, and the one before it deletes its checkpoints after it has ended."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
    cluster.save(coordinator, workers, 1)
    vote(coordinator, workers, 2)
    report(coordinator, workers, 2)
    while not any(isinstance(effect, fx.ReadBackCheckpoint) for effect in coordinator.pending):
        coordinator.carry_out()
        coordinator.deliver()
    read_back = coordinator.pending.pop()
    second = cluster.world(coordinator, 2, workers)
    vote(coordinator, second, 1)
    coordinator.pending.append(read_back)
    coordinator.run()
    assert cluster.storage.kinds[-1] == "lead"
    assert len(cluster.storage.state.checkpoints) == 2


def test_a_clock_that_was_wrong_is_not_believed_for_ever() -> None:
    """A clock that was a year ahead for a moment: all later commits have its time, for the coordinator's life."""
    cluster, coordinator, workers = start(1)
    coordinator.machine.handle(ev.Tick(), v.Now(0.0, WALL + 1e9))
    cluster._time = 100.0
    cluster.save(coordinator, workers, 1)
    cluster._time = 99.0
    cluster.save(coordinator, workers, 2)
    times = [record.time for record in cluster.storage.state.checkpoints]
    assert times == [WALL + 100.0, WALL + 99.0]


def test_what_was_preserved_in_the_future_does_not_count() -> None:
    """A host whose clock was wrong once, and no checkpoint is preserved for years."""
    future = LogState("run", checkpoints=(checkpoint(1),), last_preserved=WALL + 1e9)
    cluster, coordinator, workers = start(1, future)
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.state.last_preserved == WALL


# -- the end --


def test_a_state_file_that_is_never_written_holds_nobody_up() -> None:
    """Storage hangs on a derived file: a checkpoint that stands is not told of, and every later save is refused."""
    cluster, coordinator, workers = start()
    phases(cluster, coordinator, workers, Phase.PUBLISHING)
    coordinator.pending.clear()
    cluster.beat(workers, coordinator, 600.0)
    calls = report(coordinator, workers, 2)
    assert {outcome(call) for call in calls} == {v.Outcome(2, True)}
    assert cluster.save(coordinator, workers, 3).committed


def test_a_save_after_one_that_is_not_settled_is_told_why() -> None:
    """Storage hangs at the commit entry, and the next save blames the training program."""
    cluster, coordinator, workers = start()
    phases(cluster, coordinator, workers, Phase.COMMITTING)
    cluster.beat(workers, coordinator, 640.0)
    call = coordinator.call(workers[0].vote(3))
    assert isinstance(call.answer, v.Failure)
    assert call.answer.kind == "save_failed"
    assert "save 2 is not known yet: creating the commit entry" in call.answer.message
    coordinator.run()
    assert cluster.save(coordinator, workers, 3).committed


def test_busy() -> None:
    """A coordinator that ends in good order in the middle of a commit, or never."""
    cluster, coordinator, workers = start()
    keep(workers, v.RetentionPolicy(1))
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
    """A coordinator that is killed at the one moment that loses a save or a checkpoint."""
    cluster, coordinator, workers = start()
    phases(cluster, coordinator, workers, until)
    stood = "commit" in cluster.storage.kinds[3:]
    coordinator = restart(cluster, workers)
    if until is Phase.VOTING:
        assert cluster.save(coordinator, workers, 2).committed
    else:
        calls = report(coordinator, workers, 2)
        coordinator.run()
        assert {outcome(call) for call in calls} == {v.Outcome(2, True)}
    assert stood == (until is Phase.PUBLISHING)
    assert [record.step for record in cluster.storage.state.checkpoints] == [10, 20]
    assert cluster.save(coordinator, workers, 3).committed
    cluster.check()


def test_a_commit_record() -> None:
    """A log that does not vouch for what its manifest says."""
    cluster, coordinator, workers = start(1)
    cluster.save(coordinator, workers, 1)
    (record,) = cluster.storage.state.checkpoints
    assert isinstance(record, CheckpointRecord)
    assert record.manifest_crc32c
    assert not record.stock
