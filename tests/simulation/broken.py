"""Protocols that lose something: the product with one rule broken, to show that the simulation would notice.

Each is as small a change as breaks the rule, made where the product keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

import holdfast_coordinator.core.vote
import holdfast_coordinator.driver
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.agreement import Agreement
from holdfast_coordinator.core.effects import DeleteFolder, Finalize, ListObjects, ReadBackCheckpoint
from holdfast_coordinator.core.reading_back import ReadingBack
from holdfast_coordinator.core.retention import sweep
from holdfast_coordinator.core.run import RunState
from holdfast_coordinator.core.upkeep import Upkeep
from holdfast_coordinator.threads import DaemonThreads
from holdfast_storage.errors import StorageError
from holdfast_storage.log.log import Log
from simulation import patches
from simulation.fakes import here
from simulation.interruptions import Interruption
from simulation.story import Story
from support.overwriting_store import OverwritingStore
from support.without_bases import keeps_no_base


@dataclass(frozen=True)
class Broken:
    """A rule that is not kept.

    kinds: of the violations that show it.
    wants: whether a story has what it takes to show it. Of those that have, one in a few does.
    """

    rule: str
    kinds: tuple[str, ...]
    wants: Callable[[Story | Interruption], bool]
    change: Callable[[], Any]


def _overwritten() -> Any:
    """Log entries are written over what is there."""
    publish = Log.publish

    def careless(self: Log, *args: Any) -> Any:
        log = Log(OverwritingStore(self._store))  # type: ignore[arg-type]
        return publish(log, *args)

    return mock.patch.object(Log, "publish", careless)


def _commit_first() -> Any:
    """The commit entry is made before index and manifest are."""
    finalize = holdfast_coordinator.driver.finalize

    class Late:
        """Creates nothing before the entry stands."""

        def __init__(self, store: Any) -> None:
            self._store = store
            self.created: dict[str, bytes] = {}

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def create(self, name: str, data: bytes) -> bool:
            self.created[name] = bytes(data)
            return True

        def make(self, name: str, data: bytes) -> None:
            with suppress(StorageError):
                self._store.create(name, data)

        def size(self, name: str) -> int | None:
            return len(self.created[name]) if name in self.created else self._store.size(name)

    def careless(store: Any, effect: Finalize, wait: object) -> ev.Finalized:
        late = Late(store)
        done = finalize(late, effect)  # type: ignore[arg-type]
        for name, data in late.created.items():
            store._process.spawn("late", late.make, name, data)
        return done

    return mock.patch.object(holdfast_coordinator.driver, "finalize", careless)


def _deleted_first() -> Any:
    """A folder is deleted before the entry that retires it."""
    read_back = Upkeep.read_back

    def careless(self: Upkeep, e: ev.ReadBack) -> None:
        state = self._run.ledger.state
        if state is not None and e.verdict == "good":
            for prefix in sweep(state, self._run.retention, e.prefix).retire:
                self._run.emit(DeleteFolder(prefix.partition("/")[0]))
        read_back(self, e)

    return mock.patch.object(Upkeep, "read_back", careless)


def _not_read_back() -> Any:
    """Retire what a new checkpoint replaces before that one was read back."""
    consider = Upkeep.consider

    def careless(self: Upkeep) -> None:
        consider(self)
        if self._reading_back:
            self._run.effects[:] = [e for e in self._run.effects if not isinstance(e, ReadBackCheckpoint | ListObjects)]
            self.read_back(ev.ReadBack(self._reading_back, "good"))

    return mock.patch.object(Upkeep, "consider", careless)


def _missing_answers_are_good() -> Any:
    """What workers were asked to read is good once one of them has said so of its part."""
    examined = ReadingBack.examined

    def careless(self: ReadingBack, e: ev.Examined) -> Any:
        if e.verdict == "good" and e.caller in self._asked:
            self._unread.clear()
        return examined(self, e)

    return mock.patch.object(ReadingBack, "examined", careless)


def _heeds_no_lease() -> Any:
    """What somebody has leased is retired."""
    return mock.patch.object(RunState, "sweep", lambda self, state, verified: sweep(state, self.retention, verified))


def _inherited() -> Any:
    """A fork has its parent's identity."""

    def careless(self: object, key: object, value: bytes) -> bytes:
        kept = here().memory.secrets
        return next(iter(kept.values())) if kept else kept.setdefault(key, value)

    return mock.patch.object(patches.Secrets, "setdefault", careless)


