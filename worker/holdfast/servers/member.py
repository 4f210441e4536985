"""A parameter server's part in the world of one manager of a chief."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from holdfast.incremental import Incremental
from holdfast.restoring.wanted import Wanted
from holdfast.saving.increments import Increments
from holdfast.saving.plan import Plan
from holdfast.saving.save import Terms
from holdfast.saving.snapshot import SnapshotTensor
from holdfast.saving.turns import Turns
from holdfast.session.lane import Lane, Pending
from holdfast.session.requests import Wish
from holdfast.session.session import Session
from holdfast.session.this_task import ThisTask
from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.lag import Wait
from holdfast_storage.layout import KEY
from holdfast_storage.logger import logger
from holdfast_storage.run_key import read_key
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store

log = logger("holdfast")


LEAVE_WITHIN = 5.0
"""Seconds for the coordinator's part in leaving."""


@dataclass(frozen=True, slots=True)
class Enlisting:
    """What a chief says when it enlists a server. Nothing of it is secret: each server has its own credentials."""

    run: str  # the run directory
    cluster: Cluster
    coordinator: str  # that the chief's program names; empty: it is embedded in the chief
    embedded_at: str  # where that one listens
    join_timeout: float
    terms: Terms
    full_every: int  # of so many checkpoints one is full; 0: all are
    grace: float  # seconds from SIGTERM until a host is gone; 0: the chief's program does not save at such notice
    exits: bool  # whether it ends once it has saved at such notice


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this server holds of a checkpoint, and how it is to be written."""

    tensors: tuple[SnapshotTensor, ...]  # without their bytes
    plan: Plan
    tables: frozenset[int]  # positions


class Member:
    """It opens the store and joins on its own lane, as a manager does, and so keeps no thread of TensorFlow's."""

    def __init__(self, task: Task, said: Enlisting, storage_options: Mapping[str, Any] | None) -> None:
        self.task = task
        self.said = said
        self.turns = Turns()
        self.increments = Increments(Incremental(full_every=said.full_every)) if said.full_every else None
        self.assignments: dict[str, Assignment] = {}  # the last one, by its digest
        self.restores: dict[int, Pending[Wanted | None]] = {}  # by ordinal, what this server has of each
        self.begun = self.done = 0  # saves; the last one that is over
        self._noticed = 0  # the last one that had begun before the notice
        self.lane = Lane("holdfast-calls")
        self._options = storage_options
        self._session: Session | None = None
        self._store: Store | None = None
        self.opened = self.lane.submit(self._open)
        self.joined = self.lane.submit(self._join)

    @property
    def session(self) -> Session:
        assert self._session is not None, "not before it is open"
        return self._session

    @property
    def store(self) -> Store:
        assert self._store is not None, "not before it is open"
        return self._store

    def check(self) -> None:
        """Raise the error for which this server can have no part in the world."""
        for step in (self.opened, self.joined):
            if step.is_known:
                step.result()
        if self._session is not None and self._session.superseded is not None:
            raise self._session.superseded

    @property
    def has_failed(self) -> bool:
        """Whether this server can have no part in the world."""
        try:
            self.check()
        except Exception:
            return True
        return False

    def is_over(self, gone_after: float) -> bool:
        """Return whether this world has ended, or its coordinator has been away for so many seconds."""
        if self.has_failed:
            return True
        away = self._session.away_since if self._session is not None else None
        return away is not None and time.monotonic() - away > gone_after

    def give_notice(self) -> float:
        """Wish that all save, since this host goes away. Return for how many seconds to wait for that."""
        session = self._session
        if not self.said.grace or session is None or self.has_failed or session.away_since is not None:
            return 0.0
        self._noticed = self.begun
        session.ask(Wish(f"SIGTERM on {self.task}", self.said.exits, time.monotonic() + self.said.grace))
        return self.said.grace

    @property
    def has_saved(self) -> bool:
        """Whether a save that was begun after the notice is over."""
        return self.done > self._noticed

    def leave(self, *, at_once: bool = False) -> Pending[None]:
        """Leave, after the save that is under way unless `at_once`. Returns what is known then."""
        # A join in progress must give up, and so must a restore, which waits for others.
        is_settled = self.joined.is_known and all(each.is_known for each in self.restores.values())
        at_once = at_once or not is_settled
        lane = Lane("holdfast-leave") if at_once else self.lane
        left = lane.submit(self._close)
        lane.end()
        self.lane.end()
        return left

    def close_restores(self, before: int | None = None) -> None:
        """Release what restores hold: all of them, or those before one."""
        for ordinal in [each for each in self.restores if before is None or each < before]:
            agreed = self.restores.pop(ordinal)
            with suppress(HoldfastError):
                if agreed.is_known and (wanted := agreed.result()) is not None:
                    wanted.close()

    def _close(self) -> None:
        if self._session is not None:
            self._session.close(LEAVE_WITHIN)
        self.close_restores()

    def _open(self) -> None:
        said = self.said
        store, wait = open_store(said.run, self._options), Wait()
        # The chief has seen it. To make another one here would hide that this is another directory.
        while read_key(store) is None:
            if not wait.again(f"{store.url}/{KEY} is not there"):
                raise InvalidRequest(
                    f"{self.task} does not find the chief's run directory at {store.url}: {KEY} is not there. Check "
                    "that chief and servers have the same storage at this place",
                    object=store.url,
                )
        this_task = ThisTask(self.task, said.cluster)
        self._store = store
        self._session = Session(this_task, store, said.coordinator, said.join_timeout, said.embedded_at)

    def _join(self) -> None:
        if self._session is not None:
            self._session.join()
