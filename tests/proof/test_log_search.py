"""The coordinators' protocol, searched state by state: see `support.log_search` for what acts and what can happen.

About 600,000 states in a minute (`pytest -s` prints each part): two jobs that take the run from each other, or one with
coordinators that are killed and restarted, or left behind alive, and workers that crash; each leads, saves, reads back,
retires, removes what others left behind, deletes, and goes back to an older checkpoint; some save deltas; a reader
leases, pins or tags a checkpoint; somebody rolls the run back, removes a checkpoint or moves the run; creates fail,
lose their reply, land late or never. In none of them is an acknowledged commit lost or passed over by who starts then,
a live folder or one with a reader deleted or incomplete, or one that may still be committed, a delta live without what
it needs, an entry changed, an outcome told both ways, an entry of somebody superseded in the log, a generation back
that had lost the lead, what was rolled back gone on from, nothing good live, or a worker of a world of one left
waiting.

A search that finds nothing proves something only if it would find it: the product with one of its rules broken, in the
place where it keeps it, is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.attempt import Phase, SaveAttempt
from holdfast_coordinator.core.intents import Intent, Retire
from holdfast_coordinator.core.leading import Leading
from holdfast_coordinator.core.ledger import Ledger
from holdfast_coordinator.core.membership import World
from holdfast_coordinator.core.messages import Verdict
from holdfast_coordinator.core.reading_back import ReadingBack
from holdfast_coordinator.core.retention import Sweep, sweep
from holdfast_coordinator.core.run import RunState
from holdfast_coordinator.core.saving import Saving
from holdfast_coordinator.core.upkeep import Upkeep
from holdfast_storage.failure import Failure
from holdfast_storage.layout import page_object, prefix
from holdfast_storage.log.log import Log, LostRace, NotPublished, Outcome, Published, Unknown
from holdfast_storage.records import Entry, LogState
from support.log_search import Bounds, Search, Violation
from support.overwriting_store import OverwritingStore
from support.without_bases import keeps_no_base


def named(bounds: Bounds) -> str:
    return ",".join(f"{name}={getattr(bounds, name)}" for name in Bounds.__slots__ if getattr(bounds, name))


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(jobs=2, left_behind=1),
        Bounds(jobs=2, unknown=1),
        Bounds(jobs=2, kills=1, refusals=1),
        Bounds(jobs=2, kills=1, rotten=1),
        Bounds(jobs=2, rollback=True),
        Bounds(jobs=2, late_jobs=1, kills=1),
        Bounds(jobs=1, saves=2, unknown=1, left_behind=1),
        Bounds(jobs=1, saves=2, unknown=1, kills=1, lapses=1),
        Bounds(jobs=1, saves=2, kills=2, rotten=1),
        Bounds(jobs=1, saves=3, kills=1),
        Bounds(jobs=1, left_behind=2),
        Bounds(jobs=1, unknown=1, left_behind=1, lapses=1),
        Bounds(jobs=1, unknown=2, kills=1, lapses=1, files=True),
        Bounds(jobs=1, refusals=1, left_behind=1, kills=1),
        Bounds(jobs=1, workers=2, unknown=1, kills=1),
        Bounds(jobs=1, workers=2, refusals=1, left_behind=1),
        Bounds(jobs=1, workers=2, left_behind=1, crashes=1, lapses=1),
        Bounds(jobs=1, workers=2, rotten=1, lapses=1),
        Bounds(jobs=1, pages=True, unknown=1),
        Bounds(jobs=1, pages=True, left_behind=1),
        Bounds(jobs=2, pin=True),
        Bounds(jobs=1, saves=2, lease=True),
        Bounds(jobs=1, lease=True, kills=1, lapses=1),
        Bounds(jobs=1, lease=True, unknown=1, lapses=1),
        Bounds(jobs=1, lease=True, left_behind=1),
        Bounds(jobs=1, pin=True, unknown=1, kills=1),
        Bounds(jobs=1, tag=True, kills=1),
        Bounds(jobs=1, lease=True, pages=True),
        Bounds(jobs=1, saves=3, deltas=1, kills=1),
        Bounds(jobs=1, saves=3, deltas=2, rotten=1),
        Bounds(jobs=1, saves=3, deltas=2, stale=True),
        Bounds(jobs=1, saves=2, deltas=1, unknown=1, left_behind=1),
        Bounds(jobs=1, saves=3, deltas=1, lease=True),
        Bounds(jobs=1, saves=2, deltas=1, pages=True),
        Bounds(jobs=2, rollback=True, deltas=1),
        Bounds(jobs=2, late_jobs=2, says="rollback", keeps_all=True),
        Bounds(jobs=1, says="rollback", late_jobs=1),
        Bounds(jobs=1, saves=2, says="rollback", kills=1),
        Bounds(jobs=1, says="rollback", left_behind=1),
        Bounds(jobs=1, saves=2, says="rollback", unknown=1, lapses=1),
        Bounds(jobs=1, saves=2, deltas=1, says="rollback"),
        Bounds(jobs=1, saves=2, says="remove"),
        Bounds(jobs=1, says="remove", kills=1),
        Bounds(jobs=1, says="remove", unknown=1),
        Bounds(jobs=1, pages=True, says="remove"),
        Bounds(jobs=1, says="move", left_behind=1),
        Bounds(jobs=1, late_jobs=1, says="move"),
    ],
    ids=named,
)
def test_no_history_ends_badly(bounds: Bounds) -> None:
    """No history within the bounds ends badly. Guards against an order of events that nobody thought of, in which a
    commit is lost, undone, torn or misreported."""
    search = Search(bounds)
    begun = time.perf_counter()
    states = search.run()
    print(f"\n{bounds}: {states:,} states, {search.endings:,} endings, {time.perf_counter() - begun:.1f} s")
    # It went where it was to go: all kinds of entries, and every save both committed and failed somewhere.
    assert search.kinds >= {"lead", "commit", "retire"}
    assert search.kinds >= ({"lease", "release"} if bounds.lease else {"pin"} if bounds.pin else set())
    assert search.kinds >= ({"tag"} if bounds.tag else set())
    assert search.kinds >= ({bounds.says} if bounds.says else set())
    assert search.after_rollback == (bounds.says == "rollback" and bounds.late_jobs > 0)
    assert ("restored" in search.kinds) == bounds.rollback
    assert ("abort" in search.kinds) == bool(bounds.unknown and bounds.lapses)
    assert {(ordinal, True) for ordinal in range(1, bounds.saves + 1 - bounds.stale)} <= search.outcomes
    assert ((bounds.saves, True) in search.outcomes) == (not bounds.stale)
    assert search.deltas == bool(bounds.deltas)
    assert (1, False) in search.outcomes or not (bounds.lapses or bounds.refusals or bounds.jobs > 1)
    assert bool(search.cleaned) == (bounds.jobs > 1)
    assert search.endings


# -- rules that are broken --

Publish = Callable[[Log, Entry, float], Outcome]


def publishing(careless: Publish) -> AbstractContextManager[Any]:
    return mock.patch.object(Log, "publish", careless)


publish = Log.publish


def overwritten() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        return publish(Log(OverwritingStore(self._store), clock=self._clock), entry, deadline_s)  # type: ignore[arg-type]

    return publishing(careless)


def commit_first() -> AbstractContextManager[Any]:
    finalize = Saving._finalize

    def careless(self: Saving, world: World, attempt: SaveAttempt) -> None:
        finalize(self, world, attempt)
        if attempt.phase is Phase.FINALIZING:
            generation = world.generation.id
            where = prefix(attempt.checkpoint_name, attempt.step, generation, attempt.ordinal)
            self.finalized(ev.Finalized(generation, attempt.ordinal, where))

    return mock.patch.object(Saving, "_finalize", careless)


def deleted_first() -> AbstractContextManager[Any]:
    read_back = Upkeep.read_back

    def careless(self: Upkeep, e: ev.ReadBack) -> None:
        state = self._run.ledger.state
        if state is not None and e.verdict == "good":
            for gone in sweep(state, self._run.retention, e.prefix).retire:
                self._run.emit(fx.DeleteFolder(gone.partition("/")[0]))
        read_back(self, e)

    return mock.patch.object(Upkeep, "read_back", careless)


def not_read_back() -> AbstractContextManager[Any]:
    consider = Upkeep.consider

    def careless(self: Upkeep) -> None:
        consider(self)
        if self._reading_back:
            self._run.effects[:] = [e for e in self._run.effects if not isinstance(e, fx.ReadBackCheckpoint)]
            self.read_back(ev.ReadBack(self._reading_back, "good"))

    return mock.patch.object(Upkeep, "consider", careless)


def missing_answers_are_good() -> AbstractContextManager[Any]:
    examined = ReadingBack.examined

    def careless(self: ReadingBack, e: ev.Examined) -> Verdict | None:
        if e.verdict == "good" and e.caller in self._asked:
            self._unread.clear()
        return examined(self, e)

    return mock.patch.object(ReadingBack, "examined", careless)


def missing_settles() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        outcome = publish(self, entry, deadline_s)
        return NotPublished(outcome.reason) if isinstance(outcome, Unknown) else outcome

    return publishing(careless)


def does_not_ask_again() -> AbstractContextManager[Any]:
    return mock.patch.object(Leading, "is_elsewhere", return_value=False)


def leads_again() -> AbstractContextManager[Any]:
    return mock.patch.object(Leading, "is_over", return_value=False)


@contextmanager
def removes_before_it_leads() -> Iterator[None]:
    take = Leading.take

    def careless(self: Leading, world: World, attempt: SaveAttempt | None) -> None:
        run = self._run
        if run.ledger.state:
            ended = run.ledger.state.lead(run.leader, world.generation)
            run.emit(fx.FindOrphans(Entry(run.ledger.number, "lead", "", 0.0, ended)))
        take(self, world, attempt)

    def found(self: Upkeep, e: ev.OrphansFound) -> None:
        for folder in e.folders:
            self._run.emit(fx.DeleteFolder(folder))

    with (
        mock.patch.object(Leading, "take", careless),
        mock.patch.object(Upkeep, "look_for_orphans"),
        mock.patch.object(Upkeep, "orphans_found", found),
    ):
        yield


def removes_its_own() -> AbstractContextManager[Any]:
    look = Upkeep.look_for_orphans

    def careless(self: Upkeep, entry: Entry) -> None:
        assert entry.state.generation
        ended = (*entry.state.superseded, entry.state.generation.id)
        look(self, replace(entry, state=replace(entry.state, superseded=ended)))

    return mock.patch.object(Upkeep, "look_for_orphans", careless)


def tries_the_next_slot() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        while isinstance(outcome := publish(self, entry, deadline_s), LostRace):
            entry = replace(entry, number=entry.number + 1)
        return outcome

    return publishing(careless)


def page_last() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        with mock.patch.object(self._pages, "keep"):
            outcome = publish(self, entry, deadline_s)
        self._pages.keep(self._pages.cut(entry.state.checkpoints)[1])
        return outcome

    return publishing(careless)


def loser_cleans_up() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        outcome = publish(self, entry, deadline_s)
        if isinstance(outcome, LostRace):
            for page in self._pages.cut(entry.state.checkpoints)[1]:
                self._store.remove(page_object(page))  # type: ignore[attr-defined]
        return outcome

    return publishing(careless)


def pages_go() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        outcome = publish(self, entry, deadline_s)
        before = self.read(entry.number - 1) if isinstance(outcome, Published) else None
        if before:
            needed = self._pages.cut(entry.state.checkpoints)[1]
            for page in self._pages.cut(before.state.checkpoints)[1].keys() - needed.keys():
                self._store.remove(page_object(page))  # type: ignore[attr-defined]
        return outcome

    return publishing(careless)


def takes_a_lease_for_its_own() -> AbstractContextManager[Any]:
    was_appended = Ledger.was_appended

    def careless(self: Ledger, event: ev.Appended) -> None:
        before, given_up = len(self.made), bool(self.current and self.current.given_up)
        was_appended(self, event)
        if given_up and event.taken_by and len(self.made) > before and isinstance(self.made[-1][1], Failure):
            self.made[-1] = self.made[-1][0], event.taken_by

    return mock.patch.object(Ledger, "was_appended", careless)


def heeds_no_lease() -> AbstractContextManager[Any]:
    return mock.patch.object(RunState, "sweep", lambda self, state, verified: sweep(state, self.retention, verified))


def retires_what_it_had_decided() -> AbstractContextManager[Any]:
    decided: dict[Retire, Sweep] = {}
    change, sweep_now = RunState.change, RunState.sweep

    def careless(self: RunState, intent: Intent, state: LogState) -> LogState:
        if not isinstance(intent, Retire):
            return change(self, intent, state)
        plan = decided.setdefault(intent, sweep_now(self, state, intent.verified))
        return state.retire(plan.retire, plan.preserve, plan.last_preserved)

    return mock.patch.object(RunState, "change", careless)


def builds_on_an_older_entry() -> AbstractContextManager[Any]:
    def careless(self: Log, entry: Entry, deadline_s: float) -> Outcome:
        while isinstance(outcome := publish(self, entry, deadline_s), LostRace) and entry.write_id[:6] == "reader":
            entry = replace(entry, number=entry.number + 1)
        return outcome

    return publishing(careless)


def reads_back_the_newest_alone() -> AbstractContextManager[Any]:
    consider = Upkeep.consider

    def careless(self: Upkeep) -> None:
        state = self._run.ledger.state
        self._good = {record.prefix for record in state.checkpoints} if state else set()
        consider(self)

    return mock.patch.object(Upkeep, "consider", careless)


def takes_any_base() -> AbstractContextManager[Any]:
    return mock.patch.object(RunState, "no_base", return_value=None)


def forgets_the_base() -> AbstractContextManager[Any]:
    finalized = Saving.finalized

    def careless(self: Saving, e: ev.Finalized) -> None:
        found = self._run.worlds[e.generation].attempt
        if found and found.phase is Phase.FINALIZING:
            found.base = ""
        finalized(self, e)

    return mock.patch.object(Saving, "finalized", careless)


def forgets_rollbacks() -> AbstractContextManager[Any]:
    return mock.patch("holdfast_coordinator.core.leading.rollback_of", return_value="")


def leads_on() -> AbstractContextManager[Any]:
    """A rollback that moves its checkpoint to the end, as a job's own does."""
    return mock.patch.object(LogState, "_unled", lambda self: self)


