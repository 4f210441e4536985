"""What a worker finds damaged: read once more, marked, left out of TensorFlow's file, and removed in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.rules import Newest
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, LogState
from support.cluster import Call, Cluster, Coordinator, Fate, Worker, checkpoint

SECOND_READER = fx.ReadBackCheckpoint


def start(saves: int = 3) -> tuple[Cluster, list[CheckpointRecord]]:
    """A run whose job has ended, and its checkpoints."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    for ordinal in range(1, saves + 1):
        cluster.save(coordinator, workers, ordinal)
    coordinator.alive = False
    return cluster, list(cluster.storage.state.checkpoints)


def restart(cluster: Cluster, *damaged: CheckpointRecord) -> tuple[Coordinator, list[Worker]]:
    """The next job, which has restored what is good."""
    cluster.storage.damaged |= {record.prefix for record in damaged}
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    restore(cluster, coordinator, workers)
    return coordinator, workers


def restore(cluster: Cluster, coordinator: Coordinator, workers: list[Worker]) -> v.Apply:
    answers = [coordinator.ask(worker.restore(1)) for worker in workers]
    while isinstance(read := answers[0], v.Read):
        verdict = "damaged" if read.record.prefix in cluster.storage.damaged else "good"
        answers = [call.answer for call in say(coordinator, workers, read.record, verdict, verdict)]
    assert isinstance(read, v.Apply), read
    for worker in workers:
        worker.applied(read)
    coordinator.run()
    return read


def say(
    coordinator: Coordinator,
    workers: list[Worker],
    record: CheckpointRecord,
    *verdicts: str,
    second_reader: Fate = "good",
) -> list[Call]:
    """What they say of a candidate, and what they are answered once the coordinator has read it, too."""
    calls = [
        coordinator.call(worker.restore(1, record.prefix, verdict, reason="a bit"))
        for worker, verdict in zip(workers, verdicts, strict=True)
    ]
    coordinator.run({SECOND_READER: second_reader})
    return calls


def save_until(coordinator: Coordinator, workers: list[Worker], reached: Callable[[fx.Effect], bool]) -> None:
    """Have workers that keep one checkpoint make their first save, until such an effect waits to be carried out."""
    for worker in workers:
        worker.terms = {"retention": (Newest(1),)}
        coordinator.call(worker.vote(1))
    coordinator.run()
    for worker in workers:
        coordinator.call(worker.report(1))
    while not any(map(reached, coordinator.pending)):
        coordinator.carry_out()
        coordinator.deliver()


def named(effect: fx.WriteStateFile | None) -> str:
    """What stock TensorFlow takes for the newest."""
    assert effect is not None
    return effect.state.restorable[-1].prefix


def asked(cluster: Cluster) -> tuple[Coordinator, list[Worker]]:
    """A job that has been told to read the newest."""
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    for worker in workers:
        coordinator.ask(worker.restore(1))
    return coordinator, workers


@pytest.mark.parametrize("verdict", ["damaged", "absent"])
def test_nobody_goes_back_before_the_second_reader_says_so(verdict: str) -> None:
    """Nobody goes back before the second reader agrees. Guards against one worker's bad memory or late mount that makes
    the whole job abandon a commit."""
    cluster, (_, good, bad) = start()
    coordinator, workers = asked(cluster)
    calls = [
        coordinator.call(worker.restore(1, bad.prefix, said, reason="a bit"))
        for worker, said in zip(workers, [verdict, "good"], strict=True)
    ]
    since = coordinator.machine._run.now.monotonic
    assert coordinator.pending == [SECOND_READER(bad, since)]
    assert [call.answer for call in calls] == [None, None]
    status = coordinator.status()
    assert status.reason == f"waiting for the coordinator to read {bad.prefix}, which worker-0 cannot restore"
    assert status.run.HasField("activity")
    assert not status.run.activity.waiting_for
    cluster.storage.damaged.add(bad.prefix)
    coordinator.run()
    assert [call.answer for call in calls] == [v.Read(good)] * 2
    assert coordinator.machine._run.condemned == {bad.prefix}


