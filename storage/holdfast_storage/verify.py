"""Reading back every byte of a checkpoint against its digests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

ProblemKind = Literal["damaged", "unreadable"]
Verdict = Literal["good", "damaged", "unreadable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one object."""

    object: str  # relative to the run directory
    kind: ProblemKind  # damaged: missing or not what was committed; unreadable: the storage did not answer
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found."""

    prefix: str
    objects: int  # looked at
    size: int  # bytes read
    problems: tuple[Problem, ...]

    @property
    def verdict(self) -> Verdict:
        raise NotImplementedError

    def raise_if_bad(self) -> None:
        """CheckpointDamaged or StorageError, naming the objects; nothing if all is good."""
        raise NotImplementedError


def verify_checkpoint(
    store: Store,
    record: CheckpointRecord,
    *,
    objects: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
    sink: Callable[[str, int, memoryview], None] | None = None,
    threads: int = 2,
) -> Report:
    """Read a checkpoint and check every digest.

    objects: names relative to the checkpoint's folder (for stock: to the run directory) to look at; all if None.
    progress: told the bytes of each chunk read. sink: given (object relative to the run directory, offset, bytes) of
    each chunk, before the verdict; the bytes are valid during the call alone. Both are called from several threads.
    """
    raise NotImplementedError


def verify_size(store: Store, record: CheckpointRecord) -> int:
    """Bytes that verify_checkpoint would read, for a progress bar."""
    raise NotImplementedError
