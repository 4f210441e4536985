"""What Holdfast asks of a storage: eight verbs below one run directory.

Names are relative POSIX paths such as `ckpt-1000.7f3a2c1b.12/ckpt-1000.index`. All verbs are synchronous, may be called
from several threads at once, and raise `StorageError` (naming the object by its full path) for anything that is not
the answer: an unreadable object is never reported as a missing one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Protocol

from holdfast_storage.errors import InvalidRequest, StorageError

Buffer = bytes | bytearray | memoryview


class NotCreated(StorageError):
    """`create` failed before anything could become visible: the outcome is known, nothing was made."""


UNPROTECTED = (
    "With one coordinator at a time all is well. Two at once, of two jobs in this directory or of one that was started "
    "again while the old one still ran, can overwrite each other's commits"
)
"""What it means that nothing creates an object only if there is none."""

_creating: dict[str, threading.Lock] = {}  # by URL
os.register_at_fork(after_in_child=_creating.clear)  # whoever held one is not there


def creating(url: str) -> threading.Lock:
    """What makes a create exclusive among the stores of this process with one URL, where the storage does not."""
    return _creating.setdefault(url, threading.Lock())


def check_process(process: int, url: str) -> None:
    """InvalidRequest in a process that was forked from the one which opened a store: it has none of its connections."""
    if os.getpid() != process:
        raise InvalidRequest(
            f"{url} was opened before this process was forked, and its connections belong to the other one: open it "
            "here again, or let multiprocessing start processes by 'spawn'",
            object=url,
        )


class Store(Protocol):
    """A run directory."""

    url: str
    """The directory, normalised: an absolute local path without `file://`, or `protocol://path`."""

    parallel: int
    """How many objects are worth writing, or ranges worth reading, at a time."""

    block: int
    """Bytes that are worth reading at once."""

    def create(self, name: str, data: Buffer) -> bool:
        """Make a small object durable under a name that must be free: True if this call made it, False if taken.

        Atomic: of any number of callers exactly one gets True, and no reader ever sees a part of the object. Raises
        `StorageError` when the outcome is unknown; the caller then reads the object back. Raises `NotCreated` (no
        space, no permission) where it is certain that this call made nothing. Where the answer to a try was lost, to
        find just these bytes there counts as having made them: bytes that must be one's own carry something unique.
        """
        ...

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        """Make a new, large object durable and return its size in bytes. The name is free by construction.

        The chunks are not copied where that can be avoided: they must not change before this returns.

        Not atomic: what a crash leaves behind is part of no commit. Raises `StorageError` if the name is taken.
        """
        ...

    def replace(self, name: str, data: Buffer) -> None:
        """Atomically set a small derived object, whether or not it exists."""
        ...

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object, or of a range of it (fewer where the object ends). FileNotFoundError if missing."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from an object at `offset`; the bytes read, fewer at its end. FileNotFoundError if missing."""
        ...

    def size(self, name: str) -> int | None:
        """Size of an object in bytes, None if there is none."""
        ...

    def list(self, folder: str = "", start: str = "") -> list[str]:
        """Names of what lies directly below a folder, relative to it, sorted; folders end in `/`. Empty if missing.

        start: only names that start so, which an object store finds without looking at the others.
        """
        ...

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all below it. Nothing happens if there is none."""
        ...
