"""Holdfast, with its defaults: a world of one worker, coordinator in the process."""

from __future__ import annotations

from pathlib import Path

import holdfast
from benchmarks.contestants.base import Contestant


class HoldfastManager(Contestant):
    """`holdfast.CheckpointManager`: `save()` snapshots, the rest happens in the background, fsync included."""

    def open(self, directory: Path, max_to_keep: int | None) -> None:
        """Make a manager for the directory."""
        self._manager = holdfast.CheckpointManager(self.training.checkpoint, str(directory), max_to_keep=max_to_keep)

    def save(self) -> None:
        """Call `save()` with its defaults."""
        self._manager.save()

    def settle(self) -> None:
        """Call `wait()`, which raises if a save has failed."""
        self._manager.wait()

    def save_durably(self) -> None:
        """`save(blocking=True)` returns after the commit, and a commit is durable: no fsync by the harness."""
        self._manager.save(blocking=True)

    def restore(self, directory: Path) -> None:
        """A new manager, as after a restart, and the newest checkpoint, every byte of it verified."""
        self.open(directory, max_to_keep=None)
        if self._manager.restore_or_initialize() is None:
            raise RuntimeError(f"Holdfast found no checkpoint in {directory}")

    def close(self) -> None:
        """Close the manager, which waits for the last save."""
        self._manager.close()
