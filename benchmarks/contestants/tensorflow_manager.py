"""TensorFlow's own checkpoints, written at once or in the background."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.contestants.base import Contestant


class TensorFlowManager(Contestant):
    """`tf.train.CheckpointManager` as the tutorials use it: `save()` writes and returns."""

    enable_async = False

    def open(self, directory: Path, max_to_keep: int | None) -> None:
        """Make a manager for the directory."""
        self._directory = directory
        self._manager: Any = tf.train.CheckpointManager(self.training.checkpoint, str(directory), max_to_keep)

    def save(self) -> None:
        """Call `CheckpointManager.save()`; nothing is fsynced."""
        options = tf.train.CheckpointOptions(enable_async=self.enable_async)
        self._manager.save(options=options)

    def settle(self) -> None:
        """Call `Checkpoint.sync()`, which returns when the background thread, if there is one, has written."""
        self.training.checkpoint.sync()

    def save_durably(self) -> None:
        """Save, wait, and fsync what was written: TensorFlow has no option for that, so it is done for it here.

        File by file and then the folder, the fewest calls that make the newest checkpoint and its mention in the state
        file survive a power failure. Files of earlier saves are clean or gone by then and cost nothing.
        """
        self.save()
        self.settle()
        newest = Path(self._manager.latest_checkpoint).name
        for file in self._directory.iterdir():
            if file.name.startswith(f"{newest}.") or file.name == "checkpoint":
                fsync(file)
        fsync(self._directory)

    def restore(self, directory: Path) -> None:
        """A new manager, as after a restart, and its newest checkpoint."""
        self.open(directory, max_to_keep=None)
        if self._manager.restore_or_initialize() is None:
            raise RuntimeError(f"TensorFlow found no checkpoint in {directory}")

    def close(self) -> None:
        """Wait for the last save; the manager itself has nothing to close."""
        self.settle()


class TensorFlowAsyncManager(TensorFlowManager):
    """The same with `enable_async`: the state is copied, then written by a background thread."""

    enable_async = True


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
