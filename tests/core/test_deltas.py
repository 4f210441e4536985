"""Checkpoints that hold what has changed since another one: committed, kept, read back, doubted and gone back to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.retention import sweep
from holdfast_coordinator.core.rules import Every, Newest, Policy
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import prefix
from holdfast_storage.records import CheckpointRecord, LogState, Pin
from support.cluster import WALL, Cluster, Coordinator, Worker

READINGS = (fx.ReadBackCheckpoint, fx.ListObjects)
"""With which a checkpoint begins to be read back, in a world of one and of several."""


def saved(pattern: str, keep: Policy = ()) -> tuple[Cluster, Coordinator, list[Worker]]:
    """A job that has saved: F, a full checkpoint; d, a delta on the one before."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    cluster.restore(coordinator, workers)
    for worker in workers:
        worker.terms = {"retention": keep}
    for ordinal, kind in enumerate(pattern, 1):
        assert save(cluster, coordinator, workers, ordinal, delta=kind == "d").committed
    return cluster, coordinator, workers


def save(
    cluster: Cluster, coordinator: Coordinator, workers: list[Worker], ordinal: int, *, delta: bool
) -> v.SaveOutcome:
    base = cluster.storage.state.checkpoints[-1].prefix if delta else ""
    outcome = cluster.save(coordinator, workers, ordinal, base=base)
    cluster.check()
    return outcome


def live(cluster: Cluster) -> str:
    """The live checkpoints, as `saved` takes them, with their ordinals."""
    return " ".join(
        f"{'d' if record.base else 'F'}{record.folder.rpartition('.')[2]}"
        for record in cluster.storage.state.checkpoints
    )


def read_back(effects: Sequence[fx.Effect]) -> list[str]:
    return [effect.record.prefix for effect in effects if isinstance(effect, READINGS)]


# -- what may be committed --


def test_a_delta_is_committed_on_the_newest() -> None:
    """A delta is a commit whose record has its base, which its index and manifest are made with. Guards against a log
    that takes a part for a whole."""
    cluster, coordinator, workers = saved("F")
    full = cluster.storage.state.checkpoints[-1]
    calls = [coordinator.call(worker.vote(2, base=full.prefix)) for worker in workers]
    calls = [coordinator.call(worker.report(2, base=full.prefix)) for worker in workers]
    finalize = next(effect for effect in coordinator.pending if isinstance(effect, fx.Finalize))
    assert finalize.base == full
    coordinator.run()
    assert {call.answer for call in calls} == {v.SaveOutcome(2, True)}
    assert [record.base for record in cluster.storage.state.checkpoints] == ["", full.prefix]


@pytest.mark.parametrize("which", ["older", "never", "other generation", "itself", "later"])
def test_any_other_base_is_refused(which: str) -> None:
    """A save on anything but the newest checkpoint of its own generation fails, before a byte is written, and the next
    one is committed. Guards against rows that are taken for changes of what they were not compared with."""
    cluster, coordinator, workers = saved("FF")
    assert workers[0].world
    generation = workers[0].world.generation
    base = {
        "older": cluster.storage.state.checkpoints[0].prefix,
        "never": prefix("ckpt", 7, generation, 1),
        "other generation": prefix("ckpt", 20, "0000000a", 2),
        "itself": prefix("ckpt", 30, generation, 3),
        "later": prefix("ckpt", 40, generation, 4),
    }[which]
    before = set(cluster.storage.folders)
    outcome = cluster.save(coordinator, workers, 3, base=base)
    assert outcome.failure
    assert outcome.failure.kind is Kind.SAVE_FAILED
    assert base in outcome.failure.message
    assert cluster.storage.folders == before
    assert cluster.save(coordinator, workers, 4).committed


def test_workers_that_disagree_are_named() -> None:
    """If one worker saves a delta and another does not, both are named and the save fails. Guards against half a
    checkpoint on another base, and a job that ends because one worker has missed a failure."""
    cluster, coordinator, workers = saved("F")
    base = cluster.storage.state.checkpoints[-1].prefix
    calls = [coordinator.call(worker.vote(2, base=base * number)) for number, worker in enumerate(workers)]
    for call in calls:
        assert isinstance(call.answer, v.SaveOutcome)
        assert call.answer.failure
        assert call.answer.failure.kind is Kind.SAVE_FAILED
        assert call.answer.failure.tasks == (workers[0].task, workers[1].task)
    assert save(cluster, coordinator, workers, 3, delta=False).committed


