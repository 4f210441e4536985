"""A few of the cases of `simulation.every_point`, and that it would notice: `make points` tries all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from holdfast.saving.outcome import Claim
from holdfast.session.session import Session
from holdfast_coordinator.core.upkeep import Upkeep
from holdfast_protos.client import Unreachable
from holdfast_storage.errors import CoordinatorUnavailable, SaveFailed, StorageError
from holdfast_storage.layout import log_entry
from holdfast_storage.log.entries import encode
from holdfast_storage.log.log import Log, NotPublished, Outcome, Published
from holdfast_storage.records import Entry
from simulation import patches
from simulation.every_point import SCENES, Tally, kind_of, tell, told
from simulation.exhaustion import Case, Fault, Label, Play, Scene, cases
from simulation.many import little_collecting
from support.figures import Figure

SHARE = 20
"""Of more than ten thousand cases, beside one of each kind."""

APART = Scene("begins", embedded=False)


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed(), little_collecting():
        yield


def test_some_of_all_cases(figure: Figure) -> None:
    """Whatever fails at any point, the checks of `simulation.exhaustion` hold. Guards against a fault at one point that
    the product does not survive."""
    tally = Tally()
    tally.survey(SCENES)
    every = [*tally.every(), *tally.pairs(100, seed=0)]
    one_of_each = {kind_of(case): case for case in every}
    assert len(one_of_each) > 20, "some kind of fault does not occur"
    for result in tell([*one_of_each.values(), *random.Random(1).sample(every, SHARE)]):
        tally.add(result)
    assert not tally.bad, "\n".join(map(told, tally.bad))
    figure("points of a save and a restore at which something goes wrong", sum(map(len, tally.points.values())))
    figure("cases there are, and tried here (all: make points)", f"{len(every)}, {tally.cases.total()}")


def violated(wanted: Callable[[Fault], bool]) -> dict[Fault, str]:
    """Return the faults of a scene that end badly, with the kind of violation."""
    points = tell([Case(APART)])[0].points
    some = [case for case in cases(APART, points) if case.fault and wanted(case.fault)]
    assert some
    return {r.case.fault: r.violation.partition(":")[0] for r in tell(some) if r.case.fault and r.violation}


def kinds_of_entries() -> dict[str, str]:
    """Return the kinds of entries by name, in a scene in which nothing goes wrong."""
    play = Play(Case(APART))
    play.run()
    return {log_entry(entry.number): entry.kind for entry in play.world.checks.entries}


def test_a_lost_answer_of_the_log_taken_for_a_failure_is_noticed() -> None:
    """A lost answer of the log that is taken for a failure is noticed, exactly where the entry is a commit's. Guards
    against a proof that cannot fail."""

    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        try:
            self._store.create(log_entry(entry.number), encode(entry))
        except StorageError as error:
            return NotPublished(str(error))
        return Published()

    kinds = kinds_of_entries()
    with mock.patch.object(Log, "publish", careless):
        found = violated(lambda fault: fault.effect == "lose" and fault.label.what in kinds)
    told = {fault.label.what for fault, kind in found.items() if kind == "told"}
    assert told == {name for name, kind in kinds.items() if kind == "commit" and name <= max(told)}
    assert len(told) == 2


def test_a_lost_reply_taken_for_a_failure_is_noticed() -> None:
    """A lost reply that is taken for a failure is noticed where the coordinator has committed. Guards against a proof
    that cannot fail."""
    call = Session._call

    def careless(self: Session, once: Callable[..., object], *args: object) -> object:
        def ask(link: object, timeout: float) -> object:
            try:
                return once(link, timeout)
            except Unreachable as error:
                raise CoordinatorUnavailable(str(error)) from None

        return call(self, ask, *args)

    def sure(self: Claim, error: Exception) -> SaveFailed:
        return SaveFailed(f"the save of step {self.step} failed: {error}")

    with mock.patch.object(Session, "_call", careless), mock.patch.object(Claim, "settle", sure):
        found = violated(lambda fault: fault.label.verb == "Report" and fault.effect in ("cut", "passed_and_cut"))
    assert set(found.values()) <= {"told", "split"}
    assert {(fault.label.kind, fault.effect) for fault in found} == {("request", "passed_and_cut"), ("reply", "cut")}


def test_orphans_that_nobody_looks_for_are_noticed() -> None:
    """Orphans that nobody looks for are noticed after a kill between the first byte and the commit. Guards against a
    proof that cannot fail."""

    def wanted(fault: Fault) -> bool:
        return fault.effect == "kill" and fault.actor == fault.label.actor == "worker 1" and fault.label.verb == "write"

    with mock.patch.object(Upkeep, "look_for_orphans"):
        found = violated(wanted)
    assert set(found.values()) == {"leftover"}
    assert {fault.when for fault in found} == {"before", "amid", "done"}


def test_what_a_point_is_called() -> None:
    """A point has a readable name. Guards against a case that nobody can tell from its name."""
    label = Label("reply", "coordinator", "Report", "worker 1")
    fault = Fault(7, label, "kill", "worker 0", "done")
    assert str(Case(APART, fault)) == (
        "begins, apart, order 2; at 7 (coordinator: reply Report worker 1): worker 0 is killed done"
    )
