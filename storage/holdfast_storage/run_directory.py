"""What is in a run directory: for readers, and for the coordinator that takes one over."""

from __future__ import annotations

from bisect import bisect_left

from holdfast_storage import state_file
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.foreign import with_foreign
from holdfast_storage.layout import Attempt, log_entry, manifest_object, parse_folder
from holdfast_storage.log import Log
from holdfast_storage.manifest import Manifest
from holdfast_storage.order import in_order
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store.base import Store


def read_run(store: Store) -> LogState | None:
    """The state that the log's last entry holds, `with_foreign`; without a log, what `import_state` finds, with an
    empty `run_id`.

    None where there is neither a log nor a checkpoint. Only reads.
    """
    found = tail_or_import(store, Log(store), "")
    if isinstance(found, Entry):
        return with_foreign(store, found.state)[0]
    return found if found.checkpoints else None


def tail_or_import(store: Store, log: Log, run_id: str, hint: int = -1) -> Entry | LogState:
    """The last entry of the log of a store, as `Log.tail`; where there is none, what `import_state` finds."""
    entry = log.tail(hint)
    if entry is not None:
        return entry
    state = import_state(store, run_id)
    # A job that has begun the log in the meantime has manifests there of what it has not committed.
    return log.tail() or state


def import_state(store: Store, run_id: str) -> LogState:
    """The first state of a run whose directory has no log: what TensorFlow wrote, and copies of what Holdfast did.

    Oldest first, as `in_order` with what TensorFlow's state file lists. A folder whose manifest is there but cannot be
    understood counts as damaged: a run that has lost all its checkpoints must not look like one that never had any.
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
    checkpoints = in_order(found, state_file.listed_prefixes(store))
    return LogState(run_id, checkpoints=tuple(checkpoints), damaged=tuple(damaged))


def orphans(store: Store, entry: Entry) -> tuple[str, ...]:
    """Folders of attempts that were never committed, never can be, and that the state of `entry` does not know.

    They are of generations that led this run before, up to `entry`, and do not lead again. Whatever else lies there is
    not ours to judge: a copy of another run's checkpoint, or of one that this run has retired.
    """
    state = entry.state
    known = {*state.retired, *(record.folder for record in state.checkpoints)}
    attempts = (parse_folder(name) for name in store.list() if name.endswith("/"))
    left = [a for a in attempts if a and a.generation in state.superseded and a.folder not in known]
    log = Log(store)
    return tuple(attempt.folder for attempt in left if not _was_committed(log, entry.number, attempt))


def _was_committed(log: Log, number: int, attempt: Attempt) -> bool:
    """Whether some entry up to a number made a checkpoint of an attempt of a generation that is superseded there.

    A generation commits in the order of its attempts, and leads once: a search by halves for the first entry that
    could not be before the commit.
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


def _imported(store: Store, attempt: Attempt) -> CheckpointRecord | None:
    """The record of a folder with a manifest, None for one without: an attempt that never came to its commit."""
    name = manifest_object(attempt.folder)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    manifest = Manifest.parse(data, f"{store.url}/{name}")
    return CheckpointRecord(attempt.prefix, manifest.step, manifest.time, manifest_crc32c=crc32c(data))