def test_a_condemned_base_makes_a_save_full() -> None:
    """If two readers have found the base bad before the vote, all are told to save everything, and nothing else is
    taken from them. Guards against losing a save, and with it a job, to an older checkpoint."""
    cluster, coordinator, workers = saved("F")
    base = cluster.storage.state.checkpoints[-1].prefix
    coordinator.machine._run.condemned.add(base)
    cluster.storage.damaged.add(base)
    calls = [coordinator.call(worker.vote(2, base=base)) for worker in workers]
    coordinator.run()
    assert [isinstance(call.answer, v.Go) and call.answer.full for call in calls] == [True, True]
    refused = coordinator.call(workers[0].report(2, base=base))
    assert isinstance(refused.answer, Failure)
    calls = [coordinator.call(worker.report(2)) for worker in workers]
    coordinator.run()
    assert {call.answer for call in calls} == {v.SaveOutcome(2, True)}
    assert cluster.storage.state.checkpoints[-1].base == ""


@pytest.mark.parametrize("before", ["report", "commit"])
def test_no_delta_on_what_is_condemned(before: str) -> None:
    """Once two readers have found a checkpoint bad, no delta on it is committed, however late that becomes known.
    Guards against a commit that is told, and that nobody can restore."""
    cluster, coordinator, workers = saved("F")
    base = cluster.storage.state.checkpoints[-1].prefix

    def reached(what: str) -> None:
        if what == before:
            coordinator.machine._run.condemned.add(base)
            cluster.storage.damaged.add(base)

    for worker in workers:
        coordinator.call(worker.vote(2, base=base))
    reached("report")
    calls = [coordinator.call(worker.report(2, base=base)) for worker in workers]
    reached("commit")
    coordinator.run()
    for call in calls:
        assert isinstance(call.answer, v.SaveOutcome)
        assert not call.answer.committed
    assert len(cluster.storage.state.checkpoints) == 1


def test_a_restarted_coordinator_learns_the_base_from_reports() -> None:
    """A coordinator that was restarted in mid-save commits the delta as a delta. Guards against a record without base
    for a bundle that has only what has changed."""
    cluster, coordinator, workers = saved("F")
    base = cluster.storage.state.checkpoints[-1].prefix
    for worker in workers:
        coordinator.call(worker.vote(2, base=base))
    coordinator.run()
    coordinator.alive = False
    successor = cluster.coordinator()
    for worker in workers:
        successor.call(worker.rejoin())
    successor.run()
    for worker in workers:
        successor.tell(worker.attached())
    calls = [successor.call(worker.report(2, base=base)) for worker in workers]
    successor.run()
    assert {call.answer for call in calls} == {v.SaveOutcome(2, True)}
    assert cluster.storage.state.checkpoints[-1].base == base


@pytest.mark.parametrize("report_first", [False, True])
def test_a_restarted_coordinator_lets_all_write_everything(report_first: bool) -> None:
    """If a worker was told to save everything, the successor of the coordinator tells the others so, too. Guards
    against losing a save whose workers have all voted alike."""
    cluster, coordinator, workers = saved("F")
    base = cluster.storage.state.checkpoints[-1].prefix
    coordinator.machine._run.condemned.add(base)
    cluster.storage.damaged.add(base)
    for worker in workers:
        coordinator.call(worker.vote(2, base=base))  # the first is told, and writes
    coordinator.alive = False
    successor = cluster.coordinator()
    for worker in workers:
        successor.call(worker.rejoin())
    successor.run()
    for worker in workers:
        successor.tell(worker.attached())
    builds = [workers[0].report(2), workers[1].vote(2, base=base)]
    calls = [successor.call(build) for build in (builds if report_first else builds[::-1])]
    successor.run()
    answer = calls[report_first].answer
    assert isinstance(answer, v.Go)
    assert answer.full
    successor.call(workers[1].report(2))
    successor.run()
    assert cluster.storage.state.checkpoints[-1].base == ""
    assert cluster.storage.state.checkpoints[-1].prefix != base


# -- what goes --


def test_what_a_delta_needs_stays_until_it_goes() -> None:
    """A chain stays for as long as its last delta is kept, and goes in one entry. Guards against a kept checkpoint that
    cannot be restored, and against chains that stay for ever."""
    cluster, coordinator, workers = saved("Fdd", keep=(Newest(1),))
    assert live(cluster) == "F1 d2 d3"
    save(cluster, coordinator, workers, 4, delta=False)
    assert live(cluster) == "F4"
    assert cluster.storage.kinds[-2:] == ["commit", "retire"]
    assert len(cluster.storage.folders) == 1


