"""How each kind of entry changes the state of a run."""

from __future__ import annotations

from dataclasses import replace

from holdfast_storage.cluster import Task
from holdfast_storage.records import (
    MOST_METRICS,
    REIGNS,
    CheckpointRecord,
    Generation,
    Leader,
    Lease,
    LogState,
    Past,
    Pin,
    Tag,
    newest_of,
    rollback_of,
)


def ours(number: int) -> CheckpointRecord:
    return CheckpointRecord(f"ckpt-{number}.00000000.{number}/ckpt-{number}", number, float(number), manifest_crc32c=1)


def stock(number: int) -> CheckpointRecord:
    return CheckpointRecord(f"ckpt-{number}", number, float(number), stock=True)


def test_tasks_read_back() -> None:
    """A task parses from its name. Guards against a task whose type contains the separator."""
    for task in (Task("worker", 0), Task("my-job", 12)):
        assert Task.parse(str(task)) == task


def test_tasks_are_ordered_by_number() -> None:
    """Tasks are sorted by number. Guards against worker-10 before worker-2, and parts that are handed out in another
    order than TF_CONFIG's."""
    assert sorted([Task("worker", 10), Task("worker", 2), Task("chief", 0)])[-1] == Task("worker", 10)


def test_folders() -> None:
    """The folder of a stock checkpoint is empty. Guards against the run directory itself as a checkpoint's folder, to
    be deleted with it."""
    assert ours(1).folder == "ckpt-1.00000000.1"
    assert stock(1).folder == ""


def test_the_newest_is_the_last_committed() -> None:
    """The newest is the last one committed. Guards against the largest step, taken for the newest after a rollback."""
    state = LogState("run").commit(ours(5)).commit(ours(3))
    assert state.restorable[-1] == ours(3)
    assert state.find(ours(5).prefix) == ours(5)
    assert state.find("other") is None


def test_leading_keeps_the_checkpoints() -> None:
    """Taking the lead keeps the checkpoints. Guards against a takeover that forgets what was committed."""
    leader = Leader("id", "host:1", "host")
    generation = Generation("00000001", ((Task("worker", 0), "a"),))
    state = LogState("run").commit(ours(1)).lead(leader, generation)
    assert (state.leader, state.generation, state.checkpoints) == (leader, generation, (ours(1),))


def test_a_lead_by_another_generation_ends_the_reign() -> None:
    """A generation never leads again after another one has led. Guards against a generation that comes back, and
    shutting out one whose coordinator was restarted."""
    leader, members = Leader("id", "host:1", "host"), ((Task("worker", 0), "a"),)
    state = LogState("run").lead(leader, Generation("00000001", members))
    assert state.lead(leader, Generation("00000001", members)).superseded == ()
    state = state.lead(leader, Generation("00000002", members))
    assert state.superseded == ("00000001",)
    for number in range(3, 3 + 2 * REIGNS):
        state = state.lead(leader, Generation(f"{number:08x}", members))
    assert len(state.superseded) == REIGNS, "entries that grow for ever"
    assert state.superseded[-1] == f"{1 + 2 * REIGNS:08x}"


def test_how_long_generations_have_saved() -> None:
    """The log counts the generations that came before and how long they saved, whatever becomes of their checkpoints.
    Guards against an advice that counts a restart of the coordinator as a failure, or the time between two jobs."""
    leader, other = Leader("id", "host:1", "host"), Leader("other", "host:2", "host")
    state = LogState("run").commit(ours(1)).lead(leader, Generation("00000001", ()), 100.0)
    assert state.led_for == 0.0, "what is older does not count"
    state = state.commit(replace(ours(2), time=150.0)).commit(replace(ours(3), time=400.0))
    assert state.lead(other, Generation("00000001", ()), 500.0) == replace(state, leader=other)
    state = state.lead(leader, Generation("00000002", ()), 1000.0)
    assert (state.past, state.led_for) == (Past(1, 300.0), 0.0)
    state = state.lead(leader, Generation("00000003", ()), 900.0)  # it has committed nothing, and the clock went back
    assert state.past == Past(2, 300.0)
    state = state.commit(replace(ours(4), time=910.0)).retire([ours(3).prefix], (), None)
    assert state.led_for == 10.0


