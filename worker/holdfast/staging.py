"""What a restore reads, read and verified beforehand, and laid out so that TensorFlow's own reader takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from holdfast_storage.records import CheckpointRecord, Task
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Component:
    """The value of one local replica of a distributed variable, as this worker saved it."""

    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]
    data: bytes


class Staged:
    """A verified checkpoint, readable by TensorFlow until `close()`, whatever becomes of the original."""

    record: CheckpointRecord
    prefix: str
    local_prefix: str | None
    world_matches: bool
    replicas: Mapping[str, Sequence[Component]]

    def close(self) -> None: ...


def stage(
    store: Store,
    record: CheckpointRecord,
    *,
    task: Task,
    world: Sequence[Task],
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Staged:
    """Read and verify everything that `task` needs of a checkpoint."""
    raise NotImplementedError
