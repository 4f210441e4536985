"""The kinds of worlds, as a manager works with them: what a worker holds of the state, and what it is to do for a save.

This module needs no TensorFlow before the first snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from holdfast.arguments import Arguments
from holdfast.context import check_layers
from holdfast.restoring.agree import Stage
from holdfast.restoring.staging import Staged, stage
from holdfast.saving.provenance import strategy_name
from holdfast.saving.save import Save, Terms
from holdfast.session.session import Session
from holdfast_storage.errors import InvalidRequest

Reading = Callable[[int, str, float], Stage[Staged]]
"""Returns what reads the proposed checkpoints of one restore call, by its ordinal, target and timeout. On the lane."""


class World(Protocol):
    """A world, for the manager of one of its tasks."""

    @property
    def collective(self) -> bool:
        """Whether the last snapshot was a collective: then all workers take the next one, whatever happens."""

    @property
    def strategy(self) -> str:
        """The distribution strategy of the variables; empty if there is none."""

    def check(self) -> None:
        """Raise InvalidRequest for what cannot be saved, before anybody joins."""

    def join(self) -> None:
        """Wait until all tasks have joined. On the lane."""

    def settle(self) -> None:
        """Wait for what is under way and changes variables. Raises its errors."""

    def capture(self, save: Save, ordinal: int) -> None:
        """Give a save, which will be the one of that number, the values of this moment."""

    def reading(self) -> Reading:
        """Return how a checkpoint is read that fits the objects of this moment."""


class Replicated:
    """A world whose workers each hold the whole state: one worker, or several of MultiWorkerMirroredStrategy."""

    def __init__(self, session: Session, checkpoint: Any, per_worker: Any) -> None:
        self._session = session
        self._checkpoint = checkpoint
        self._per_worker = per_worker
        self._snapshotters: tuple[Any, Any] | None = None
        self.collective = True  # assumed before the first snapshot

    @property
    def strategy(self) -> str:
        return strategy_name(self._checkpoint)

    def check(self) -> None:
        check_layers(self._checkpoint)
        if self._per_worker is not None:
            from holdfast.saving.iterators import check_iterators

            check_iterators(self._per_worker, "per_worker.")

    def join(self) -> None:
        self._session.join()

    def settle(self) -> None:
        pass  # whoever calls `save` is between two steps of all workers

    def capture(self, save: Save, ordinal: int) -> None:
        from holdfast.saving.capture import Snapshotter

        if self._snapshotters is None:
            own = Snapshotter(self._per_worker) if self._per_worker is not None else None
            self._snapshotters = (Snapshotter(self._checkpoint), own)
        main, own = self._snapshotters
        save.snapshot = main.capture()
        save.per_worker = own.capture() if own else None
        self.collective = save.snapshot.collective

    def reading(self) -> Reading:
        from holdfast.restoring.apply import Values

        me = self._session.this_task
        return lambda ordinal, target, timeout: partial(stage, task=me.task, world=me.tasks, values=Values)


def world_of(session: Session, checkpoint: Any, given: Arguments, terms: Terms) -> World:
    """Return the world that a task is of. Raises InvalidRequest for what a manager cannot do there."""
    if not session.this_task.has_servers:
        return Replicated(session, checkpoint, given.per_worker)
    if given.per_worker is not None:
        raise InvalidRequest(
            "per_worker cannot be saved with parameter servers: their workers come and go, and take no part in saves",
            object="per_worker",
        )
    from holdfast.servers.world import ServedWorld

    return ServedWorld(session, checkpoint, terms, given)
