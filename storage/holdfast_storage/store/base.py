"""The interface of a storage: ten verbs below one run directory.

Names are relative POSIX paths such as `ckpt-1000.7f3a2c1b.12/ckpt-1000.index`. All verbs are synchronous and may be
called from several threads at once. They raise `StorageError`, which names the object by its full path, for anything
that is not an answer: an unreadable object is never reported as a missing one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Protocol

from holdfast_storage.errors import InvalidRequest, StorageError

Buffer = bytes | bytearray | memoryview


class NotCreated(StorageError):
    """`create` failed before anything could become visible. The outcome is known: nothing was made."""


class TooLarge(StorageError):
    """An object has more bytes than it can rightly have. None of them was kept. To ask again is no use."""


LARGEST = 1 << 30
"""The most bytes that `read` takes of an object of which nothing more exact is known."""

UNPROTECTED = (
    "One coordinator at a time is safe. Two at once can overwrite each other's commits: those of two jobs in this "
    "directory, or of a job that was started again while the old one still ran"
)
"""What follows for the user if a storage has no atomic create."""


def too_large(full: str, limit: int) -> TooLarge:
    """Return the error for an object, given by its full path, of more than `limit` bytes."""
    return TooLarge(f"Could not read {full}: it has more than {limit:,} bytes, which it never should", object=full)


_creating: dict[str, threading.Lock] = {}  # by URL
os.register_at_fork(after_in_child=_creating.clear)  # in a fork, whoever held one does not exist


def creating(url: str) -> threading.Lock:
    """Return the lock that makes a create exclusive among the stores of this process with one URL."""
    return _creating.setdefault(url, threading.Lock())


def check_process(process: int, url: str) -> None:
    """Raise InvalidRequest in a fork of the process that opened a store: a fork does not have its connections."""
    if os.getpid() != process:
        raise InvalidRequest(
            f"{url} was opened before this process was forked, and its connections belong to the other one: open it "
            "here again, or let multiprocessing start processes by 'spawn'",
            object=url,
        )


class Store(Protocol):
    """A run directory. A class that inherits from this gets the verbs that only local files need a body for."""

    url: str
    """The run directory, normalised: an absolute local path without `file://`, or `protocol://path`."""

    parallel: int
    """The number of objects to write, or of ranges to read, at a time for the best speed."""

    block: int
    """The bytes to read at once for the best speed."""

    local: bool = False
    """Whether the objects are files that this host can open."""

    @property
    def exclusive(self) -> bool:
        """Whether `create` has one winner among the callers of all processes, as far as is known."""
        return True

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        """Make a small object durable under a name that must be free. Return False if the name is taken.

        This is atomic: of any number of callers exactly one gets True, and no reader ever sees a part of the object.
        Raises `NotCreated` (no space, no permission) if it is certain that this call made nothing, and `StorageError`
        if the outcome is unknown; the caller then reads the object back. If the answer to a try was lost, finding
        exactly these bytes there counts as having made them. So bytes that must be the caller's own contain something
        unique.

        private: on a file system, only this user can read the object, from its first instant, and in a folder with the
        setgid bit also the folder's group. Elsewhere, whoever can read the run directory.
        """
        ...

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        """Make a new, large object durable and return its size in bytes. The name is free by construction.

        The chunks are not copied if that can be avoided, so they must not change before this returns.

        This is not atomic: what a crash leaves behind is part of no commit. Raises `StorageError` if the name is taken.
        """
        ...

    def replace(self, name: str, data: Buffer) -> None:
        """Write a small derived object atomically, whether or not it exists."""
        ...

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        """Return the bytes of an object. Raises FileNotFoundError if it is missing.

        Raises `TooLarge` if they are more than `limit`, having taken the memory for no more than these.
        """
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from an object at `offset`. Return the bytes read. FileNotFoundError if it is missing."""
        ...

    def open(self, name: str) -> int:
        """Return a file descriptor for reading an object, which the caller closes. Only if `local`.

        The object stays readable through it after `delete_folder`. Raises FileNotFoundError if it is missing.
        """
        raise FileNotFoundError(f"{name} in {self.url} is no local file")

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if there is none."""
        ...

    def list(self, folder: str = "", start: str = "") -> list[str]:
        """Return the sorted names directly below a folder, relative to it. Folders end in `/`. Empty if it is missing.

        start: only names that start with it, which an object store finds without looking at the others.
        """
        ...

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all below it, if it exists."""
        ...

    def remove_leftovers(self, folder: str = "") -> None:
        """Remove what killed processes have left directly in a folder under names of its own, if it is old enough."""
        return
