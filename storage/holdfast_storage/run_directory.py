"""The contents of a run directory: for readers, and for the coordinator that takes one over."""

from __future__ import annotations

from bisect import bisect_left

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import LARGEST, Base, Manifest
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import Attempt, log_entry, manifest_object, parse_folder
from holdfast_storage.log.log import Log
from holdfast_storage.order import in_order
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole


def read_run(store: Store) -> LogState | None:
    """Return the state of the log's last entry, `with_foreign`. Without a log, return what `import_state` finds, with
    an empty `run_id`; None if there is no checkpoint either. Only reads.
    """
    found = tail_or_import(store, Log(store), "")
    if isinstance(found, Entry):
        return with_foreign(store, found.state)[0]
    return found if found.checkpoints else None


def tail_or_import(store: Store, log: Log, run_id: str, hint: int = -1) -> Entry | LogState:
    """Return the last entry of a log, as `Log.tail` does, or, if the log is empty, what `import_state` finds."""
    entry = log.tail(hint)
    if entry is not None:
        return entry
    state = import_state(store, run_id)
    # A job that has begun the log meanwhile has manifests there of what it has not committed.
    return log.tail() or state


def import_state(store: Store, run_id: str) -> LogState:
    """Return the first state of a run without a log, from what TensorFlow wrote and from copies of Holdfast's folders.

    The checkpoints are in the order of `in_order`, given what TensorFlow's state file lists. A folder whose manifest
    exists and cannot be understood counts as damaged, and so does a delta without the checkpoint on which it was saved.
    A run that has lost all its checkpoints must not look like a new one.
    """
    found = list(state_file.stock_checkpoints(store))
    damaged: list[str] = []
    needed: dict[str, Base] = {}
    for folder in store.list():
        attempt = parse_folder(folder) if folder.endswith("/") else None
        if attempt is None:
            continue
        try:
            imported = _imported(store, attempt)
        except CheckpointDamaged:
            found.append(CheckpointRecord(prefix=attempt.prefix, step=attempt.number, time=0.0))
            damaged.append(attempt.prefix)
            continue
        if imported is not None:
            record, base = imported
            found.append(record)
            if base is not None:
                needed[record.prefix] = base
    there = {record.prefix: record.manifest_crc32c for record in found}
    damaged += [prefix for prefix, base in needed.items() if there.get(base.prefix) != base.manifest_crc32c]
    checkpoints = in_order(found, state_file.listed_prefixes(store))
    return LogState(run_id, checkpoints=tuple(checkpoints), damaged=tuple(damaged))


def orphans(store: Store, entry: Entry) -> tuple[str, ...]:
    """Return the folders of attempts that were never committed, never can be, and that the state of `entry` lacks.

    They belong to generations that led this run before `entry` and never lead again. Other folders are not ours to
    judge: they may be copies of another run's checkpoint, or of one that this run has retired.
    """
    state = entry.state
    known = {*state.retired, *(record.folder for record in state.checkpoints)}
    attempts = (parse_folder(name) for name in store.list() if name.endswith("/"))
    left = [a for a in attempts if a and a.generation in state.superseded and a.folder not in known]
    log = Log(store)
    return tuple(attempt.folder for attempt in left if not _was_committed(log, entry.number, attempt))


def _was_committed(log: Log, number: int, attempt: Attempt) -> bool:
    """Return whether some entry up to `number` committed an attempt of a generation that is superseded there.

    A generation commits in the order of its attempts and leads only once. So bisection finds the first entry that
    cannot come before the commit.
    """

    def is_before(state: LogState) -> bool:
        if attempt.generation in state.superseded:
            return False
        leads = state.generation is not None and state.generation.id == attempt.generation
        return not leads or state.last_committed(attempt.generation) < attempt.ordinal

    def state_after(number: int) -> LogState:
        found = log.read(number)
        if found is None:
            raise StorageError(f"log entry {number} is missing, and later ones are there", object=log_entry(number))
        return found.state

    first = bisect_left(range(number), True, key=lambda n: not is_before(state_after(n)))
    return state_after(first).find(attempt.prefix) is not None


def _imported(store: Store, attempt: Attempt) -> tuple[CheckpointRecord, Base | None] | None:
    """Return the record of a folder with a manifest, and what it is a delta on. Return None without a manifest: the
    attempt never came to its commit.
    """
    name = manifest_object(attempt.folder)
    try:
        data = read_whole(store, name, LARGEST)
    except FileNotFoundError:
        return None
    manifest = Manifest.parse(data, f"{store.url}/{name}")
    if manifest.prefix != attempt.prefix:
        raise CheckpointDamaged(f"{store.url}/{name} is the manifest of {manifest.prefix}", object=name)
    base = manifest.base
    crc, on = crc32c(data), base.prefix if base else ""
    return CheckpointRecord(attempt.prefix, manifest.step, manifest.time, manifest_crc32c=crc, base=on), base
