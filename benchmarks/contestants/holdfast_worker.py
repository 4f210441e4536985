"""Holdfast on an object store, with its defaults: the coordinator is in the chief's process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

import holdfast
from benchmarks.contestants.sharer import Sharer, State


class HoldfastWorker(Sharer):
    """`holdfast.CheckpointManager` over TensorFlow variables: digests, manifest, log and commit included."""

    def __init__(self, rank: int, addresses: Sequence[str]) -> None:
        super().__init__(rank, addresses)
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}}
        )

    def open(self, state: State, url: str, storage_options: Mapping[str, Any]) -> None:
        self._place = url, dict(storage_options)
        self._variables = [tf.Variable(each) for each in state]
        self._checkpoint = tf.train.Checkpoint(variables=self._variables)
        self._manager = self._new_manager()

    def prepare(self) -> None:
        """The first save of a run also takes the lead of it. A job does that once: as with files, it is not timed."""
        self._manager.save(blocking=True)

    def save(self) -> None:
        """Call `save(blocking=True)`, which returns after the commit."""
        self._manager.save(blocking=True)

    def forget(self) -> None:
        for variable in self._variables:
            variable.assign(tf.zeros_like(variable))
        self._manager.close()
        self._manager = self._new_manager()
        # Has it connect to the store, as all others did in earlier turns.
        if self._manager.latest_checkpoint is None:
            raise RuntimeError(f"Holdfast has saved nothing to {self._place[0]}")

    def restore(self) -> None:
        """Restore with a new manager, as after a restart. Every byte is verified, and joining the world is timed."""
        if self._manager.restore_or_initialize() is None:
            raise RuntimeError(f"Holdfast found no checkpoint in {self._place[0]}")

    def restored(self) -> Sequence[Any]:
        return [memoryview(variable.read_value()).cast("B") for variable in self._variables]

    def close(self) -> None:
        self._manager.close()
        del self._manager, self._checkpoint, self._variables

    def _new_manager(self) -> holdfast.CheckpointManager:
        url, options = self._place
        return holdfast.CheckpointManager(self._checkpoint, url, storage_options=options)
