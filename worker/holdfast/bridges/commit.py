"""Commits what was imported as a step of a run, by all rules of the log: as a job of one worker would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from holdfast.manager import Manager
from holdfast.saving.save import Save
from holdfast.saving.snapshot import Snapshot
from holdfast.session.session import Session
from holdfast.session.this_task import ALONE, ThisTask
from holdfast.world import Replicated, World


def commit(snapshot: Snapshot, run: str, step: int, metadata: Mapping[str, Any]) -> str:
    """Save a snapshot into a run, and return its prefix. Nothing that is there is removed.

    Raises what `CheckpointManager` raises, such as if another job uses the run.
    """
    with _Importer(snapshot, run) as manager:
        prefix = manager.save(step, metadata=metadata, blocking=True)
    assert prefix is not None
    return prefix


class _Taken(Replicated):
    """A world of one, whose snapshot was taken before."""

    def __init__(self, session: Session, checkpoint: Any, snapshot: Snapshot) -> None:
        super().__init__(session, checkpoint, None)
        self._snapshot = snapshot

    def capture(self, save: Save, ordinal: int) -> None:
        save.snapshot = self._snapshot


class _Importer(Manager):
    """A manager that saves one snapshot, whatever cluster and coordinator the environment names."""

    def __init__(self, snapshot: Snapshot, run: str) -> None:
        self._snapshot_taken = snapshot
        super().__init__(tf.train.Checkpoint(), run, max_to_keep=None, coordinator="")

    def _find_task(self) -> ThisTask:
        return ALONE

    def _here(self) -> World:
        if self._world is None:
            self._world = _Taken(self._session, self._checkpoint, self._snapshot_taken)
        return self._world
