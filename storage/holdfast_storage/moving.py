"""A run that is moved: once all of it is in its new place, it is closed in the old one, for good.

One entry of the log closes it, which is made of a state of which everything was copied. So a job that commits meanwhile
is either waited for or finds the run closed. Only then the new place gets a log, with all that the old one says of what
was copied, and only then anything is deleted. Who was interrupted goes on wherever that was. See
docs/design/034-versions.md.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Collection
from dataclasses import replace

from holdfast_storage import kinds
from holdfast_storage.copying import Copying
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.layout import log_entry
from holdfast_storage.log.holding import PUBLISH_FOR, hold
from holdfast_storage.log.log import Log, LostRace, Published
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord, Entry, Holding, Lease, LogState
from holdfast_storage.run_directory import orphans
from holdfast_storage.spec import Unexpected
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.store.base import Store


class Moving:
    """A move of a whole run. What is to be copied, the caller copies.

    Attributes:
        reader: under which the caller leases what it copies. It is the same whenever this move is taken up again, so
            that nobody waits for the lease of a process that was killed.
    """

    def __init__(self, store: Store, out: Store) -> None:
        """Look at the run, and change nothing.

        store, out: its old and its new place.

        Raises InvalidRequest if it has no log, was moved to another place, or if a log cannot name the new one.
        """
        try:
            kinds.URL(out.url)
        except Unexpected as error:
            raise InvalidRequest(f"the log cannot name the new place: it {error}", object=out.url) from None
        if f"{out.url}/".startswith(f"{store.url}/"):
            raise InvalidRequest(f"{out.url} is in {store.url}, out of which the run is moved", object=out.url)
        self._store, self._out, self._log = store, out, Log(store)
        entry = self._log.tail()
        if entry is None:
            told = f"{store.url} has no log of Holdfast's, so nobody would learn that it was moved"
            raise InvalidRequest(f"{told}: copy it, and delete it", object=store.url)
        if entry.state.moved not in ("", out.url):
            raise InvalidRequest(entry.state.closed, object=store.url)
        self._entry = entry
        self.reader = hashlib.sha256(f"{entry.state.run_id} to {out.url}".encode()).hexdigest()[:32]

    @property
    def is_closed(self) -> bool:
        """Whether the entry stands: what is left to do is `finish`."""
        return bool(self._entry.state.moved)

    def records(self, state: LogState) -> tuple[CheckpointRecord, ...]:
        """Return what moves of a run in this state. Raises InvalidRequest if that is not all that a job would miss."""
        records = state.arrive().checkpoints
        if not records:
            raise InvalidRequest(
                f"{self._store.url} holds nothing that Holdfast has saved and nobody has found damaged"
            )
        if (newest := state.restorable[-1]).stock:
            told = f"the newest checkpoint of {self._store.url}, {newest.prefix}, was written by TensorFlow itself"
            raise InvalidRequest(f"{told}: let a job go on from it and save, then move the run", object=newest.prefix)
        return records

    def close(self, complete: Collection[str]) -> None:
        """Close the run, if all that can be restored of it is complete in its new place.

        complete: the prefixes of what is known to be so, and sound. If there is more by now, nothing is done. The
            caller has given all its leases back.

        Raises InvalidRequest if somebody reads from the run, NotHeld if its log cannot be added to, and as `records`.
        """

        def change(state: LogState, _: int) -> LogState | None:
            moved = self.records(with_foreign(self._store, state)[0])
            if any(record.prefix not in complete for record in moved):
                return None
            for lease in state.leases:
                if (end := self._end(lease)) > time.time():
                    told = f"{lease.prefix} is being read, for {end - time.time():.0f} s at most"
                    raise InvalidRequest(f"{self._store.url}: {told}: wait for its reader, and go on")
            return state.move(self._out.url)

        entry = hold(self._log, "move", change, f"to {self._out.url}", self._entry.number)
        assert entry is not None  # a log does not vanish
        self._entry = entry

    def finish(self) -> int:
        """Begin the run in its new place, and delete what is not needed any more in the old one.

        Returns the number of checkpoints that are left there, known to be damaged, which were not moved. Once it has
        returned, everything is done; until then the next call goes on.
        """
        before = self._before()
        self._begin(before)
        here = {record.folder for record in before.checkpoints if not record.stock}
        left = here - {record.folder for record in before.arrive().checkpoints}
        gone = {*self._entry.state.retired, *orphans(self._store, self._entry)} - left
        in_parallel(self._store.delete_folder, sorted(gone), self._store.parallel)
        return len(left)

    def _begin(self, before: LogState) -> None:
        """Let the new place have a log that begins with what the old one had in the end."""
        log, state = Log(self._out), before.arrive()
        entry = log.tail()
        if entry is None:
            copying = Copying(self._store, before, self._out)
            for record in state.checkpoints:
                if not copying.has(record):
                    told = f"{self._out.url}/{record.folder} is gone, and is left in {self._store.url}"
                    raise StorageError(f"{told}: copy it back by hand, and go on", object=record.folder)
            mine = Entry(0, "import", secrets.token_hex(16), time.time(), state, f"moved from {self._store.url}")
            match log.publish(mine, PUBLISH_FOR):
                case Published():
                    return
                case LostRace(stands):
                    entry = stands
                case other:
                    raise StorageError(other.reason, object=self._out.url)
        if entry.state.run_id != state.run_id:  # a job has begun there, after the run was closed here
            kind: Holding = "tag" if state.tags else "pin"
            hold(log, kind, lambda found, _: _chosen(found, state), f"as in {self._store.url}")

    def _before(self) -> LogState:
        """Return the state of which everything was copied."""
        number = self._entry.number - 1
        entry = self._log.read(number)
        if entry is None:
            told = f"{self._store.url}/{log_entry(number)} is missing, and a later one is there"
            raise StorageError(told, object=log_entry(number))
        return entry.state

    def _end(self, lease: Lease) -> float:
        """Return when a lease is over, by the clock of who took it."""
        taken = self._log.read(lease.taken)
        return taken.time + lease.seconds if taken else 0.0


def _chosen(found: LogState, state: LogState) -> LogState | None:
    """Return a state with the pins and tags of another one. None: it has them all. What it has itself, stays."""
    own = {each.prefix for each in found.pinned}, {each.name for each in found.tags}
    pins = [pin for pin in state.pinned if pin.prefix not in own[0] and found.find(pin.prefix)]
    tags = [tag for tag in state.tags if tag.name not in own[1] and found.find(tag.prefix)]
    after = replace(found, pinned=(*found.pinned, *pins), tags=(*found.tags, *tags))
    return None if after == found else after