def test_what_is_discarded_is_never_live() -> None:
    """Discarding never touches a live or retired folder. Guards against a live checkpoint that is deleted as a
    leftover, and a folder that is to be deleted twice."""
    state = LogState("run", checkpoints=(ours(1),), retired=("ckpt-7.00000000.7",))
    assert state.discard((ours(1).folder, "ckpt-7.00000000.7")) == state
    assert state.discard(("ckpt-8.00000000.8",)).retired == ("ckpt-7.00000000.7", "ckpt-8.00000000.8")
    assert state.discard(("ckpt-8.00000000.8",)).checkpoints == state.checkpoints


def test_retired_checkpoints_are_to_be_deleted() -> None:
    """A retired checkpoint's folder is to be deleted. Guards against a folder that is neither live nor to be deleted,
    and stays for ever."""
    state = LogState("run").commit(ours(1)).commit(ours(2)).commit(ours(3))
    state = state.retire((ours(1).prefix,), (ours(2).prefix,), 2.0)
    assert [c.step for c in state.checkpoints] == [2, 3]
    assert [c.preserved for c in state.checkpoints] == [True, False]
    assert state.retired == (ours(1).folder,)
    assert state.last_preserved == 2.0
    state = state.retire((ours(3).prefix,), (), 2.0)
    assert state.retired == (ours(1).folder, ours(3).folder)
    assert state.forget((ours(1).folder,)).retired == (ours(3).folder,)


def test_stock_checkpoints_are_never_deleted() -> None:
    """A stock checkpoint is never deleted. Guards against retention that deletes the run directory, or a folder of
    TensorFlow's."""
    nested = CheckpointRecord("old/ckpt-1", 1, 1.0, stock=True)
    state = LogState("run", checkpoints=(nested, stock(2), ours(3))).retire((nested.prefix, stock(2).prefix), (), None)
    assert state.checkpoints == (ours(3),)
    assert state.retired == ()


def test_condemned_checkpoints_are_live_but_not_restorable() -> None:
    """A condemned checkpoint is live but not restorable. Guards against a damaged one that is restored again, and a
    mark that outlives its checkpoint."""
    state = LogState("run", checkpoints=(ours(1), ours(2))).condemn((ours(2).prefix, ours(3).prefix))
    assert state.damaged == (ours(2).prefix,), "and nothing that is not live"
    assert state.condemn((ours(2).prefix,)) == state
    assert state.restorable == (ours(1),)
    assert state.find(ours(2).prefix) == ours(2)
    assert state.retire((ours(2).prefix,), (), None).damaged == ()


def test_a_rollback_makes_its_checkpoint_the_newest() -> None:
    """A rollback makes its checkpoint the newest. Guards against a crash before the next commit, after which the
    abandoned branch is restored."""
    state = LogState("run").commit(ours(1)).commit(ours(2)).commit(ours(3)).restored(ours(2).prefix)
    assert [c.step for c in state.checkpoints] == [1, 3, 2]
    assert state.restored("other") == state


def test_a_pin_lasts_until_it_is_taken_away() -> None:
    """A pin is there once, with its last reason, and goes with its checkpoint. Guards against a second pin that
    outlives the first, and one on what is not there, which nobody reads."""
    state = LogState("run", checkpoints=(ours(1), ours(2)))
    pinned = (
        state.pin(Pin(ours(1).prefix, 1.0, "a")).pin(Pin(ours(2).prefix, 1.0, "")).pin(Pin(ours(1).prefix, 2.0, "b"))
    )
    assert [(pin.prefix, pin.reason) for pin in pinned.pinned] == [(ours(2).prefix, ""), (ours(1).prefix, "b")]
    assert pinned.unpin(ours(1).prefix).unpin(ours(2).prefix) == state
    assert pinned.retire((ours(1).prefix,), (), None).pinned == (Pin(ours(2).prefix, 1.0, ""),)


