"""What is in a run directory, for readers and for the coordinator that takes it over."""

from __future__ import annotations

from holdfast_storage.records import LogState
from holdfast_storage.store.base import Store


def read_run(store: Store) -> LogState | None:
    """The log's last state; without a log what `import_state` finds (run_id ""); None where there is nothing."""
    raise NotImplementedError


def import_state(store: Store, run_id: str) -> LogState:
    """The state of a run directory that has no log: stock checkpoints and folders with a manifest, oldest first."""
    raise NotImplementedError