def test_the_second_reader_is_asked_once() -> None:
    """The second reader reads once. Guards against a hundred workers that make it read a hundred gigabytes a hundred
    times."""
    cluster, (_, _, bad) = start()
    coordinator, workers = asked(cluster)
    for worker in (*workers, workers[0]):
        coordinator.call(worker.restore(1, bad.prefix, "damaged", reason="a bit"))
    assert len(coordinator.pending) == 1


def test_the_log_is_read_once_more_before_anybody_goes_back() -> None:
    """The log is read once more before anybody goes back. Guards against restoring an older checkpoint, or none,
    because a running job's retention has removed the newest."""
    cluster, (_, _, gone) = start()
    running = cluster.coordinator()
    job = cluster.world(running, 2)
    restore(cluster, running, job)
    coordinator, workers = asked(cluster)
    for worker in job:
        worker.terms = {"retention": (Newest(1),)}
    cluster.save(running, job, 1)
    newest = cluster.storage.state.checkpoints[-1]
    assert cluster.storage.state.find(gone.prefix) is None
    calls = say(coordinator, workers, gone, "absent", "absent")
    assert [call.answer for call in calls] == [v.Read(newest)] * 2
    # This coordinator knows by now: it does not even read what is not there.
    calls = say(coordinator, workers, newest, "good", "good")
    assert all(isinstance(call.answer, v.Apply) and not call.answer.passed_over for call in calls)
    assert coordinator.machine._run.condemned <= {gone.prefix}