def test_a_tag_names_one_checkpoint() -> None:
    """A name is there once, on what it was given last, and goes when it is taken away or with its checkpoint, also if
    that moves. Guards against two that are in production, and a name of what is not there, which nobody reads."""
    state = LogState("run", checkpoints=(ours(1), ours(2)))
    one, two = Tag("production", ours(1).prefix, 1.0), Tag("production", ours(2).prefix, 2.0)
    best = Tag("best", ours(2).prefix, 3.0)
    tagged = state.tag(one).tag(best).tag(two)
    assert (tagged.tags, tagged.tagged("production"), tagged.tagged("none")) == ((best, two), ours(2), None)
    assert tagged.kept == {ours(2).prefix}
    assert tagged.untag("production").untag("best") == state
    assert tagged.untag("none") == tagged
    assert state.tag(one).tag(best).retire((ours(1).prefix,), (), None).tags == (best,)
    assert tagged.move("s3://bucket/run").tags == ()


def test_a_reader_has_one_lease() -> None:
    """A reader's lease replaces its earlier one, and no other's. Guards against leases of a reader that add up, and one
    that ends another reader's."""
    state = LogState("run", checkpoints=(ours(1), ours(2)))
    first, second = Lease(ours(1).prefix, "a", 60.0, 1), Lease(ours(1).prefix, "b", 60.0, 2)
    third = Lease(ours(2).prefix, "a", 60.0, 3)
    leased = state.lease(first).lease(second).lease(third)
    assert leased.leases == (second, third)
    assert leased.release("a").leases == (second,)
    assert leased.expire([second]).leases == (third,)
    assert leased.expire([first]) == leased
    assert leased.retire((ours(1).prefix,), (), None).leases == (third,)


def test_metrics_of_many_jobs() -> None:
    """Those that were found last stay, and no more than an entry can hold. Guards against a run whose retention stops
    for ever, since ever new jobs have asked for other metrics."""
    state = LogState("run", checkpoints=(ours(1),))
    for job in range(10):
        found = tuple((f"metric-{job}-{each}", float(each)) for each in range(16))
        state = state.measure({ours(1).prefix: (*found, ("loss", float(job)))})
        metrics = dict(state.checkpoints[0].metrics)
        assert metrics["loss"] == job
        assert dict(found).items() <= metrics.items()
        assert len(state.checkpoints[0].metrics) == len(metrics) <= MOST_METRICS


def chain(*numbers: int) -> list[CheckpointRecord]:
    """A full checkpoint, and a delta on each before it."""
    found = [ours(numbers[0])]
    for number in numbers[1:]:
        found.append(replace(ours(number), base=found[-1].prefix))
    return found


def test_what_needs_a_damaged_one_is_not_restorable() -> None:
    """A mark on one checkpoint takes with it all that needs it, and nothing else. Guards against a delta that is
    restored onto what is damaged, and a good full checkpoint that is lost with it."""
    full, one, two, last = *chain(1, 2, 3), ours(4)
    state = LogState("run", checkpoints=(full, one, two, last))
    assert state.restorable == state.checkpoints
    assert state.condemn([one.prefix]).restorable == (full, last)
    assert state.condemn([full.prefix]).restorable == (last,)
    assert state.condemn([two.prefix]).restorable == (full, one, last)
    assert state.chain(two) == (full, one, two)
    assert state.stock_readable == (full, last)


def test_going_back_to_a_delta_takes_what_it_needs_along() -> None:
    """After a rollback to a delta its chain comes last, in order, and all else keeps its place. Guards against stock
    readers that are led to a branch that was given up."""
    (full, one, two), other = chain(1, 2, 3), ours(4)
    state = LogState("run", checkpoints=(full, one, two, other))
    assert state.restored(one.prefix).checkpoints == (two, other, full, one)
    assert state.restored(one.prefix).stock_readable[-1] == full
    assert state.restored("gone") == state


LEADER, GENERATION = Leader("id", "host:1", "host"), Generation("00000000", ((Task("worker", 0), "a"),))


