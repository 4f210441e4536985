"""The log that decides: entries made by exclusive create of last+1. See docs/design/001-log.md.

An entry is one line of JSON, `{"crc32c":"<8 hex digits>","entry":{...}}`; the checksum is that of the bytes of the
inner object as they stand. Unknown fields are ignored; a higher `format` is refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest, StorageError
from holdfast_storage.layout import LARGEST_STEP, LOG_FOLDER, log_entry, parse_log_entry
from holdfast_storage.records import CheckpointRecord, Entry, EntryKind, Generation, Leader, LogState, Task
from holdfast_storage.store.base import NotCreated, Store

FORMAT = 1

_LINE = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","entry":(\{.*\})\}\n', re.DOTALL)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Published:
    """The entry stands in its slot."""


@dataclass(frozen=True, slots=True)
class LostRace:
    """Another entry stands in the slot, and always will."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class NotPublished:
    """Nothing was made, and nothing of this call can appear any more: no space, no permission."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The entry may stand in the slot, or may still appear there. Only another entry in that slot can settle it."""

    reason: str


Outcome = Published | LostRace | NotPublished | Unknown


class Log:
    """The log of one run directory. Keeps no state: several threads may use it at once."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep

    def read(self, number: int) -> Entry | None:
        """The entry in a slot, None if there is none, or one that was never finished.

        CheckpointDamaged if it was finished and is not what was written, InvalidRequest if a newer Holdfast wrote it.
        """
        name = log_entry(number)
        try:
            data = self._store.read(name)
        except FileNotFoundError:
            return None
        entry = decode(data, f"{self._store.url}/{name}")
        if entry is not None and entry.number != number:
            raise CheckpointDamaged(f"{self._store.url}/{name} holds entry {entry.number} of the log", object=name)
        return entry

    def tail(self, hint: int = -1) -> Entry | None:
        """The last entry, None if there is none. Raises as `read` does.

        hint: number of an entry known to be there; saves the listing, which only ever makes the search shorter.
        """
        if hint < 0:
            listed = [parse_log_entry(name) for name in self._store.list(LOG_FOLDER)]
            hint = max((number for number in listed if number is not None), default=0)
        # An entry that was never finished is not there, and can only be the last.
        last = self.read(hint)
        if last is None and hint > 0:
            last = self.read(hint - 1)
        while last is not None and (following := self.read(last.number + 1)) is not None:
            last = following
        return last

    def publish(self, entry: Entry, deadline_s: float) -> Outcome:
        """Put an entry into the slot of its number.

        Where the storage gives no definite answer, tries that same slot again for about `deadline_s` seconds: a slot
        that reads as empty settles nothing, the request may still arrive.
        """
        data = encode(entry)
        name = log_entry(entry.number)
        end = self._clock() + deadline_s
        pause = _FIRST_PAUSE_S
        may_have_landed = False
        while True:
            try:
                if self._store.create(name, data):
                    return Published()
                reason = f"{self._store.url}/{name} is taken by an entry that cannot be read"
            except NotCreated as error:
                if not may_have_landed:
                    return NotPublished(str(error))
                reason = str(error)
            except StorageError as error:
                may_have_landed = True
                reason = str(error)
            try:
                found = self.read(entry.number)
            except (StorageError, CheckpointDamaged) as error:
                found, reason = None, str(error)
            if found is not None:
                # The whole of it: of two processes that were restored from one, both may use an id.
                return Published() if found == entry else LostRace(found)
            if self._clock() >= end:
                return Unknown(reason)
            self._sleep(min(pause, max(0.0, end - self._clock())))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    state = entry.state
    inner = _compact(
        {
            "format": FORMAT,
            "number": entry.number,
            "kind": entry.kind,
            "write_id": entry.write_id,
            "time": entry.time,
            "note": entry.note,
            "run_id": state.run_id,
            "leader": state.leader
            and {"id": state.leader.id, "address": state.leader.address, "host": state.leader.host},
            "generation": state.generation
            and {
                "id": state.generation.id,
                "members": {str(task): incarnation for task, incarnation in state.generation.members},
            },
            "checkpoints": [_checkpoint(record) for record in state.checkpoints],
            "retired": list(state.retired),
            "damaged": list(state.damaged),
            "last_preserved": state.last_preserved,
            "superseded": list(state.superseded),
        }
    ).encode()
    return b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)


def decode(data: bytes, name: str) -> Entry | None:
    """The entry in these bytes, None if they end before it does. Raises as `Log.read`, with `name` in the error."""
    if not data.endswith(b"}}\n"):
        return None
    match = _LINE.fullmatch(data)
    if match is None or crc32c(match[2]) != int(match[1], 16):
        raise CheckpointDamaged(f"{name} is not what was written: its checksum is wrong", object=name)
    try:
        fields = json.loads(match[2])
        if fields["format"] > FORMAT:
            raise InvalidRequest(
                f"{name} was written by a newer Holdfast (format {fields['format']}, known here {FORMAT})", object=name
            )
        return _entry(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointDamaged(f"{name} lacks what an entry must say: {error!r}", object=name) from error


def _checkpoint(record: CheckpointRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"prefix": record.prefix, "step": record.step, "time": record.time}
    if record.stock:
        fields["stock"] = True
    else:
        fields["manifest_crc32c"] = record.manifest_crc32c
    if record.preserved:
        fields["preserved"] = True
    return fields


def _entry(fields: dict[str, Any]) -> Entry:
    if fields["kind"] not in get_args(EntryKind):
        raise ValueError(f"kind {fields['kind']!r}")
    leader, generation = fields["leader"], fields["generation"]
    state = LogState(
        run_id=fields["run_id"],
        leader=leader and Leader(leader["id"], leader["address"], leader["host"]),
        generation=generation
        and Generation(
            generation["id"],
            tuple((Task.parse(task), incarnation) for task, incarnation in generation["members"].items()),
        ),
        checkpoints=tuple(
            CheckpointRecord(
                prefix=each["prefix"],
                step=_whole(each["step"], LARGEST_STEP),
                time=each["time"],
                stock=each.get("stock", False),
                preserved=each.get("preserved", False),
                manifest_crc32c=_whole(each.get("manifest_crc32c", 0), 0xFFFFFFFF),
            )
            for each in fields["checkpoints"]
        ),
        retired=tuple(fields["retired"]),
        damaged=tuple(fields["damaged"]),
        last_preserved=fields["last_preserved"],
        superseded=tuple(fields.get("superseded", ())),
    )
    number = _whole(fields["number"], LARGEST_STEP)
    return Entry(number, fields["kind"], fields["write_id"], fields["time"], state, fields["note"])


def _whole(value: Any, most: int) -> int:
    """A number that a message can carry."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most}")
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
