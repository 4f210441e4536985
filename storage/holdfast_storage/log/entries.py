"""The bytes of log entries and of their pages.

An entry is one line of JSON, `{"crc32c":"<8 hex digits>","entry":{...}}`; the checksum is that of the bytes of the
inner object as they stand. Unknown fields are ignored; a higher `format` is refused. The field `checkpoints` is a list
of records. From format 2 on, the name of a page may stand in place of the records that the page holds. A page is one
line of JSON, `{"checkpoints":[...]}`, named by the SHA-256 of its bytes. Format 3 has pins, leases and metrics, which
an earlier version would drop. Format 4 has deltas, which an earlier version would take for whole checkpoints. Format 5
has what people say of a run: names of checkpoints, and that they have rolled it back, removed something, or moved it.
An entry has the lowest format that says all of it.

`_ENTRY` and `_PAGE` say what each field must be, for what is written as for what is read. `_check_state` says what the
fields must be together, which the transitions of `records` keep.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, get_args

from holdfast_storage import kinds
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.cluster import MOST_TASKS, Task
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest
from holdfast_storage.layout import PAGE_DIGITS, parse_folder, parse_prefix
from holdfast_storage.records import (
    LONGEST_LEASE,
    MOST_LEASES,
    MOST_METRICS,
    MOST_PINS,
    MOST_TAGS,
    REIGNS,
    CheckpointRecord,
    Entry,
    EntryKind,
    Generation,
    Holding,
    Intervention,
    Leader,
    Lease,
    LogState,
    Past,
    Pin,
    Tag,
)
from holdfast_storage.spec import (
    Unexpected,
    fields,
    finite,
    flag,
    listed,
    load,
    mapped,
    matching,
    maybe,
    number,
    one_of,
)

FORMAT = 5
WHOLE_FORMAT, PAGED_FORMAT, HOLDING_FORMAT, DELTA_FORMAT = 1, 2, 3, 4
"""The formats of entries without those: the first is read by all versions of Holdfast."""

_HOLDINGS, _INTERVENTIONS = get_args(Holding), get_args(Intervention)

LARGEST_ENTRY = 32 << 20
"""The most bytes of an entry. One of format 1 with 100,000 checkpoints has 12 MB, and 4,000 workers have 300 KB."""

LARGEST_PAGE = 32 << 20
"""The most bytes of a page. At a million checkpoints they have some thousand records each."""

Records = tuple[CheckpointRecord, ...]

_LINE = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","entry":(\{.*\})\}\n', re.DOTALL)

_MANY = 1_000_000  # checkpoints, or folders to be deleted

_CHECKPOINT = fields(
    {"prefix": kinds.WORD, "step": kinds.STEP, "time": kinds.TIME},
    {
        "stock": flag,
        "preserved": flag,
        "manifest_crc32c": kinds.CRC,
        "metrics": mapped(kinds.WORD, maybe(finite), MOST_METRICS),
        "base": kinds.PREFIX,
    },
)
_PAGE_NAME = matching(f"[0-9a-f]{{{PAGE_DIGITS}}}", "the name of a page")


def _record(value: Any) -> None:
    _CHECKPOINT(value)
    attempt = None
    if value.get("stock", False):
        kinds.STOCK_PREFIX(value["prefix"])
    elif (attempt := parse_prefix(value["prefix"])) is None:
        kinds.PREFIX(value["prefix"])
    elif attempt.number != value["step"]:
        raise Unexpected(f"is {value['step']}, and {value['prefix']} is of another one", "step")
    base = value.get("base")
    if base is not None and (attempt is None or not attempt.may_build_on(base)):
        raise Unexpected(f"is {base}, which is no earlier save of the generation of {value['prefix']}", "base")


def _record_or_page(value: Any) -> None:
    (_PAGE_NAME if type(value) is str else _record)(value)


_PAGE = fields({"checkpoints": listed(_record, _MANY, 1)})
_PIN = fields({"prefix": kinds.PREFIX, "time": kinds.TIME, "reason": kinds.REASON})
_TAG = fields({"name": kinds.TAG, "prefix": kinds.PREFIX, "time": kinds.TIME})
_LEASE = fields(
    {"prefix": kinds.PREFIX, "reader": kinds.ID, "seconds": number(LONGEST_LEASE), "taken": kinds.NUMBER},
)
_FORMATTED = fields({"format": kinds.FORMAT})
_ENTRY = fields(
    {
        "format": kinds.FORMAT,
        "number": kinds.NUMBER,
        "kind": one_of(*get_args(EntryKind)),
        "write_id": kinds.ID,
        "time": kinds.TIME,
        "note": kinds.NOTE,
        "run_id": kinds.ID,
        "leader": maybe(fields({"id": kinds.ID, "address": kinds.ADDRESS, "host": kinds.HOST})),
        "generation": maybe(
            fields({"id": kinds.GENERATION, "members": mapped(kinds.TASK, kinds.ID, MOST_TASKS)}),
        ),
        "checkpoints": listed(_record_or_page, _MANY),
        "retired": listed(kinds.FOLDER, _MANY),
        "damaged": listed(kinds.WORD, _MANY),
        "last_preserved": maybe(kinds.TIME),
    },
    {
        "superseded": listed(kinds.GENERATION, REIGNS),
        "led": maybe(kinds.TIME),
        "past": fields({"generations": kinds.NUMBER, "seconds": kinds.TIME}),
        "pinned": listed(_PIN, MOST_PINS),
        "tags": listed(_TAG, MOST_TAGS),
        "leases": listed(_LEASE, MOST_LEASES),
        "rolled_back": kinds.NUMBER,
        "moved": kinds.URL,
    },
)


def _check_state(state: LogState) -> None:
    """Check what the fields of an entry must be together."""
    live = {record.prefix for record in state.checkpoints}
    if len(live) < len(state.checkpoints):
        raise Unexpected("holds a checkpoint twice", "checkpoints")
    if not live.issuperset(state.damaged):
        raise Unexpected("names what is not among the checkpoints", "damaged")
    if any((attempt := parse_folder(folder)) and attempt.prefix in live for folder in state.retired):
        raise Unexpected("names the folder of a live checkpoint", "retired")
    if state.generation is not None and state.generation.id in state.superseded:
        raise Unexpected("is superseded", "generation")
    if state.moved and (state.generation or any(not record.stock for record in state.checkpoints)):
        raise Unexpected("is said of a run that somebody leads, or that has checkpoints", "moved")
    _check_held(state)
    _check_bases(state)


def _check_bases(state: LogState) -> None:
    """Check, for what is written as well, that no delta is without what it needs, unless it is known to be lost."""
    needed = {record.base for record in state.checkpoints if record.base and record.prefix not in state.damaged}
    if needed and not needed.issubset(record.prefix for record in state.checkpoints):
        raise Unexpected("holds a delta without the checkpoint that it needs", "checkpoints")


def _check_held(state: LogState) -> None:
    """Check pins, tags and leases, for what is written as well: others than the leader choose their checkpoints."""
    if not (state.pinned or state.tags or state.leases):
        return
    live = {record.prefix for record in state.checkpoints}
    pinned = [pin.prefix for pin in state.pinned]
    for name, held, own in (
        ("pinned", pinned, pinned),
        ("tags", [tag.prefix for tag in state.tags], [tag.name for tag in state.tags]),
        ("leases", [lease.prefix for lease in state.leases], [lease.reader for lease in state.leases]),
    ):
        if not live.issuperset(held):
            raise Unexpected("names what is not among the checkpoints", name)
        if len(set(own)) < len(own):
            raise Unexpected("holds one twice", name)


def encode(entry: Entry, checkpoints: Sequence[CheckpointRecord | str] | None = None) -> bytes:
    """Encode an entry as bytes. Raises ValueError if nobody could read it.

    checkpoints: the state's checkpoints, with names of pages in place of what the pages hold; None: without pages.
    """
    state = entry.state
    shown = state.checkpoints if checkpoints is None else checkpoints
    holds = entry.kind in _HOLDINGS or state.pinned or state.leases
    paged = any(isinstance(each, str) for each in shown)
    measured = any(record.metrics for record in state.checkpoints)
    deltas = any(record.base for record in state.checkpoints)
    named = entry.kind in ("tag", "untag") or state.tags
    steered = named or entry.kind in _INTERVENTIONS or state.rolled_back or state.moved
    formats = (steered, FORMAT), (deltas, DELTA_FORMAT), (holds or measured, HOLDING_FORMAT), (paged, PAGED_FORMAT)
    format_ = next((format_ for needed, format_ in formats if needed), WHOLE_FORMAT)
    content: dict[str, Any] = {
        "format": format_,
        "number": entry.number,
        "kind": entry.kind,
        "write_id": entry.write_id,
        "time": entry.time,
        "note": entry.note,
        "run_id": state.run_id,
        "leader": state.leader and {"id": state.leader.id, "address": state.leader.address, "host": state.leader.host},
        "generation": state.generation
        and {
            "id": state.generation.id,
            "members": {str(task): incarnation for task, incarnation in state.generation.members},
        },
        "checkpoints": [each if isinstance(each, str) else _shown(each) for each in shown],
        "retired": list(state.retired),
        "damaged": list(state.damaged),
        "last_preserved": state.last_preserved,
        "superseded": list(state.superseded),
        "led": state.led,
        "past": asdict(state.past),
    }
    if holds:
        content["pinned"], content["leases"] = list(map(asdict, state.pinned)), list(map(asdict, state.leases))
    if state.tags:
        content["tags"] = list(map(asdict, state.tags))
    if state.rolled_back:
        content["rolled_back"] = state.rolled_back
    if state.moved:
        content["moved"] = state.moved
    _ENTRY(content)
    _check_held(state)
    _check_bases(state)
    inner = _compact(content).encode()
    return _sized(b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner), LARGEST_ENTRY)


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
        content = load(match[2])
        _FORMATTED(content)
        if content["format"] > FORMAT:
            raise InvalidRequest(
                f"{name} was written by a newer Holdfast (format {content['format']}, known here {FORMAT})", object=name
            )
        _ENTRY(content)
        entry = _entry(content, pages)
        _check_state(entry.state)
        return entry
    except ValueError as error:
        raise CheckpointDamaged(f"{name} is not an entry of the log: {error}", object=name) from error


def encode_page(records: Records) -> bytes:
    """Encode a page as bytes. Raises ValueError if nobody could read it."""
    content = {"checkpoints": [_shown(record) for record in records]}
    _PAGE(content)
    return _sized(_compact(content).encode() + b"\n", LARGEST_PAGE)


def page_name(data: bytes) -> str:
    """Return the name under which entries refer to a page with these bytes."""
    return hashlib.sha256(data).hexdigest()[:PAGE_DIGITS]


def decode_page(data: bytes, page: str, name: str) -> Records:
    """Decode a page. Raises CheckpointDamaged, which names `name`, if the bytes are not those of that page."""
    if page_name(data) != page:
        raise CheckpointDamaged(f"{name} is not what was written: its contents are not those of its name", object=name)
    try:
        content = load(data)
        _PAGE(content)
    except ValueError as error:
        raise CheckpointDamaged(f"{name} is not a page of the log: {error}", object=name) from error
    return tuple(_checkpoint(each) for each in content["checkpoints"])


def _shown(record: CheckpointRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {"prefix": record.prefix, "step": record.step, "time": record.time}
    if record.stock:
        shown["stock"] = True
    else:
        shown["manifest_crc32c"] = record.manifest_crc32c
    if record.preserved:
        shown["preserved"] = True
    if record.metrics:
        shown["metrics"] = dict(record.metrics)
    if record.base:
        shown["base"] = record.base
    return shown


def _checkpoint(content: dict[str, Any]) -> CheckpointRecord:
    return CheckpointRecord(
        prefix=content["prefix"],
        step=content["step"],
        time=content["time"],
        stock=content.get("stock", False),
        preserved=content.get("preserved", False),
        manifest_crc32c=content.get("manifest_crc32c", 0),
        metrics=tuple(content.get("metrics", {}).items()),
        base=content.get("base", ""),
    )


def _entry(content: dict[str, Any], pages: Callable[[Sequence[str]], Sequence[Records]]) -> Entry:
    leader, generation = content["leader"], content["generation"]
    state = LogState(
        run_id=content["run_id"],
        leader=leader and Leader(leader["id"], leader["address"], leader["host"]),
        generation=generation
        and Generation(
            generation["id"],
            tuple((Task.parse(task), incarnation) for task, incarnation in generation["members"].items()),
        ),
        checkpoints=_checkpoints(content["checkpoints"], pages),
        retired=tuple(content["retired"]),
        damaged=tuple(content["damaged"]),
        last_preserved=content["last_preserved"],
        superseded=tuple(content.get("superseded", ())),
        led=content.get("led"),
        past=Past(content["past"]["generations"], content["past"]["seconds"]) if "past" in content else Past(),
        pinned=tuple(Pin(each["prefix"], each["time"], each["reason"]) for each in content.get("pinned", ())),
        tags=tuple(Tag(each["name"], each["prefix"], each["time"]) for each in content.get("tags", ())),
        leases=tuple(
            Lease(each["prefix"], each["reader"], each["seconds"], each["taken"]) for each in content.get("leases", ())
        ),
        rolled_back=content.get("rolled_back", 0),
        moved=content.get("moved", ""),
    )
    return Entry(content["number"], content["kind"], content["write_id"], content["time"], state, content["note"])


def _checkpoints(shown: list[Any], pages: Callable[[Sequence[str]], Sequence[Records]]) -> Records:
    names = [each for each in shown if isinstance(each, str)]
    if len(set(names)) < len(names):
        raise Unexpected("names a page twice", "checkpoints")
    held = dict(zip(names, pages(names), strict=True)) if names else {}
    found: list[CheckpointRecord] = []
    for each in shown:
        if isinstance(each, str):
            found += held[each]
        else:
            found.append(_checkpoint(each))
    return tuple(found)


def _sized(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise ValueError(f"it has {len(data):,} bytes, and at most {most:,} are read")
    return data


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
