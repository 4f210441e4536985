"""The bytes of log entries and of their pages.

An entry is one line of JSON, `{"crc32c":"<8 hex digits>","entry":{...}}`; the checksum is that of the bytes of the
inner object as they stand. Unknown fields are ignored; a higher `format` is refused. The field `checkpoints` is a list
of records. In format 2, the name of a page may stand in place of the records that the page holds. A page is one line of
JSON, `{"checkpoints":[...]}`, named by the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest
from holdfast_storage.layout import LARGEST_STEP, PAGE_DIGITS
from holdfast_storage.records import CheckpointRecord, Entry, EntryKind, Generation, Leader, LogState

FORMAT = 2
WHOLE_FORMAT = 1
"""The format of an entry without pages. Versions of Holdfast that do not know pages read it as well."""

Records = tuple[CheckpointRecord, ...]

_LINE = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","entry":(\{.*\})\}\n', re.DOTALL)
_PAGE_NAME = re.compile(rf"[0-9a-f]{{{PAGE_DIGITS}}}")


def encode(entry: Entry, checkpoints: Sequence[CheckpointRecord | str] | None = None) -> bytes:
    """Encode an entry as bytes.

    checkpoints: the state's checkpoints, with names of pages in place of what the pages hold; None: without pages.
    """
    state = entry.state
    shown = state.checkpoints if checkpoints is None else checkpoints
    inner = _compact(
        {
            "format": FORMAT if any(isinstance(each, str) for each in shown) else WHOLE_FORMAT,
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
            "checkpoints": [each if isinstance(each, str) else _fields(each) for each in shown],
            "retired": list(state.retired),
            "damaged": list(state.damaged),
            "last_preserved": state.last_preserved,
            "superseded": list(state.superseded),
        }
    ).encode()
    return b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)


def no_pages(names: Sequence[str]) -> Sequence[Records]:
    """Stands for the reader of pages in `decode` if there are no pages."""
    raise ValueError(f"it needs pages: {', '.join(names)}")


def decode(data: bytes, name: str, pages: Callable[[Sequence[str]], Sequence[Records]] = no_pages) -> Entry | None:
    """Decode an entry. Returns None if the bytes are cut off.

    Raises CheckpointDamaged, which names `name`, if the bytes are not what was written, and InvalidRequest if a newer
    Holdfast wrote them. `pages` returns what the pages of these names hold; its errors are raised here.
    """
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
        return _entry(fields, pages)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointDamaged(f"{name} lacks what an entry must say: {error!r}", object=name) from error


def encode_page(records: Records) -> bytes:
    """Encode a page as bytes."""
    return _compact({"checkpoints": [_fields(record) for record in records]}).encode() + b"\n"


def page_name(data: bytes) -> str:
    """Return the name under which entries refer to a page with these bytes."""
    return hashlib.sha256(data).hexdigest()[:PAGE_DIGITS]


def decode_page(data: bytes, page: str, name: str) -> Records:
    """Decode a page. Raises CheckpointDamaged, which names `name`, if the bytes are not those of that page."""
    if page_name(data) != page:
        raise CheckpointDamaged(f"{name} is not what was written: its contents are not those of its name", object=name)
    try:
        records = tuple(_record(each) for each in json.loads(data)["checkpoints"])
        if not records:
            raise ValueError("it is empty")
        return records
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"{name} lacks what a page must say: {error!r}", object=name) from error


def _fields(record: CheckpointRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"prefix": record.prefix, "step": record.step, "time": record.time}
    if record.stock:
        fields["stock"] = True
    else:
        fields["manifest_crc32c"] = record.manifest_crc32c
    if record.preserved:
        fields["preserved"] = True
    return fields


def _record(fields: Any) -> CheckpointRecord:
    prefix = fields["prefix"]
    if type(prefix) is not str:
        raise TypeError(f"{prefix!r} is no prefix")
    return CheckpointRecord(
        prefix=prefix,
        step=_whole(fields["step"], LARGEST_STEP),
        time=fields["time"],
        stock=fields.get("stock", False),
        preserved=fields.get("preserved", False),
        manifest_crc32c=_whole(fields.get("manifest_crc32c", 0), 0xFFFFFFFF),
    )


def _entry(fields: dict[str, Any], pages: Callable[[Sequence[str]], Sequence[Records]]) -> Entry:
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
        checkpoints=_checkpoints(fields["checkpoints"], pages),
        retired=tuple(fields["retired"]),
        damaged=tuple(fields["damaged"]),
        last_preserved=fields["last_preserved"],
        superseded=tuple(fields.get("superseded", ())),
    )
    number = _whole(fields["number"], LARGEST_STEP)
    return Entry(number, fields["kind"], fields["write_id"], fields["time"], state, fields["note"])


def _checkpoints(shown: Any, pages: Callable[[Sequence[str]], Sequence[Records]]) -> Records:
    names = [each for each in shown if isinstance(each, str)]
    for name in names:
        if not _PAGE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no page")
    held = dict(zip(names, pages(names), strict=True)) if names else {}
    found: list[CheckpointRecord] = []
    for each in shown:
        if isinstance(each, str):
            found += held[each]
        else:
            found.append(_record(each))
    return tuple(found)


def _whole(value: Any, most: int) -> int:
    """Return the value if it is an integer that a protocol message can carry."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most}")
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