def test_who_asks_is_answered_although_his_presence_is_gone() -> None:
    """A restore call is answered when the log was read, even if all connections of its world are gone by then. Guards
    against a call that waits until its deadline for a world that nobody keeps any more."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    leading = cluster.world(coordinator, 2)
    for ordinal in (1, 2):
        cluster.save(coordinator, leading, ordinal)
    workers = cluster.world(coordinator, 2)
    calls = [coordinator.call(worker.restore(1)) for worker in workers]
    coordinator.run()
    prefix = calls[0].answer.record.prefix
    cluster.storage.damaged.add(prefix)
    calls = [coordinator.call(worker.restore(1, prefix, "damaged", reason="bad bytes")) for worker in workers]
    coordinator.carry_out(0)
    coordinator.deliver(0)
    kinds = [type(effect).__name__ for effect in coordinator.pending]
    late = coordinator.pending.pop(kinds.index("ReadLog"))
    coordinator.run()
    for worker in workers:
        coordinator.tell(worker.detached())
    for _ in range(25):
        cluster.beat(leading, coordinator, 0.5)
    coordinator.pending.append(late)
    coordinator.run()
    assert [type(call.answer).__name__ for call in calls] == ["Read", "Read"]


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_a_second_reader_that_is_late(fate: Fate) -> None:
    """A second reader that is late ends the restore with an error. Guards against nobody ever being told, and going
    back without its verdict."""
    cluster, (_, _, bad) = start()
    coordinator, workers = asked(cluster)
    calls = [coordinator.call(worker.restore(1, bad.prefix, "damaged", reason="a bit")) for worker in workers]
    cluster.tick(601.0)
    coordinator.tell(ev.Tick())
    for call in calls:
        assert isinstance(call.answer, Failure)
        assert call.answer.kind == Kind.STORAGE
        assert "has not read it in time to confirm that" in call.answer.message
    coordinator.run({SECOND_READER: fate})  # and what it says then is for the next restore


def test_what_two_readers_found_damaged_is_marked_by_the_next_save() -> None:
    """What two readers found damaged is marked by the next save. Guards against restarts that read the damaged
    checkpoint again and list it as restorable."""
    cluster, (_, good, bad) = start()
    entries = len(cluster.storage.entries)
    coordinator, workers = restart(cluster, bad)
    assert len(cluster.storage.entries) == entries, "restoring changes nothing in the log"
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds[entries:] == ["lead", "damaged", "commit"], "good is the newest by that: no rollback"
    damaged = cluster.storage.entries[entries + 1]
    assert (damaged.note, damaged.state.damaged) == (bad.prefix, (bad.prefix,))
    assert damaged.state.restorable[-1] == good
    assert bad in damaged.state.checkpoints, "kept for inspection"
    cluster.save(coordinator, workers, 2)
    assert cluster.storage.kinds[-1] == "commit", "once"


def test_stock_readers_find_the_good_one_before_any_save() -> None:
    """Stock readers find the good checkpoint before any save. Guards against `tf.train.latest_checkpoint` naming what
    nobody can restore, for a whole epoch."""
    cluster, (_, good, bad) = start()
    assert named(cluster.storage.state_file) == bad.prefix
    coordinator, workers = restart(cluster, bad)
    assert named(cluster.storage.state_file) == good.prefix
    effects = []
    for worker in workers:
        coordinator.call(worker.vote(1))
    while coordinator.pending:
        coordinator.carry_out()
        effects += coordinator.deliver()
    assert len([e for e in effects if isinstance(e, fx.WriteStateFile)]) == 2, "with the lead, and with the mark"
    assert {named(e) for e in effects if isinstance(e, fx.WriteStateFile)} == {good.prefix}, "not for a moment"


def test_several_are_marked_in_one_entry() -> None:
    """Several damaged checkpoints are marked in one entry. Guards against an entry for each, of which a crash leaves
    out the last."""
    cluster, (good, older, newer) = start()
    coordinator, workers = restart(cluster, older, newer)
    assert named(cluster.storage.state_file) == good.prefix
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds[-3:] == ["lead", "damaged", "commit"]
    assert cluster.storage.state.damaged == (older.prefix, newer.prefix)


@pytest.mark.parametrize("said", ["damaged", "absent"])
@pytest.mark.parametrize("second", ["good", "unreadable"])
def test_one_reader_takes_nothing_from_the_others(said: str, second: str) -> None:
    """If the second reader disagrees, nobody goes back. Guards against one bad memory, late mount or missing credential
    that makes the next save abandon a good checkpoint."""
    cluster, (_, _, good) = start()
    kinds = cluster.storage.kinds
    coordinator, workers = asked(cluster)
    calls = say(coordinator, workers, good, "good", said, second_reader="bad" if second == "unreadable" else "good")
    for call in calls:
        assert isinstance(call.answer, Failure)
        assert (call.answer.kind, call.answer.tasks) == (Kind.STORAGE, (workers[1].task,))
        assert f"{good.prefix} " in call.answer.message
        assert "worker-1: a bit" in call.answer.message
        assert "nothing was restored anywhere" in call.answer.message.lower()
    assert f"cannot restore {good.prefix} and this coordinator finds it {second}" in coordinator.remarks[-1]
    assert coordinator.machine._run.condemned == set()
    assert cluster.storage.kinds == kinds
    assert named(cluster.storage.state_file) == good.prefix
    # Started again, with that host in order, all go on from there.
    applied = cluster.restore(coordinator, workers, 2)
    assert applied.record == good
    assert cluster.save(coordinator, workers, 1).committed
    assert "restored" not in cluster.storage.kinds


def test_a_worker_that_cannot_read_ends_it_at_once() -> None:
    """A worker that cannot read ends the restore at once. Guards against waiting for a second reader that
    cannot help."""
    cluster, (_, _, newest) = start()
    coordinator, workers = asked(cluster)
    answers = []
    for worker, verdict in zip(workers, ["damaged", "unreadable"], strict=True):
        answers.append(coordinator.call(worker.restore(1, newest.prefix, verdict, reason="no")))
    for call in answers:
        assert isinstance(call.answer, Failure)
        assert call.answer.tasks == (workers[1].task,)


def test_the_mark_is_made_with_the_commit_at_the_latest() -> None:
    """The mark is made with the commit at the latest. Guards against a refused entry after which the damaged one is the
    newest again."""
    cluster, (_, good, bad) = start()
    coordinator, workers = restart(cluster, bad)
    for worker in workers:
        coordinator.call(worker.vote(1))
    while cluster.storage.kinds[-1] != "lead":
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.run({fx.Append: "bad"})
    for worker in workers:
        coordinator.call(worker.report(1))
    coordinator.run()
    assert cluster.storage.kinds[-2:] == ["lead", "commit"]
    assert cluster.storage.state.damaged == (bad.prefix,)
    assert cluster.storage.state.restorable[-2] == good


def test_a_mark_that_was_refused_is_tried_again() -> None:
    """A refused mark is tried again. Guards against a mark that is lost with the save that was to carry it."""
    cluster, (_, good, bad) = start()
    coordinator, workers = restart(cluster, bad)
    for worker in workers:
        coordinator.call(worker.vote(1))
    while cluster.storage.kinds[-1] != "lead":
        coordinator.carry_out()
        coordinator.deliver()
    coordinator.run({fx.Append: "bad"})
    coordinator.ask(workers[0].give_up(1))
    for worker in workers:
        coordinator.call(worker.vote(2))
    coordinator.run()
    assert cluster.storage.kinds[-2:] == ["lead", "damaged"]
    assert cluster.storage.state.restorable[-1] == good


def test_a_marked_one_is_not_read_again() -> None:
    """A marked checkpoint is not read again. Guards against a restart that reads all bytes of every damaged
    checkpoint."""
    cluster, (_, good, bad) = start()
    coordinator, workers = restart(cluster, bad)
    for worker in workers:
        coordinator.call(worker.vote(1))
    coordinator.run()
    coordinator.alive = False
    coordinator, workers = restart(cluster)
    assert workers[0].restored == good.prefix
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds[-3:] == ["lead", "retire", "commit"], "only what the save before left behind"


def test_going_further_back_is_a_rollback_too() -> None:
    """Going further back is a rollback, too. Guards against a job that chose an older checkpoint and goes on from the
    newest good one after a crash."""
    cluster, (chosen, _, bad) = start()
    coordinator, workers = restart(cluster, bad)
    cluster.restore(coordinator, workers, 2, target=chosen.prefix)
    for worker in workers:
        coordinator.call(worker.vote(1))
    coordinator.run()
    assert cluster.storage.kinds[-3:] == ["lead", "damaged", "restored"]
    assert cluster.storage.state.restorable[-1] == chosen


def test_a_damaged_one_that_was_chosen_is_marked() -> None:
    """A damaged checkpoint that was chosen is marked. Guards against damage that counts only in the newest."""
    cluster, (bad, _, good) = start()
    cluster.storage.damaged.add(bad.prefix)
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    target = bad.prefix
    for worker in workers:
        coordinator.ask(worker.restore(1, target=target))
    calls = [coordinator.call(worker.restore(1, bad.prefix, "damaged", target)) for worker in workers]
    coordinator.run()
    assert [call.answer.kind for call in calls if isinstance(call.answer, Failure)] == [Kind.CHECKPOINT_DAMAGED] * 2
    cluster.restore(coordinator, workers, 2)
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds[-3:] == ["lead", "damaged", "commit"]
    assert cluster.storage.state.damaged == (bad.prefix,)
    assert good in cluster.storage.state.restorable


def test_what_is_not_of_this_run_is_not_judged() -> None:
    """A checkpoint of another run is not judged. Guards against a mark in this run's log for another run's
    checkpoint."""
    cluster, _ = start()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    path = "/other/ckpt-4"
    for worker in workers:
        coordinator.ask(worker.restore(1, target=path))
    for worker in workers:
        coordinator.call(worker.restore(1, path, "damaged", path))
    assert coordinator.pending == []


def test_where_all_are_damaged_the_error_says_so() -> None:
    """If all are damaged, the error says so. Guards against a start from scratch."""
    cluster, records = start()
    cluster.storage.damaged |= {record.prefix for record in records}
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    with pytest.raises(AssertionError, match="checkpoint_damaged"):
        restore(cluster, coordinator, workers)
    coordinator.run()
    assert len(coordinator.machine._run.condemned) == 3


def test_without_a_log_the_file_is_tensorflows_own() -> None:
    """Without a log the state file is not touched. Guards against a reader that changes a directory of TensorFlow's."""
    cluster = Cluster(LogState("run", checkpoints=(checkpoint(1, stock=True), checkpoint(2, stock=True))))
    coordinator, workers = restart(cluster, checkpoint(2, stock=True))
    assert cluster.storage.state_file is None
    cluster.save(coordinator, workers, 1)
    assert cluster.storage.kinds == ["import", "lead", "damaged", "commit"]
    assert [record.step for record in cluster.storage.state.restorable] == [1, 10]


