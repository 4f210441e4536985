"""The world of a chief and its parameter servers, for the chief's manager."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from holdfast.arguments import Arguments
from holdfast.restoring.agree import Stage
from holdfast.restoring.staging import Staged
from holdfast.saving.provenance import versions
from holdfast.saving.save import Save, Terms
from holdfast.servers.cut import Cutter
from holdfast.servers.fleet import Servers
from holdfast.servers.spread import Spread
from holdfast.session.session import Session
from holdfast.tensorflow_internals import await_scheduled, strategies_of
from holdfast.trackables import kind_of
from holdfast_protos.client import Unreachable
from holdfast_storage.errors import CoordinatorUnavailable
from holdfast_storage.logger import logger

log = logger("holdfast")

LOOK_EVERY = 0.1
"""Seconds between two questions whether all servers have opened the storage."""


class ServedWorld:
    """See `holdfast.world.World`.

    Args:
        session: the chief's.
        checkpoint: the `tf.train.Checkpoint` of the manager.
        terms: the terms of its saves, which the servers are told.
        given: the manager's arguments.
    """

    collective = False

    def __init__(self, session: Session, checkpoint: Any, terms: Terms, given: Arguments) -> None:
        self._session = session
        self._checkpoint = checkpoint
        self._terms = terms
        self._given = given
        self._join_timeout = given.join_timeout
        count = len(dict(session.this_task.cluster)["ps"])
        self.servers = Servers(count, session.member[1], terms.save_timeout)
        self.cutter = Cutter(checkpoint, self.servers)

    @property
    def strategy(self) -> str:
        return next(map(kind_of, strategies_of(self._checkpoint)), "")

    def check(self) -> None:
        """Raise InvalidRequest, by its name, for what cannot be saved."""
        self.cutter.table()

    def join(self) -> None:
        """Enlist all servers, and join with them. On the lane."""
        self._enlist()
        self._session.farewell = self.servers.say_farewell  # otherwise the coordinator waits for them at the end
        self._session.join()

    def settle(self) -> None:
        """Wait until nothing is under way that changes variables, so far as can be known: what was scheduled on a
        `ClusterCoordinator`. Raises its errors."""
        for strategy in list({id(each): each for each in strategies_of(self._checkpoint)}.values()):
            await_scheduled(strategy)

    def capture(self, save: Save, ordinal: int) -> None:
        save.snapshot, save.assigned = self.cutter.cut(ordinal, save.step, save.increments)

    def reading(self) -> Callable[[int, str, float], Stage[Staged]]:
        table = self.cutter.table()
        return lambda ordinal, target, timeout: Spread(self.servers, table, ordinal, target, timeout).stage

    def _enlist(self) -> None:
        end = time.monotonic() + self._join_timeout
        while True:
            try:
                coordinator, embedded_at = self._session.serve()
                break
            except Unreachable as error:
                if time.monotonic() > end:
                    raise CoordinatorUnavailable(f"the parameter servers cannot be enlisted: {error}") from error
                time.sleep(LOOK_EVERY)
        terms, incremental, preemption = asdict(self._terms), self._given.incremental, self._given.preemption
        del terms["keep"]  # which is the chief's to say
        self.servers.everyone(
            "enlist",
            version=versions()["holdfast"],
            run=self._session.url,
            cluster=self._session.this_task.cluster,
            coordinator=coordinator,
            embedded_at=embedded_at,
            join_timeout=self._join_timeout,
            terms=terms,
            full_every=incremental.full_every if incremental is not None else 0,
            grace=preemption.grace if preemption is not None else 0.0,
            exits=preemption is not None and preemption.exits,
        )
        while not all(self.servers.everyone("stand")):
            if time.monotonic() > end:
                raise CoordinatorUnavailable(
                    f"not all parameter servers have opened {self._session.url} within {self._join_timeout:.0f} s"
                )
            time.sleep(LOOK_EVERY)
