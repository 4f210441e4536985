"""What the harness asks of a contestant that saves to an object store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

State = list[Any]
"""Arrays of numpy."""


class Sharer(ABC):
    """One of the workers that all have the same state, save it together, and each restore all of it.

    Attributes:
        rank: number of the worker; 0 is the chief.
        addresses: "host:port" of all of them, at which nobody listens yet.
    """

    def __init__(self, rank: int, addresses: Sequence[str]) -> None:
        self.rank = rank
        self.addresses = addresses

    @abstractmethod
    def open(self, state: State, url: str, storage_options: Mapping[str, Any]) -> None:
        """Get ready, as a job does at its start, to save this state below a URL where nothing is yet."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what comes once in a run, before its saves are all alike."""

    @abstractmethod
    def save(self) -> None:
        """Save this worker's part; returns when the store has acknowledged it, and it counts."""

    @abstractmethod
    def forget(self) -> None:
        """Lose the state, so that only a restore can bring it back."""

    @abstractmethod
    def restore(self) -> None:
        """Read everything that all workers have saved, knowing nothing but the URL."""

    @abstractmethod
    def restored(self) -> Sequence[Any]:
        """The restored state: its bytes in order, in any number of buffers."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the state and of the place."""


class RawSharer(Sharer):
    """An object for each variable, every so many of them written by each worker, and nothing that makes them one.

    What is read is left where the library puts it: another copy would be no part of the limit.
    """

    def open(self, state: State, url: str, storage_options: Mapping[str, Any]) -> None:
        self._state = [memoryview(each).cast("B") for each in state]
        self._sizes = [view.nbytes for view in self._state]
        self._buffers: list[Any] = []
        self.connect(url, storage_options)

    def save(self) -> None:
        self.write({f"{number}": self._state[number] for number in range(self.rank, len(self._state), self.workers)})

    @property
    def workers(self) -> int:
        return len(self.addresses)

    def forget(self) -> None:
        self._state.clear()

    def restore(self) -> None:
        self._buffers = self.read({f"{number}": size for number, size in enumerate(self._sizes)})

    def restored(self) -> Sequence[Any]:
        return self._buffers

    def close(self) -> None:
        self._buffers.clear()

    @abstractmethod
    def connect(self, url: str, storage_options: Mapping[str, Any]) -> None:
        """Work below a URL from now on. Connections are kept from one to the next."""

    @abstractmethod
    def write(self, objects: Mapping[str, memoryview]) -> None:
        """Make objects."""

    @abstractmethod
    def read(self, sizes: Mapping[str, int]) -> list[Any]:
        """The bytes of objects, back to back, given their sizes."""