def test_a_running_job_keeps_its_file() -> None:
    """A running job keeps its state file. Guards against a reader that changes the directory of a job that trains."""
    cluster, _ = start()
    coordinator = cluster.coordinator()
    job = cluster.world(coordinator, 2)
    cluster.restore(coordinator, job)
    cluster.save(coordinator, job, 1)
    before = cluster.storage.state_file
    newest = cluster.storage.state.checkpoints[-1]
    looker, _ = restart(cluster, newest)
    assert newest.prefix in looker.machine._run.condemned
    assert cluster.storage.state_file is before
    # Once the job has ended, it is theirs.
    coordinator.alive = False
    restart(cluster)
    assert named(cluster.storage.state_file) != newest.prefix


def test_one_coordinator_for_the_job_and_who_looks() -> None:
    """Damage that a reader finds is marked by the job. Guards against a job that goes on without the mark although its
    coordinator knows of the damage."""
    cluster, (_, good, bad) = start()
    coordinator = cluster.coordinator()
    job = cluster.world(coordinator, 2)
    cluster.restore(coordinator, job)
    cluster.storage.damaged.add(bad.prefix)
    restore(cluster, coordinator, cluster.world(coordinator, 2))
    cluster.save(coordinator, job, 1)
    assert cluster.storage.kinds[-3:] == ["lead", "damaged", "commit"]
    assert cluster.storage.state.restorable[-2] == good


