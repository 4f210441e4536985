"""Entries of those who do not lead a run: they pin, tag and lease checkpoints, roll the run back, remove and move.

See docs/design/023-pins-and-leases.md and 035-changes-by-outsiders.md.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.log.log import Log, LostRace, NotPublished, Published, Unknown
from holdfast_storage.records import Entry, Holding, Intervention, LogState

PUBLISH_FOR = 10.0
"""Seconds for which creating one entry is tried."""

TRIES = 100
"""Races that may be lost: others have changed the run each time."""

Change = Callable[[LogState, int], LogState | None]
"""Makes the state that an entry of this number records from that of the last one. None: there is nothing to record."""


class NotHeld(StorageError):
    """The log cannot be added to: no permission, no space, or no answer. It is unchanged, or changes later."""


def hold(log: Log, kind: Holding | Intervention, change: Change, note: str, hint: int = -1) -> Entry | None:
    """Add an entry to a log, as anybody may who can write to the run. Returns the entry; None if there is no log.

    If `change` makes nothing of the last entry's state, that entry is returned. It decides anew after each entry of
    others that came in between. So what it has seen is what its entry builds on.

    hint: the number of an entry that is known to exist.

    Raises InvalidRequest if the run was moved, NotHeld, and what `Log.tail` raises.
    """
    entry = log.tail(hint)
    for _ in range(TRIES):
        if entry is not None and entry.state.closed:
            raise InvalidRequest(entry.state.closed)
        if entry is None or (state := change(entry.state, entry.number + 1)) is None:
            return entry
        try:
            protected = log.is_protected(entry.number)
        except (StorageError, FileNotFoundError) as error:
            raise NotHeld(str(error)) from error
        if not protected:
            raise NotHeld("this storage has no atomic create, so an entry could overwrite one of the training job")
        mine = Entry(entry.number + 1, kind, secrets.token_hex(16), time.time(), state, note)
        match log.publish(mine, PUBLISH_FOR):
            case Published():
                return mine
            case LostRace(stands):
                entry = log.tail(stands.number)
            case NotPublished(reason) | Unknown(reason):
                raise NotHeld(reason)
    raise NotHeld("others add to the log all the time")