def _counted_for_ever() -> Any:
    """A thread that could not be started is counted."""
    begin = DaemonThreads._begin

    def careless(self: DaemonThreads) -> None:
        try:
            begin(self)
        except RuntimeError:
            self._threads += 1
            self._count = min(self._count, 2)  # few threads, so that few failures are enough

    return mock.patch.object(DaemonThreads, "_begin", careless)


def _never_together_again() -> Any:
    """Let a worker that has missed a save call not count it."""
    return mock.patch.object(holdfast_coordinator.core.vote, "_ahead", return_value=())


def _smallest_promise() -> Any:
    """All save at the smallest promise, which somebody may have passed."""
    return mock.patch.object(Agreement, "boundary", property(lambda self: min(self.promises.values())))


def any_story(story: Story | Interruption) -> bool:
    return isinstance(story, Story)


def loses_a_commit(story: Story | Interruption) -> bool:
    """Whether the answer to a commit entry is lost, and its writer has no storage after that."""
    return isinstance(story, Story) and story.faults.commit_outage in ("late", "lose")


def rots(story: Story | Interruption) -> bool:
    """Whether the one checkpoint that is kept may be damaged."""
    if not isinstance(story, Story):
        return False
    return story.faults.rot > 0.1 and story.jobs[0].options.get("max_to_keep") == 1


def rots_for_several(story: Story | Interruption) -> bool:
    """As `rots`, where several workers read a checkpoint back."""
    return rots(story) and isinstance(story, Story) and story.jobs[0].size > 1


def saves_deltas(story: Story | Interruption) -> bool:
    """Whether a full checkpoint is replaced by deltas on it."""
    if not isinstance(story, Story):
        return False
    options = story.jobs[0].options
    return "incremental" in options and options.get("max_to_keep") == 1


def has_a_reader(story: Story | Interruption) -> bool:
    return isinstance(story, Story) and story.has_reader


def forks(story: Story | Interruption) -> bool:
    """Whether a coordinator may meet two lives of a worker that was forked."""
    return isinstance(story, Story) and story.jobs[0].forked and not story.embedded


def lacks_threads(story: Story | Interruption) -> bool:
    if not isinstance(story, Story):
        return False
    return story.faults.incidents_left > 0 and any(i.__name__ == "_no_threads" for i in story.faults.incidents)


def interrupts_saves(story: Story | Interruption) -> bool:
    """Whether a worker of several may have a signal in a save, and goes on."""
    if not isinstance(story, Interruption):
        return False
    return story.interrupts_saves and story.job.size > 1


def asks_for_saves(story: Story | Interruption) -> bool:
    """Whether workers that are apart may be asked to save."""
    return isinstance(story, Story) and story.asks and story.jobs[0].size > 1


BROKEN = (
    Broken("log entries are created exclusively", ("overwritten",), loses_a_commit, _overwritten),
    Broken("the data comes before the commit entry", ("incomplete",), any_story, _commit_first),
    Broken("a folder is deleted after the entry that retires it", ("mutated",), any_story, _deleted_first),
    Broken("nothing is retired before its successor was read back", ("forgotten",), rots, _not_read_back),
    Broken("an answer that is missing is none", ("forgotten",), rots_for_several, _missing_answers_are_good),
    Broken("what a delta needs stays", ("log",), saves_deltas, keeps_no_base),
    Broken("what somebody has leased stays", ("incomplete",), has_a_reader, _heeds_no_lease),
    Broken("a fork has an identity of its own", ("restore", "liveness"), forks, _inherited),
    Broken("who has missed a save call counts it", ("liveness",), interrupts_saves, _never_together_again),
    Broken(
        "a thread that could not be started is not counted",
        ("liveness", "left over"),
        lacks_threads,
        _counted_for_ever,
    ),
    Broken("all save at the largest promise", ("lone",), asks_for_saves, _smallest_promise),
)