def leads_what_was_moved() -> AbstractContextManager[Any]:
    return mock.patch.object(LogState, "closed", "")


BROKEN = {
    "entries are overwritten": (overwritten, Bounds(jobs=2), "does not lead|overwritten"),
    "the commit entry comes before the data": (commit_first, Bounds(jobs=1), "its data is not there"),
    "folders are deleted before their retire entry": (deleted_first, Bounds(jobs=1), "its data is not there"),
    "retention does not read back": (not_read_back, Bounds(jobs=1, rotten=1), "no live checkpoint is good"),
    "retention believes an answer that is missing": (
        missing_answers_are_good,
        Bounds(jobs=1, workers=2, rotten=1),
        "no live checkpoint is good",
    ),
    "an empty slot is taken for a failed create": (
        missing_settles,
        Bounds(jobs=1, unknown=1),
        "told committed=False, the log says otherwise",
    ),
    "a coordinator goes on with reports although another one has led their job since": (
        does_not_ask_again,
        Bounds(jobs=1, kills=1, left_behind=1, refusals=1),
        "told committed=False, the log says otherwise",
    ),
    "a job that has lost the lead leads again": (leads_again, Bounds(jobs=2, left_behind=1), "is superseded"),
    "orphans are removed before their job has lost the lead": (
        removes_before_it_leads,
        Bounds(jobs=2),
        "its data is not there",
    ),
    "a job's own folders count as orphans": (removes_its_own, Bounds(jobs=1), "may still be committed"),
    "a taken slot is answered by trying the next": (tries_the_next_slot, Bounds(jobs=2), "entry 3 drops"),
    "an entry is sent before its page is there": (
        page_last,
        Bounds(jobs=1, pages=True),
        "which the log needs",
    ),
    "who lost the race for a slot removes the page that it made": (
        loser_cleans_up,
        Bounds(jobs=1, pages=True, left_behind=1),
        "which the log needs",
    ),
    "pages that the last entry does not need are removed": (
        pages_go,
        Bounds(jobs=1, pages=True),
        "which the log needs",
    ),
    "a commit that is given up takes a lease in its slot for its own": (
        takes_a_lease_for_its_own,
        Bounds(jobs=1, lease=True, unknown=1, lapses=1),
        "told committed=True, the log says otherwise",
    ),
    "retention does not heed a lease": (heeds_no_lease, Bounds(jobs=1, lease=True), "a reader is at work on"),
    "what goes is not decided anew after a pin": (
        retires_what_it_had_decided,
        Bounds(jobs=1, pin=True),
        "a pinned checkpoint retired",
    ),
    "what goes is not decided anew after a tag": (
        retires_what_it_had_decided,
        Bounds(jobs=1, tag=True),
        "a tagged checkpoint retired",
    ),
    "who takes a lease builds on what it has read, wherever it comes to stand": (
        builds_on_an_older_entry,
        Bounds(jobs=1, lease=True),
        "changed more than what is held|names the folder of a live",
    ),
    "a rollback does not count for who takes over": (
        forgets_rollbacks,
        Bounds(jobs=1, says="rollback"),
        "which was given up",
    ),
    "a rollback does not end the job that leads": (
        leads_on,
        Bounds(jobs=1, saves=2, says="rollback"),
        "which was given up",
    ),
    "who removes builds on what he has read, wherever it comes to stand": (
        builds_on_an_older_entry,
        Bounds(jobs=1, says="remove"),
        "more than a removal|drops",
    ),
    "somebody leads a run that was moved": (
        leads_what_was_moved,
        Bounds(jobs=1, says="move"),
        "is said of a run|moved",
    ),
    "retention does not keep what a delta needs": (
        keeps_no_base,
        Bounds(jobs=1, saves=2, deltas=1),
        "a delta is live without what it needs",
    ),
    "a delta replaces what it should once it alone was read back": (
        reads_back_the_newest_alone,
        Bounds(jobs=1, saves=2, deltas=1, rotten=1),
        "no live checkpoint is good",
    ),
    "a delta is committed on whatever it says": (
        takes_any_base,
        Bounds(jobs=1, saves=3, deltas=2, stale=True),
        "a delta on what is not the newest",
    ),
    "the commit of a delta does not say so": (
        forgets_the_base,
        Bounds(jobs=1, saves=2, deltas=1),
        "is a delta on .*, and on '' in the log",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_protocol_is_found(broken: str) -> None:
    """Each broken protocol is found. Guards against a search that passes whatever it is given."""
    change, bounds, what = BROKEN[broken]
    with change(), pytest.raises(Violation, match=what) as found:
        Search(bounds).run()
    print(f"\n{broken}: {found.value}")