def test_somebody_rolls_a_run_back() -> None:
    """The checkpoint is the newest, nothing is gone, and who led never does again. Guards against a living job that
    goes on from what was given up, and a branch that is lost although nobody has removed it."""
    state = LogState("run", checkpoints=(ours(1), ours(2), ours(3))).lead(LEADER, GENERATION, 0.0)
    after = state.rollback(ours(2).prefix, 7)
    assert after.checkpoints == (ours(1), ours(3), ours(2))
    assert (after.leader, after.generation, after.led) == (None, None, None)
    assert (after.superseded, after.past, after.rolled_back) == (("00000000",), Past(1, 3.0), 7)
    assert after.rollback(ours(1).prefix, 8).superseded == ("00000000",), "nobody has led since"
    later = after.lead(LEADER, Generation("00000001", ()), 9.0)
    assert (later.superseded, later.past, later.rolled_back) == (after.superseded, after.past, 7)


def test_a_rollback_shows_in_the_fork_point() -> None:
    """Whatever is newest and whoever leads afterwards, a fork point before a rollback differs from all after it. Guards
    against a world that goes on from what was given up, because others have come to lead since."""
    state = LogState("run", checkpoints=(ours(1), ours(2)))
    assert (state.fork_point, rollback_of(state.fork_point)) == (f"/{ours(2).prefix}", "")
    back = state.rollback(ours(1).prefix, 3)
    for later in (back, back.lead(LEADER, GENERATION), back.restored(ours(2).prefix), back.commit(ours(4))):
        assert rollback_of(later.fork_point) == "3"
        assert newest_of(later.fork_point) == later.checkpoints[-1].prefix
    assert back.rollback(ours(2).prefix, 4).rollback(ours(1).prefix, 5).fork_point != back.fork_point


def test_somebody_removes_a_checkpoint() -> None:
    """It is to be deleted, and all else stays as it is. Guards against a removal that ends a job, or loses a rule's
    last time."""
    state = LogState("run", checkpoints=(ours(1), ours(2)), last_preserved=5.0).lead(LEADER, GENERATION)
    assert state.remove(ours(1).prefix) == replace(state, checkpoints=(ours(2),), retired=(ours(1).folder,))


def test_what_somebody_may_not_remove() -> None:
    """What is pinned, read, needed, newest or not Holdfast's stays, and each says why. Guards against a command that
    takes away what was promised, or what a job needs to go on."""
    full, one, two, last = *chain(1, 2, 3), ours(4)
    state = LogState("run", checkpoints=(stock(9), full, one, two, last))
    assert [bool(state.keeps(each)) for each in state.checkpoints] == [True, True, True, False, True]
    assert "TensorFlow" in state.keeps(stock(9))
    assert "needs" in state.keeps(one)
    assert "newest" in state.keeps(last)
    assert "pinned" in state.pin(Pin(two.prefix, 1.0, "")).keeps(two)
    assert "tagged best" in state.tag(Tag("best", two.prefix, 1.0)).keeps(two)
    assert "read" in state.lease(Lease(two.prefix, "r", 1.0, 1)).keeps(two)
    assert "newest" in state.condemn([last.prefix]).keeps(two), "what a restore would take"
    assert "newest" in state.condemn([last.prefix]).keeps(last)
    assert "newest" in replace(state, checkpoints=(*state.checkpoints, stock(10))).keeps(last), "of Holdfast's"
    leads = replace(state, checkpoints=(ours(1), ours(4), ours(3))).lead(LEADER, GENERATION)
    assert "job that leads" in leads.keeps(ours(4)), "its coordinator counts its saves by it"


def test_a_run_that_was_moved_is_closed() -> None:
    """Nothing of Holdfast's is live, and nobody leads. Guards against a job that goes on where half a run is, and
    against TensorFlow's files, which nobody has moved."""
    state = LogState("run", checkpoints=(stock(9), ours(1), ours(2)), pinned=(Pin(ours(1).prefix, 1.0, ""),))
    moved = state.lead(LEADER, GENERATION).move("s3://bucket/run")
    assert (moved.checkpoints, moved.retired) == ((stock(9),), (ours(1).folder, ours(2).folder))
    assert (moved.generation, moved.superseded, moved.pinned) == (None, ("00000000",), ())
    assert "s3://bucket/run" in moved.closed
    assert not state.closed
