"""Saves of one task, one after the other."""

from __future__ import annotations

from holdfast.saving.save import Save
from holdfast_storage.errors import StorageError


class Turns:
    """Runs saves. Of threads that a storage may never let go, it leaves no more than one behind."""

    def __init__(self) -> None:
        self._left: Save | None = None  # a save that is over, and whose thread still waits for its storage

    def take(self, save: Save) -> None:
        """Run a save until its outcome is known."""
        if self._left is not None and self._left.is_busy:
            save.local_error = save.local_error or StorageError(
                f"its storage has still not answered the save of step {self._left.step}", phase="write"
            )
        save.run()
        if save.abandoned:
            self._left = save