def test_its_life_under_retention() -> None:
    """A damaged checkpoint goes when retention would have removed it. Guards against one that is gone before anybody
    could look, or there for ever."""
    cluster, (_, _, bad) = start()
    coordinator, workers = restart(cluster, bad)
    for worker in workers:
        worker.terms = {"retention": (Newest(2),)}
    cluster.save(coordinator, workers, 1)
    assert [c.step for c in cluster.storage.state.checkpoints] == [20, 30, 10]
    assert cluster.storage.state.damaged == (bad.prefix,)
    cluster.save(coordinator, workers, 2)
    assert [c.step for c in cluster.storage.state.checkpoints] == [10, 20]
    assert cluster.storage.state.damaged == (), "its name is gone, and so is the mark"
    assert bad.folder not in cluster.storage.folders


def test_a_read_back_that_finds_damage_is_a_first_reader() -> None:
    """A read-back that finds damage is a first reader. Guards against condemning a checkpoint by the coordinator alone,
    or removing what it replaces all the same."""
    cluster, (_, _, newest) = start()
    coordinator, workers = restart(cluster)
    save_until(coordinator, workers, lambda effect: isinstance(effect, fx.ListObjects))
    new = cluster.storage.state.checkpoints[-1]
    cluster.storage.damaged.add(new.prefix)
    coordinator.run()
    assert "could not be read back (it is damaged): nothing that it replaces is removed" in coordinator.remarks[-1]
    cluster.save(coordinator, workers, 2)
    assert cluster.storage.state.damaged == ()
    assert "retire" in cluster.storage.kinds[-2:], "the next one replaces it"
    assert newest.folder not in cluster.storage.folders


def test_one_reading_for_retention_and_for_a_restore() -> None:
    """Retention and a restore share one reading. Guards against two readings at the same time, of which the later
    changes what the earlier has settled."""
    cluster, _ = start()
    coordinator, workers = restart(cluster)
    save_until(coordinator, workers, lambda effect: isinstance(effect, fx.ListObjects))
    new = cluster.storage.state.checkpoints[-1]
    cluster.storage.damaged.add(new.prefix)
    assert isinstance(coordinator.ask(workers[0].restore(2)), v.Read)
    coordinator.call(workers[0].restore(2, new.prefix, "damaged"))
    coordinator.run()
    assert coordinator.machine._run.condemned == {new.prefix}
    assert not coordinator.machine.busy
    entries = len(cluster.storage.entries)
    coordinator.tell(ev.ReadBack(new.prefix, "good"))
    assert coordinator.pending == []
    assert len(cluster.storage.entries) == entries


