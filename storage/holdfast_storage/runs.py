"""What is in a run directory: for readers, and for the coordinator that takes one over."""

from __future__ import annotations

from holdfast_storage import state_file
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.layout import Attempt, manifest_object, parse_folder
from holdfast_storage.log import Log
from holdfast_storage.manifest import Manifest
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.store.base import Store


def read_run(store: Store) -> LogState | None:
    """The state that the log's last entry holds; without a log, what `import_state` finds, with an empty `run_id`.

    None where there is neither a log nor a checkpoint. Only reads.
    """
    entry = Log(store).tail()
    if entry is not None:
        return entry.state
    state = import_state(store, "")
    return state if state.checkpoints else None


def import_state(store: Store, run_id: str) -> LogState:
    """The first state of a run whose directory has no log: what TensorFlow wrote, and copies of what Holdfast did.

    Oldest first by their own times. A folder whose manifest is there but cannot be understood counts as damaged: a run
    that has lost all its checkpoints must not look like one that never had any.
    """
    found = list(state_file.stock_checkpoints(store))
    damaged = []
    for folder in store.list():
        attempt = parse_folder(folder) if folder.endswith("/") else None
        if attempt is None:
            continue
        try:
            record = _imported(store, attempt)
        except CheckpointDamaged:
            record = CheckpointRecord(prefix=attempt.prefix, step=attempt.number, time=0.0)
            damaged.append(attempt.prefix)
        if record is not None:
            found.append(record)
    # The sort is stable: what tells no time stays in front, in the order in which it was found.
    return LogState(run_id, checkpoints=tuple(sorted(found, key=lambda r: r.time)), damaged=tuple(damaged))


def _imported(store: Store, attempt: Attempt) -> CheckpointRecord | None:
    """The record of a folder with a manifest, None for one without: an attempt that never came to its commit."""
    name = manifest_object(attempt.folder)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    manifest = Manifest.parse(data, f"{store.url}/{name}")
    return CheckpointRecord(attempt.prefix, manifest.step, manifest.time, manifest_crc32c=crc32c(data))