def test_nothing_goes_before_all_that_the_newest_needs_was_read_back() -> None:
    """Before anything goes for a delta, its full checkpoint and every delta between were read back, each once. Guards
    against removing the last good checkpoint for a delta on one that was never readable."""
    cluster, coordinator, workers = saved("F", keep=(Newest(1),))
    for ordinal in (2, 3, 4):  # what is to be read back is not read yet
        base = cluster.storage.state.checkpoints[-1].prefix * (ordinal > 2)
        for worker in workers:
            coordinator.call(worker.vote(ordinal, base=base))
        for worker in workers:
            coordinator.call(worker.report(ordinal, base=base))
        while not isinstance(coordinator.pending[0], READINGS) or len(coordinator.pending) > 1:
            coordinator.pending.sort(key=lambda effect: isinstance(effect, READINGS))
            coordinator.carry_out()
            coordinator.deliver()
    assert live(cluster) == "F1 F2 d3 d4"
    reads = []
    while coordinator.pending:
        reads += read_back(coordinator.pending[:1])
        coordinator.carry_out()
        coordinator.deliver()
    assert live(cluster) == "F2 d3 d4"
    assert reads == [cluster.storage.state.checkpoints[0].prefix], "what it replaces went for it"
    save(cluster, coordinator, workers, 5, delta=True)
    assert live(cluster) == "F2 d3 d4 d5"


def test_nothing_goes_for_what_needs_a_condemned_one() -> None:
    """If something that the newest needs is condemned after it was read back, nothing goes for the newest, although no
    entry says so yet. Guards against removing the last checkpoint that can be restored."""
    cluster, coordinator, workers = saved("FFd", keep=(Newest(3),))
    full, base = cluster.storage.state.checkpoints[1:]
    for worker in workers:
        coordinator.call(worker.vote(4, base=base.prefix))
    for worker in workers:
        coordinator.call(worker.report(4, base=base.prefix))
    newest, reads = prefix("ckpt", 40, workers[0].caller.generation, 4), list[str]()
    while newest not in reads:
        reads += read_back(coordinator.pending[:1])
        if newest not in reads:
            coordinator.carry_out()
            coordinator.deliver()
    assert reads == [full.prefix, base.prefix, newest]
    coordinator.machine._run.condemned.add(full.prefix)
    cluster.storage.damaged.add(full.prefix)
    coordinator.run()
    assert live(cluster) == "F1 F2 d3 d4"
    assert save(cluster, coordinator, workers, 5, delta=True).committed
    assert live(cluster) == "F1 F2 d3 d4 F5"


def test_what_could_not_be_read_back_is_no_base() -> None:
    """If the newest cannot be read back, all stays, it is not read again, and the next save is full, whatever was voted
    for. Guards against losing what is good, and against saves none of which can be restored until the next full one."""
    cluster, coordinator, workers = saved("F", keep=(Newest(1),))
    kept = cluster.storage.state.checkpoints[-1]
    assert workers[0].world
    cluster.storage.damaged.add(prefix("ckpt", 20, workers[0].world.generation, 2))
    save(cluster, coordinator, workers, 2, delta=False)
    assert live(cluster) == "F1 F2"
    assert len([remark for remark in coordinator.remarks if "could not be read back" in remark]) == 1
    save(cluster, coordinator, workers, 3, delta=True)
    assert live(cluster) == "F3"
    assert kept not in cluster.storage.state.checkpoints


@given(st.data())
def test_whatever_stays_has_what_it_needs(data: st.DataObject) -> None:
    """Whatever the policy, pins, leases, damage and rollbacks, no delta stays without its chain, what is held stays,
    and a sweep comes to an end. Guards against a folder that goes because nobody keeps it for itself."""
    state = LogState("run", last_preserved=WALL)
    policy = data.draw(st.sampled_from([(Newest(1),), (Newest(3),), (Newest(2), Every(40.0))]))
    for ordinal in range(1, data.draw(st.integers(1, 14))):
        newest = state.checkpoints[-1:]
        is_delta = bool(newest) and newest == state.restorable[-1:] and data.draw(st.booleans())
        base = newest[0].prefix if is_delta else ""
        where = prefix("ckpt", ordinal, "0000000a", ordinal)
        state = state.commit(CheckpointRecord(where, ordinal, WALL + 10.0 * ordinal, base=base))
        some = st.lists(st.sampled_from(state.checkpoints), max_size=1)
        for each in data.draw(some):
            state = state.pin(Pin(each.prefix, 0.0, ""))
        state = state.condemn([each.prefix for each in data.draw(some)])
        leased = {each.prefix for each in data.draw(some)}
        if data.draw(st.integers(0, 9)) == 0 and state.restorable:
            state = state.restored(data.draw(st.sampled_from(state.restorable)).prefix)
        verified = data.draw(st.sampled_from(state.checkpoints)).prefix
        plan = sweep(state, policy, verified, leased)
        before, state = state, state.retire(plan.retire, plan.preserve, plan.last_preserved)
        there = {each.prefix for each in state.checkpoints}
        assert {each.base for each in state.checkpoints} <= {"", *there}
        assert {*leased, *(pin.prefix for pin in before.pinned)} <= there
        assert not plan or verified in {each.prefix for each in state.restorable}
        again = sweep(state, policy, verified, leased)
        assert not again.retire, "a sweep that does not come to an end"


