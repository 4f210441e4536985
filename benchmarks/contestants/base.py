"""What the harness asks of a contestant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.training import Training


class Contestant(ABC):
    """Saves and restores the state of one `Training`, in one directory at a time."""

    def __init__(self, training: Training) -> None:
        self.training = training

    @abstractmethod
    def open(self, directory: Path, max_to_keep: int | None) -> None:
        """Get ready to save into an empty directory, keeping so many checkpoints (None: all)."""

    @abstractmethod
    def save(self) -> None:
        """Save as a training loop does; returns when training may go on."""

    @abstractmethod
    def settle(self) -> None:
        """Return when no save is under way."""

    @abstractmethod
    def save_durably(self) -> None:
        """Save; returns when every byte would survive a power failure."""

    @abstractmethod
    def restore(self, directory: Path) -> None:
        """Restore the newest checkpoint there into the variables, knowing nothing but the directory."""

    def restored(self) -> list[memoryview]:
        """Return the buffers into which `restore` put the state."""
        return self.training.buffers()

    @abstractmethod
    def close(self) -> None:
        """Let go of the directory."""