def test_what_was_condemned_before_is_no_reason_to_skip_the_log() -> None:
    """The log is read even for what was condemned before. Guards against going back past a newer commit while the log
    is read for another worker."""
    old, candidate = replace(checkpoint(1), preserved=True), checkpoint(2)
    cluster = Cluster(LogState("run", checkpoints=(old, candidate)))
    job_coordinator = cluster.coordinator()
    job = cluster.world(job_coordinator, 1)
    cluster.restore(job_coordinator, job)
    for worker in job:
        worker.terms = {"retention": (Newest(1),)}
    coordinator = cluster.coordinator()
    first, second = cluster.world(coordinator, 2)
    assert [coordinator.ask(worker.restore(1)) for worker in (first, second)] == [v.Read(candidate)] * 2
    assert cluster.save(job_coordinator, job, 1).committed
    job_coordinator.run()
    assert cluster.storage.state.find(candidate.prefix) is None
    cluster.storage.damaged.add(candidate.prefix)

    calls = [coordinator.call(first.restore(1, candidate.prefix, "absent", reason="gone"))]
    coordinator.carry_out()
    coordinator.deliver()  # its own reading; that of the log is still to come
    calls.append(coordinator.call(second.restore(1, candidate.prefix, "absent", reason="gone")))
    coordinator.run()
    assert [call.answer for call in calls] == [v.Read(cluster.storage.state.checkpoints[-1])] * 2


def test_what_all_have_restored_is_not_marked() -> None:
    """What all have restored is not marked. Guards against two late mounts that have called it absent, and a mark for
    ever."""
    cluster, (_, _, newest) = start()
    coordinator, workers = asked(cluster)
    coordinator.machine._run.condemned.add(newest.prefix)
    say(coordinator, workers, newest, "good", "good")
    assert coordinator.machine._run.condemned == set()


def test_a_bad_read_back_does_not_stand_in_the_way_of_the_next() -> None:
    """A bad read-back does not block the next one. Guards against a new commit that nobody reads back, so that what it
    replaces stays."""
    cluster, _ = start(1)
    coordinator, workers = restart(cluster)
    for worker in workers:
        worker.terms = {"retention": (Newest(1),)}
    held: list[fx.Effect] = []
    for ordinal in (1, 2):
        for worker in workers:
            coordinator.call(worker.vote(ordinal))
        coordinator.run()
        for worker in workers:
            coordinator.call(worker.report(ordinal))
        while coordinator.pending:
            if isinstance(coordinator.pending[0], fx.ListObjects) and not held:
                held.append(coordinator.pending.pop(0))
                continue
            coordinator.carry_out()
            coordinator.deliver()
    assert isinstance(held[0], fx.ListObjects)
    live = [record.prefix for record in cluster.storage.state.checkpoints]
    assert len(live) == 3
    coordinator.tell(ev.Listed(held[0].record.prefix, "damaged"))
    coordinator.run()
    assert [record.prefix for record in cluster.storage.state.checkpoints] == live[-1:]


def test_what_is_retired_amid_a_restore_is_deleted_after_it() -> None:
    """What is retired during a restore is deleted after it. Guards against a folder that stays until the next save."""
    cluster, _ = start(1)
    coordinator, workers = restart(cluster)
    save_until(coordinator, workers, lambda each: isinstance(each, fx.Append) and each.entry.kind == "retire")
    new = cluster.storage.state.checkpoints[-1]
    calls = [coordinator.call(worker.restore(2)) for worker in workers]
    coordinator.run()
    old = cluster.storage.state.retired[0]
    assert old in cluster.storage.folders, "it may be what they choose"
    assert [call.answer for call in calls] == [v.Read(new)] * 2
    calls = [coordinator.call(worker.restore(2, new.prefix, "good")) for worker in workers]
    coordinator.run()
    assert isinstance(calls[0].answer, v.Apply)
    assert old not in cluster.storage.folders
    assert new.folder in cluster.storage.folders