# -- what is bad, and what is gone back to --


def doubted(cluster: Cluster, coordinator: Coordinator, workers: list[Worker]) -> tuple[v.Apply, list[str]]:
    """Workers restore the newest that is good, and the prefixes that they were asked to read."""
    asked = []
    answers = [coordinator.ask(worker.restore(1)) for worker in workers]
    while isinstance(read := answers[0], v.Read):
        asked.append(read.record.prefix)
        verdict = "damaged" if cluster.storage.is_lost(read.record) else "good"
        calls = [coordinator.call(worker.restore(1, read.record.prefix, verdict, reason="a bit")) for worker in workers]
        coordinator.run()
        answers = [call.answer for call in calls]
    assert isinstance(read, v.Apply), read
    for worker in workers:
        worker.applied(read)
    return read, asked


@pytest.mark.parametrize(
    ("bad", "asked", "restored"), [(2, [5, 2, 1], 1), (3, [5, 2], 2), (4, [5, 3], 3), (5, [5, 4], 4)]
)
def test_what_needs_a_bad_one_is_passed_over_at_once(bad: int, asked: list[int], restored: int) -> None:
    """The link of a chain that is bad is found, marked, and all that needs it passed over without being read. Guards
    against a restore that reads a chain once for each delta, and against condemning what is good."""
    cluster, coordinator, _ = saved("FFddd")
    records = cluster.storage.state.checkpoints
    coordinator.alive = False
    cluster.storage.damaged.add(records[bad - 1].prefix)
    successor = cluster.coordinator()
    workers = cluster.world(successor, 2)
    applied, read = doubted(cluster, successor, workers)
    assert applied.record == records[restored - 1]
    assert read == [records[number - 1].prefix for number in asked]
    assert len(applied.passed_over) == 5 - restored
    assert cluster.save(successor, workers, 1).committed
    assert cluster.storage.state.damaged == (records[bad - 1].prefix,)
    assert records[4] not in cluster.storage.state.restorable
    cluster.check()


def test_a_good_chain_is_not_condemned() -> None:
    """If one worker finds damage and the coordinator reads the whole chain and finds none, nothing is marked and nobody
    goes back. Guards against losing a chain to one host's memory."""
    cluster, coordinator, _ = saved("Fdd")
    coordinator.alive = False
    successor = cluster.coordinator()
    workers = cluster.world(successor, 2)
    newest = cluster.storage.state.checkpoints[-1]
    for worker in workers:
        successor.ask(worker.restore(1))
    calls = [successor.call(worker.restore(1, newest.prefix, "damaged", reason="a bit")) for worker in workers]
    reads = []
    while successor.pending:
        reads += read_back(successor.pending[:1])
        successor.carry_out()
        successor.deliver()
    assert reads == [record.prefix for record in cluster.storage.state.checkpoints]
    for call in calls:
        assert getattr(call.answer, "kind", None) is Kind.STORAGE
    assert not successor.machine._run.condemned


def test_stock_readers_find_the_full_one_of_the_branch() -> None:
    """TensorFlow's file names full checkpoints alone; after a rollback to a delta, the newest of them is the one on
    which it builds. Guards against stock readers that are led to nothing, or to a branch that was given up."""
    cluster, coordinator, _ = saved("FdFd")
    first = cluster.storage.state.checkpoints[1]
    coordinator.alive = False
    successor = cluster.coordinator()
    workers = cluster.world(successor, 2)
    cluster.restore(successor, workers, target=str(first.step))
    for worker in workers:
        successor.call(worker.vote(1))
    successor.run()
    assert live(cluster) == "F3 d4 F1 d2"
    written = cluster.storage.state_file
    assert written
    assert written.state.stock_readable[-1].prefix == first.base
    for worker in workers:
        successor.call(worker.report(1))
    successor.run()
    assert live(cluster) == "F3 d4 F1 d2 F1"
    assert [record.base for record in written.state.stock_readable] == ["", ""]
