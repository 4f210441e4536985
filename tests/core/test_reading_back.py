"""A new checkpoint is read back by shares before anything that it replaces is removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.dealing import StoredObject
from holdfast_coordinator.core.reading_back import (
    ANSWERED_WITHIN,
    ASKED_AT_ONCE,
    GIVES_WAY,
    MOST_ASKED,
    SILENT_FOR,
    SLOWEST,
)
from holdfast_coordinator.core.rules import Newest
from holdfast_storage.cluster import Task
from holdfast_storage.lag import LAG
from support.cluster import Cluster

Asked = dict[str, tuple[str, ...]]


class Reading:
    """A job whose second checkpoint is about to be read back."""

    def __init__(self, workers: int = 3, keep: int = 1) -> None:
        self.cluster = Cluster()
        self.coordinator = self.cluster.coordinator()
        self.workers = self.cluster.world(self.coordinator, workers)
        for worker in self.workers:
            worker.terms = {"retention": (Newest(keep),)}
        assert self.cluster.save(self.coordinator, self.workers, 1).committed
        self.save(2)

    def save(self, ordinal: int) -> None:
        """Save, up to the moment at which the objects are to be listed or read."""
        for build in (lambda w: w.vote(ordinal), lambda w: w.report(ordinal)):
            for worker in self.workers:
                self.coordinator.call(build(worker))
            self.run(fx.ListObjects, fx.ReadBackCheckpoint)

    def run(self, *until: type) -> None:
        while self.coordinator.pending and not isinstance(self.coordinator.pending[0], until):
            self.coordinator.carry_out()
            self.coordinator.deliver()

    def listed(self, *objects: StoredObject) -> Reading:
        """The objects are listed. Default: one of each worker, and the index."""
        (effect,) = self.coordinator.pending
        assert isinstance(effect, fx.ListObjects)
        if objects:
            self.coordinator.pending.clear()
            self.coordinator.tell(ev.Listed(effect.record.prefix, "good", objects))
        else:
            self.coordinator.carry_out()
            self.coordinator.deliver()
        return self

    @property
    def prefix(self) -> str:
        return self.cluster.storage.state.checkpoints[-1].prefix

    @property
    def asked(self) -> Asked:
        """Who was asked and has not answered."""
        questions = [effect for effect in self.coordinator.pending if isinstance(effect, fx.AskToRead)]
        return {str(each.caller.task): each.objects for each in questions}

    @property
    def retires(self) -> bool:
        return any(isinstance(e, fx.Append) and e.entry.kind == "retire" for e in self.coordinator.pending)

    def answer(self, number: int, verdict: v.Verdict = "good", *good: str, prefix: str = "") -> None:
        """A worker answers what it was asked: all is good, or what is named."""
        worker = self.workers[number]
        question = next(
            e for e in self.coordinator.pending if isinstance(e, fx.AskToRead) and e.caller == worker.caller
        )
        self.coordinator.pending.remove(question)
        told = question.objects if verdict == "good" and not good else good
        self.coordinator.tell(ev.Examined(worker.caller, prefix or self.prefix, told, verdict, "why"))

    def pass_time(self, seconds: float, *beating: int) -> None:
        """Let time pass, in which only these workers are heard of; default: all."""
        self.cluster.beat([self.workers[n] for n in beating or range(len(self.workers))], self.coordinator, seconds)


def object_(writer: int, size: int, number: int = 0) -> StoredObject:
    return StoredObject(f"{writer}.{number}", size, Task("worker", writer))


def test_each_by_another() -> None:
    """Each object is read by a worker that has not written it, and what it replaces goes when all were. Guards against
    a checkpoint that only its writers have seen, or one worker, or nobody."""
    reading = Reading().listed()
    assert reading.asked == {"worker-0": ("worker-2",), "worker-1": ("worker-0",), "worker-2": ("worker-1", "index")}
    for number in range(3):
        assert not reading.retires
        reading.answer(number)
    assert reading.retires
    reading.coordinator.run()
    assert not reading.coordinator.machine.busy


def test_a_world_of_one() -> None:
    """In a world of one the coordinator reads all. Guards against a question that the writer answers itself where the
    coordinator may be another process."""
    reading = Reading(1)
    assert [type(effect) for effect in reading.coordinator.pending] == [fx.ReadBackCheckpoint]


def test_a_manifest_that_is_not_good() -> None:
    """Without its manifest a checkpoint replaces nothing. Guards against workers that are asked for nothing, and all is
    well."""
    reading = Reading()
    reading.coordinator.pending.clear()
    reading.coordinator.tell(ev.Listed(reading.prefix, "absent"))
    assert reading.coordinator.pending == []
    assert "could not be read back (it is absent)" in reading.coordinator.remarks[-1]
    assert not reading.coordinator.machine.busy


def test_damage_is_told_by_name() -> None:
    """One worker's word that bytes are wrong is enough to remove nothing, and names it. Guards against damage that
    another reader outvotes, and against one that nobody hears of."""
    reading = Reading().listed()
    reading.answer(0)
    reading.answer(1, "damaged")
    assert not reading.retires
    assert f"worker-1 finds {reading.prefix} damaged: why" in reading.coordinator.remarks[-2]
    assert "could not be read back (it is damaged)" in reading.coordinator.remarks[-1]
    reading.answer(2)
    assert not reading.retires
    assert not reading.coordinator.machine.busy
    assert reading.coordinator.machine._run.condemned == set(), "it was a first reader"


@pytest.mark.parametrize("verdict", ["absent", "unreadable"])
def test_who_cannot_read_is_replaced(verdict: v.Verdict) -> None:
    """What one cannot read another does, and who cannot is not asked any more. Guards against a late mount that is
    taken for damage, and one that is asked again and again."""
    reading = Reading().listed()
    reading.answer(1, verdict)
    reading.answer(0)
    assert reading.asked == {"worker-2": ("worker-1", "index")}, "it alone has not written what is left"
    reading.answer(2)
    assert reading.asked == {"worker-2": ("worker-0",)}
    assert not reading.retires
    reading.answer(2)
    assert reading.retires


def test_in_the_end_the_coordinator_reads() -> None:
    """What two workers could not read the coordinator does, and its word counts. Guards against a wait for ever, and
    against what nobody has read."""
    reading = Reading(2).listed()
    reading.answer(0, "absent")
    reading.answer(1, "unreadable")
    (effect,) = reading.coordinator.pending
    assert isinstance(effect, fx.ReadObjects)
    assert sorted(effect.objects) == ["index", "worker-0", "worker-1"]
    reading.coordinator.carry_out()
    reading.coordinator.deliver()
    assert reading.retires


def test_the_coordinator_finds_damage_in_the_end() -> None:
    """Nothing goes for what the coordinator itself finds bad. Guards against its reading that counts for nothing."""
    reading = Reading(2).listed()
    reading.answer(0, "absent")
    reading.answer(1, "unreadable")
    reading.cluster.storage.damaged.add(reading.prefix)
    reading.coordinator.run()
    assert "could not be read back (it is damaged)" in reading.coordinator.remarks[-1]
    assert not reading.coordinator.machine.busy


def test_who_does_not_answer_is_not_waited_for() -> None:
    """Who does not answer within a bound is replaced, and not asked again for a while. Guards against a worker of an
    earlier version, or a mount that hangs, for which all that was ever saved stays."""
    assert ANSWERED_WITHIN >= LAG + 20.0, "a worker waits for what its mount shows late"
    reading = Reading(2).listed()
    reading.answer(1)
    reading.pass_time(ANSWERED_WITHIN - 5.0)
    assert not reading.coordinator.remarks
    reading.pass_time(10.0)
    assert "worker-0 was asked to read 1 object(s)" in reading.coordinator.remarks[-1]
    reading.coordinator.pending = [e for e in reading.coordinator.pending if "0" not in str(getattr(e, "caller", ""))]
    assert reading.asked == {"worker-1": ("worker-1",)}
    reading.answer(1)
    reading.coordinator.run()
    reading.save(3)
    reading.listed()
    assert set(reading.asked) == {"worker-1"}
    reading.answer(1)
    reading.coordinator.run()
    reading.pass_time(SILENT_FOR)
    reading.save(4)
    reading.listed()
    assert set(reading.asked) == {"worker-0", "worker-1"}


def test_the_bound_grows_with_what_is_read() -> None:
    """A large object has more time. Guards against a worker that is given up for its slow storage."""
    reading = Reading(2).listed(object_(0, 100 * SLOWEST), object_(1, 100 * SLOWEST))
    reading.pass_time(ANSWERED_WITHIN + 95.0)
    assert not reading.coordinator.remarks
    reading.pass_time(10.0)
    assert len(reading.coordinator.remarks) == 2


def test_a_late_answer_counts() -> None:
    """Who answers after all has read it. Guards against the same bytes, read by one after the other."""
    reading = Reading(2).listed()
    reading.pass_time(ANSWERED_WITHIN + 5.0)
    assert any(isinstance(e, fx.ReadObjects) for e in reading.coordinator.pending)
    reading.answer(0)
    assert not reading.retires
    reading.answer(1)
    assert reading.retires


def test_who_dies_is_replaced() -> None:
    """Who is gone is replaced before the bound. Guards against a killed worker for which retention waits."""
    reading = Reading(2).listed()
    reading.answer(0)
    reading.coordinator.tell(reading.workers[1].detached())
    reading.pass_time(12.0, 0)
    assert reading.asked["worker-0"] == ("worker-0", "index"), "its own: nobody else is left"
    reading.answer(0)
    assert reading.retires


def test_all_who_leave_are_replaced_by_the_coordinator() -> None:
    """If all have left, the coordinator reads. Guards against an orderly end that leaves what was to be removed."""
    reading = Reading(2).listed()
    for worker in reading.workers:
        reading.coordinator.call(worker.leave())
        reading.coordinator.tell(worker.detached())
    reading.coordinator.pending.clear()
    reading.cluster.tick()
    assert [type(effect) for effect in reading.coordinator.pending] == [fx.ReadObjects]


def test_a_restarted_coordinator_knows_nothing() -> None:
    """A restarted coordinator has nothing read before, and takes no answer to its predecessor's question. Guards
    against an answer that is about fewer objects than were asked for since."""
    reading = Reading(2).listed()
    questions = dict(reading.asked)
    reading.answer(0)
    reading.coordinator.alive = False
    successor = reading.cluster.coordinator()
    calls = [successor.call(worker.rejoin()) for worker in reading.workers]
    successor.run()
    for worker, call in zip(reading.workers, calls, strict=True):
        assert isinstance(call.answer, v.Joined)
        successor.tell(worker.attached())
        successor.tell(worker.heartbeat())
    late = ev.Examined(reading.workers[1].caller, reading.prefix, questions["worker-1"], "good")
    assert successor.tell(late) == []
    successor.run()
    reading.coordinator = successor
    reading.save(3)
    assert successor.tell(late) == []
    reading.listed()
    reading.answer(1)
    assert not reading.retires
    reading.answer(0)
    assert reading.retires


def forged(**change: object) -> Callable[[Reading], ev.Examined]:
    def make(reading: Reading) -> ev.Examined:
        caller = reading.workers[0].caller
        every = ("index", *(f"worker-{n}" for n in range(3)))
        fields = {"caller": caller, "prefix": reading.prefix, "good": every, "verdict": "good", **change}
        return ev.Examined(**fields)  # type: ignore[arg-type]

    return make


def test_what_was_not_asked_is_not_believed() -> None:
    """An answer counts for what its worker was asked and did not answer yet, and for nothing else. Guards against one
    worker that answers for all, again, about another checkpoint, as a process that is gone, or as a stranger."""
    reading = Reading().listed()
    stranger = v.Caller("ffffffff", Task("worker", 1), "nobody.1")
    earlier = v.Caller(reading.workers[1].caller.generation, Task("worker", 1), "process0.1")
    other = "ckpt-1.0000000a.1/ckpt-1"
    for make in (forged(prefix=other), forged(caller=stranger), forged(caller=earlier)):
        assert reading.coordinator.tell(make(reading)) == []
        assert reading.coordinator.tell(forged(caller=stranger, verdict="damaged")(reading)) == []
    all_at_once = forged()(reading)
    reading.coordinator.tell(all_at_once)
    assert not reading.retires, "it was asked for one of them"
    for _ in range(3):
        assert reading.coordinator.tell(all_at_once) == []
    reading.answer(1)
    assert not reading.retires
    reading.answer(2)
    assert reading.retires


def test_good_without_its_names() -> None:
    """An object counts as good only by its name. Guards against a verdict that is about nothing."""
    reading = Reading(2).listed()
    reading.answer(1)
    question = next(e for e in reading.coordinator.pending if isinstance(e, fx.AskToRead))
    reading.coordinator.pending.clear()
    reading.coordinator.tell(ev.Examined(question.caller, reading.prefix, (), "good"))
    assert not reading.retires
    assert reading.asked, "it is asked for once more"


def test_little_at_a_time() -> None:
    """A worker is asked for a bounded number of bytes at a time, or for one object. Guards against an hour of reading
    of which nobody knows whether it goes on."""
    half = ASKED_AT_ONCE // 2
    reading = Reading(2).listed(*(object_(0, half, n) for n in range(5)), *(object_(1, 3 * half, n) for n in range(2)))
    assert [len(names) for names in reading.asked.values()] == [1, 2]
    for _ in range(2):
        reading.answer(1)
        assert len(reading.asked["worker-1"]) <= 2
    reading = Reading(2).listed(*(object_(0, 1, n) for n in range(MOST_ASKED + 5)))
    assert [len(names) for names in reading.asked.values()] == [MOST_ASKED]
    reading.answer(1)
    assert [len(names) for names in reading.asked.values()] == [5]
    reading.answer(1)
    assert reading.retires


def test_it_gives_way_to_a_save() -> None:
    """While a save is being written nobody is asked; that is for one save, and for a bounded time. Guards against
    read-back that competes with an upload, and against saves without pause that keep all that they replace."""
    reading = Reading(2)
    begin(reading, 3)
    reading.listed()
    assert reading.asked == {}
    for worker in reading.workers:
        reading.coordinator.call(worker.report(3))
    assert set(reading.asked) == {"worker-0", "worker-1"}, "the save is written"

    reading = Reading(2)
    begin(reading, 3)
    reading.listed()
    reading.pass_time(GIVES_WAY + 5.0)
    assert set(reading.asked) == {"worker-0", "worker-1"}


def test_it_gives_way_once() -> None:
    """It does not give way to a second save. Guards as the one above."""
    half = ASKED_AT_ONCE // 2 + 1
    reading = Reading(2)
    begin(reading, 3)
    reading.listed(*(object_(0, half, n) for n in range(3)), object_(1, half))
    for worker in reading.workers:
        reading.coordinator.call(worker.report(3))
    questions = [e for e in reading.coordinator.pending if isinstance(e, fx.AskToRead)]
    reading.coordinator.pending = [e for e in reading.coordinator.pending if not isinstance(e, fx.AskToRead)]
    prefix = reading.prefix
    reading.coordinator.run()
    begin(reading, 4)
    for question in questions:
        reading.coordinator.tell(ev.Examined(question.caller, prefix, question.objects, "good"))
    assert reading.asked


def begin(reading: Reading, ordinal: int) -> None:
    """A save is being written."""
    held, reading.coordinator.pending = reading.coordinator.pending, []
    calls = [reading.coordinator.call(worker.vote(ordinal)) for worker in reading.workers]
    reading.coordinator.run()
    assert all(isinstance(call.answer, v.Go) for call in calls)
    reading.coordinator.pending = held


def test_status_says_who_reads() -> None:
    """Whoever asks what is going on is told who reads. Guards against one that nobody finds, for which all wait."""
    reading = Reading(2).listed()
    reading.answer(0)
    assert reading.coordinator.machine.upkeep.startswith(f"reading {reading.prefix} back by worker-1, before")
