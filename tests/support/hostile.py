"""Run directories in which somebody has put what nobody writes, under checksums that hold.

A row says what is changed in a sound run of one checkpoint, and with which words it is refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from holdfast_protos.v1.bundle_pb2 import BundleEntry, BundleHeader
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import full_record, header_record, slice_record
from holdfast_storage.bundle.table import write_table
from holdfast_storage.checkpoint.manifest import LARGEST, Manifest, ObjectRecord
from holdfast_storage.cluster import Task
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.log.entries import encode
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from holdfast_storage.store.base import Store

FLOAT, STRING, VARIANT = 1, 7, 21
WORKER = Task("worker", 0)
PREFIX = layout.prefix("ckpt", 1, "0badcafe", 1)
FOLDER = PREFIX.partition("/")[0]
RECORD = CheckpointRecord(PREFIX, 1, 1.7e9, manifest_crc32c=0)
STATE = LogState(
    "run-1", Leader("leader-1", "127.0.0.1:1", "nowhere"), Generation("0badcafe", ((WORKER, "p.1"),)), (RECORD,)
)
ENTRY = Entry(0, "commit", "leader-1.1", 1.7e9, STATE, "a note")

Fields = dict[str, Any]
Change = Callable[[Fields], Fields | bytes]


def seal(inner: Fields | bytes) -> bytes:
    """A log entry of any contents, under the right checksum."""
    if not isinstance(inner, bytes):
        inner = json.dumps(inner, separators=(",", ":")).encode()
    return b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)


def entry_fields(record: CheckpointRecord = RECORD) -> Fields:
    """The fields of a sound entry."""
    fields: Fields = json.loads(encode(replace(ENTRY, state=replace(STATE, checkpoints=(record,)))))["entry"]
    return fields


def _live(**changes: Any) -> Change:
    return lambda f: f | {"checkpoints": [f["checkpoints"][0] | changes]}


def _with(**changes: Any) -> Change:
    return lambda f: f | changes


def _leader(**changes: Any) -> Change:
    return lambda f: f | {"leader": f["leader"] | changes}


def _led(**changes: Any) -> Change:
    return lambda f: f | {"generation": f["generation"] | changes}


def _raw(old: str, new: str) -> Change:
    def change(fields: Fields) -> bytes:
        text = json.dumps(fields)
        assert old in text, old
        return text.replace(old, new).encode()

    return change


def _more(text: bytes) -> Change:
    return lambda f: json.dumps(f).encode()[:-1] + text + b"}"


ENTRIES: dict[str, tuple[Change, str]] = {
    "deep JSON": (_more(b',"x":' + b"[" * 200_000 + b"]" * 200_000), "nests too deep"),
    "5000 digits": (_more(b',"x":' + b"9" * 5000), "is not JSON"),
    "duplicate keys": (_more(b',"kind":"abort"'), "a field twice"),
    "three million values": (_more(b',"x":[' + b"," * 3_000_000 + b"]"), "holds more than"),
    "no format": (lambda f: {name: value for name, value in f.items() if name != "format"}, "lacks format"),
    "format '1'": (_with(format="1"), "format is '1'"),
    "format NaN": (_raw('"format": 1', '"format": NaN'), "NaN"),
    "format -1": (_with(format=-1), "format is -1"),
    "format true": (_with(format=True), "format is True"),
    "number 5 in slot 0": (_with(number=5), "holds entry 5"),
    "kind": (_with(kind="\x1b[2J"), "kind is"),
    "write_id": (_with(write_id=["a"]), "write_id is"),
    "note": (_with(note={}), "note is"),
    "run_id null": (_with(run_id=None), "run_id is None"),
    "run_id of two lines": (_with(run_id="a\nb"), "run_id is"),
    "prefix ..": (_live(prefix="../../../etc/passwd"), r"checkpoints\[0\] is '../../../etc/passwd'"),
    "prefix absolute": (_live(prefix="/etc/passwd"), r"checkpoints\[0\] is '/etc/passwd'"),
    "prefix empty": (_live(prefix=""), r"checkpoints\[0\] is ''"),
    "prefix number": (_live(prefix=7), r"checkpoints\[0\].prefix is 7"),
    "prefix NUL": (_live(prefix="a\0b/c"), r"checkpoints\[0\] is"),
    "prefix surrogate": (_live(prefix="\udc80-1.0badcafe.1/\udc80-1"), r"checkpoints\[0\] is"),
    "prefix of two folders": (_live(prefix="a/ckpt-1.0badcafe.1/ckpt-1"), r"checkpoints\[0\] is"),
    "prefix of another step": (_live(prefix="ckpt-2.0badcafe.1/ckpt-2"), r"checkpoints\[0\].step is 1"),
    "stock prefix ..": (_live(prefix="../x/ckpt", stock=True), r"checkpoints\[0\] is"),
    "stock prefix absolute": (_live(prefix="/tmp/other/ckpt-1", stock=True), r"checkpoints\[0\] is"),
    "stock prefix in the log": (_live(prefix="_holdfast/log/x", stock=True), r"checkpoints\[0\] is"),
    "stock prefix high surrogate": (_live(prefix="\ud800", stock=True), r"checkpoints\[0\].prefix is"),
    "stock a list": (_live(stock=[1]), r"checkpoints\[0\].stock is \[1\]"),
    "time text": (_live(time="x"), r"checkpoints\[0\].time is 'x'"),
    "time null": (_live(time=None), r"checkpoints\[0\].time is None"),
    "time 1e300": (_live(time=1e300), r"checkpoints\[0\].time is 1e\+300"),
    "time -1e18": (_live(time=-1e18), r"checkpoints\[0\].time is -1e\+18"),
    "time 1e999": (_raw('"last_preserved": null', '"last_preserved": 1e999'), "last_preserved is inf"),
    "last_preserved text": (_with(last_preserved="x"), "last_preserved is 'x'"),
    "step 2^63": (_live(step=1 << 63), r"checkpoints\[0\].step is"),
    "step true": (_live(step=True), r"checkpoints\[0\].step is True"),
    "manifest_crc32c 2^32": (_live(manifest_crc32c=1 << 32), r"checkpoints\[0\].manifest_crc32c"),
    "checkpoints an object": (_with(checkpoints={"a": 1}), "checkpoints is"),
    "one checkpoint 10,000 times": (lambda f: f | {"checkpoints": f["checkpoints"] * 10_000}, "a checkpoint twice"),
    "one page twice": (_with(checkpoints=["0" * 32] * 2, format=2), "a page twice"),
    "leader a list": (_with(leader=["a"]), "leader is"),
    "leader.id": (_leader(id=""), "leader.id is"),
    "leader.address a number": (_leader(address=5), "leader.address is 5"),
    "leader.address garbage": (_leader(address="\n\x1b[31m:99999999"), "leader.address is"),
    "leader.address a URL": (_leader(address="http://evil.example/x:80"), "leader.address is"),
    "leader.address a socket": (_leader(address="unix-abstract:others"), "leader.address is"),
    "leader.host a list": (_leader(host=["h"]), "leader.host is"),
    "generation.id a number": (_led(id=5), "generation.id is 5"),
    "members a list": (_led(members=["x"]), "generation.members is"),
    "a member that saves nothing": (_led(members={"evaluator-0": "p.1"}), "'evaluator-0'"),
    "a member of no index": (_led(members={"worker": "p.1"}), "'worker'"),
    "member 10^300": (_led(members={"worker-1" + "0" * 300: "p.1"}), "not a worker"),
    "incarnation a number": (_led(members={"worker-0": 7}), "'worker-0'"),
    "retired ..": (_with(retired=["../.."]), r"retired\[0\] is '../..'"),
    "retired absolute": (_with(retired=["/home/somebody"]), r"retired\[0\] is"),
    "retired the log": (_with(retired=["_holdfast"]), r"retired\[0\] is"),
    "retired a number": (_with(retired=[3]), r"retired\[0\] is 3"),
    "retired text": (_with(retired="abc"), "retired is 'abc'"),
    "retired with a slash": (_with(retired=[f"{FOLDER}/"]), r"retired\[0\] is"),
    "retired what is live": (_with(retired=[FOLDER]), "retired names the folder of a live checkpoint"),
    "damaged a number": (_with(damaged=3), "damaged is 3"),
    "damaged lists": (_with(damaged=[["a"]]), r"damaged\[0\] is"),
    "damaged what is not there": (_with(damaged=["ckpt-2"]), "damaged names what is not"),
    "led text": (_with(led="x"), "led is 'x'"),
    "past of no generations": (_with(past={"seconds": 1}), "past lacks generations"),
    "past of negative time": (_with(past={"generations": 1, "seconds": -1}), "past.seconds is -1"),
    "metrics a list": (_live(metrics=[1]), r"checkpoints\[0\].metrics is"),
    "metrics text": (_live(metrics={"loss": "x"}), r"checkpoints\[0\].metrics\['loss'\] is 'x'"),
    "metrics true": (_live(metrics={"loss": True}), r"checkpoints\[0\].metrics\['loss'\] is True"),
    "metrics a thousand": (_live(metrics=dict.fromkeys(map(str, range(1000)))), r"checkpoints\[0\].metrics is"),
    "superseded a number": (_with(superseded=[3]), r"superseded\[0\] is 3"),
    "superseded a thousand": (_with(superseded=["00000000"] * 1000), "superseded is"),
    "superseded who leads": (_with(superseded=["0badcafe"]), "generation is superseded"),
    "rolled_back text": (_with(rolled_back="3"), "rolled_back is '3'"),
    "moved of two lines": (_with(moved="a\nb"), "moved is"),
    "moved, and somebody leads": (_with(moved="/elsewhere"), "moved is said of a run"),
}


def _held(name: str, *changes: dict[str, Any]) -> Change:
    sound = {
        "pinned": {"prefix": PREFIX, "time": 0.0, "reason": ""},
        "tags": {"name": "production", "prefix": PREFIX, "time": 0.0},
        "leases": {"prefix": PREFIX, "reader": "r", "seconds": 1.0, "taken": 0},
    }
    return lambda f: f | {"format": 3, name: [sound[name] | each for each in changes]}


ENTRIES |= {
    "pinned ..": (_held("pinned", {"prefix": "../x"}), r"pinned\[0\].prefix is"),
    "pinned TensorFlow's": (_held("pinned", {"prefix": "ckpt-7"}), r"pinned\[0\].prefix is"),
    "pinned what is not there": (_held("pinned", {"prefix": "ckpt-2.0badcafe.2/ckpt-2"}), "pinned names what is not"),
    "pinned twice": (_held("pinned", {}, {"reason": "again"}), "pinned holds one twice"),
    "pinned 1,001 times": (_held("pinned", *[{}] * 1001), "pinned is"),
    "a reason of two lines": (_held("pinned", {"reason": "a\nb"}), r"pinned\[0\].reason is"),
    "a reason of ESC": (_held("pinned", {"reason": "\x1b[2J"}), r"pinned\[0\].reason is"),
    "a reason without end": (_held("pinned", {"reason": "a" * 300}), r"pinned\[0\].reason is"),
    "a tag of ESC": (_held("tags", {"name": "a\x1b[2J"}), r"tags\[0\].name is"),
    "a tag of digits": (_held("tags", {"name": "1000"}), r"tags\[0\].name is"),
    "a tag that is a path": (_held("tags", {"name": "../x"}), r"tags\[0\].name is"),
    "a tag and a line end": (_held("tags", {"name": "production\n"}), r"tags\[0\].name is"),
    "a tag of other letters": (_held("tags", {"name": "pr\u043eduction"}), r"tags\[0\].name is"),
    "a tag without end": (_held("tags", {"name": "a" * 65}), r"tags\[0\].name is"),
    "a tag of what is not there": (_held("tags", {"prefix": "ckpt-2.0badcafe.2/ckpt-2"}), "tags names what is not"),
    "a tag of TensorFlow's": (_held("tags", {"prefix": "ckpt-7"}), r"tags\[0\].prefix is"),
    "a tag given twice": (_held("tags", {}, {"time": 1.0}), "tags holds one twice"),
    "1,001 tags": (_held("tags", *({"name": f"a{n}"} for n in range(1001))), "tags is"),
    "a lease for ever": (_held("leases", {"seconds": 1e9}), r"leases\[0\].seconds is"),
    "a lease of NaN": (_held("leases", {"seconds": float("nan")}), "NaN"),
    "a lease of -1": (_held("leases", {"seconds": -1}), r"leases\[0\].seconds is"),
    "a lease of nobody": (_held("leases", {"reader": ""}), r"leases\[0\].reader is"),
    "a lease of what is not there": (_held("leases", {"prefix": "ckpt-2.0badcafe.2/ckpt-2"}), "leases names what is"),
    "two leases of one reader": (_held("leases", {}, {"taken": 1}), "leases holds one twice"),
    "65 leases": (_held("leases", *({"reader": str(n)} for n in range(65))), "leases is"),
}


def _top(**changes: Any) -> Change:
    return lambda f: f | changes


def _object(**changes: Any) -> Change:
    return lambda f: f | {"objects": [f["objects"][0] | changes, *f["objects"][1:]]}


def _and(**added: Any) -> Change:
    whole = {"name": "x", "size": 0, "crc32c": "00000000", "role": "asset", "task": None} | added
    return lambda f: f | {"objects": [*f["objects"], whole]}


MANIFESTS: dict[str, tuple[Change, str]] = {
    "deep JSON": (lambda f: b"[" * 1_000_000, "nests too deep"),
    "deep in metadata": (
        _raw('"metadata": {}', '"metadata": {"a":' + "[" * 900 + "]" * 900 + "}"),
        "metadata nests more than 100",
    ),
    "1e999 in metrics": (_raw('"metrics": {}', '"metrics": {"a":1e999}'), "metrics holds a number"),
    "duplicate objects": (_more(b',"objects":[]'), "a field twice"),
    "step of 5000 digits": (_raw('"step": 1', '"step": ' + "9" * 5000), "is not JSON"),
    "size 2^63": (_object(size=1 << 63), r"objects\[0\].size"),
    "size 2^200": (_object(size=1 << 200), r"objects\[0\].size"),
    "size true": (_object(size=True), r"objects\[0\].size is True"),
    "name ..": (_object(name="../../../etc/passwd"), r"objects\[0\].name"),
    "name absolute": (_object(name="/etc/passwd"), r"objects\[0\].name"),
    "name NUL": (_object(name="a\0b"), r"objects\[0\].name"),
    "name ESC": (_object(name="\x1b[31mred"), r"objects\[0\].name"),
    "name of another checkpoint": (_object(name="ckpt-2.data-00000-of-00001"), r"objects\[0\].name"),
    "name twice": (lambda f: f | {"objects": [*f["objects"], f["objects"][0]]}, "which another object is"),
    "crc32c of 5000 digits": (_object(crc32c="9" * 5000), r"objects\[0\].crc32c"),
    "crc32c -1": (_object(crc32c="-1"), r"objects\[0\].crc32c"),
    "crc32c 0_0": (_object(crc32c="0_0"), r"objects\[0\].crc32c"),
    "role": (_object(role="x" * 100), r"objects\[0\].role"),
    "task of no index": (_object(task="abc"), r"objects\[0\].task"),
    "task 10^4000": (_object(task="worker-" + "9" * 4000), r"objects\[0\].task"),
    "task of another world": (_object(task="worker-7"), r"objects\[0\].task"),
    "local of another worker": (_and(name="local/worker-1.index", role="local", task="worker-0"), r"objects\[2\].name"),
    "the manifest itself": (_and(name="manifest.json"), r"objects\[2\].name"),
    "no index": (lambda f: f | {"objects": f["objects"][:1]}, "is not in the manifest"),
    "larger than any": (lambda f: json.dumps(f).encode() + b" " * LARGEST, "has more than"),
    "prefix of another": (_raw("ckpt-1.0badcafe.1", "ckpt-1.0badcafe.2"), "is the manifest of"),
    "prefix of another step": (_top(prefix="ckpt-2.0badcafe.1/ckpt-2"), "is of step 1"),
    "time NaN": (_raw('"time": 1700000000.0', '"time": NaN'), "NaN"),
    "time 1e300": (_top(time=1e300), "time is"),
    "world": (_top(world=["x"]), r"world\[0\] is 'x'"),
    "local_keys": (_top(local_keys=[1]), r"local_keys\[0\] is 1"),
    "cluster": (_top(cluster={"w": 5}), "cluster"),
    "cluster nested": (_top(cluster={"w": [[1]]}), "cluster"),
    "versions": (_top(versions={"a": ["b"]}), "versions"),
    "generation of ten million": (_top(generation="x" * 10_000_000), "generation is"),
    "strategy of ten million": (_top(strategy="x" * 10_000_000), "strategy is"),
}

Records = dict[bytes, BundleEntry]
IndexChange = Callable[[Records, bytearray], None]
KEY = b"kernel/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = OBJECT_GRAPH_KEY.encode()
OBJECTS = b"an object graph"
FLOATS_AT = 5 + len(OBJECTS)


def _entry(table_key: bytes = KEY, **changes: Any) -> IndexChange:
    def change(records: Records, data: bytearray) -> None:
        entry = records[table_key]
        if "shape" in changes:
            del entry.shape.dim[:]
            for size in changes["shape"]:
                entry.shape.dim.add(size=size)
        for name, value in changes.items():
            if name != "shape":
                setattr(entry, name, value)

    return change


def _floats(count: int) -> IndexChange:
    return _entry(shape=[count], size=4 * count)


def _string_lengths(records: Records, data: bytearray) -> None:
    data[:9] = b"\xff\xff\xff\xff\xff\xff\xff\x7f\x00"


def _string(records: Records, data: bytearray) -> None:
    data[FLOATS_AT - 1] ^= 1


def _in_slices(*extents: tuple[tuple[int, int], ...], offsets: tuple[int, ...]) -> IndexChange:
    def change(records: Records, data: bytearray) -> None:
        key = KEY.decode()
        records.update([header_record(key, FLOAT, (4,), extents)])
        for each, offset in zip(extents, offsets, strict=True):
            size = 4 * each[0][1]
            records.update([slice_record(key, FLOAT, each, shard=0, offset=FLOATS_AT + offset, size=size, crc32c=0)])

    return change


def _long_key(records: Records, data: bytearray) -> None:
    records[b"\0" + b"x" * 1_000_000] = records[KEY]


INDEXES: dict[str, tuple[IndexChange, str]] = {
    "a key of a million bytes": (_long_key, "a name of 1,000,001 bytes"),
    "terabytes": (_floats(1 << 40), "it leads to byte"),
    "gigabytes": (_floats(1 << 33), "it leads to byte"),
    "beyond the end": (_floats(1 << 20), "it leads to byte"),
    "one float beyond": (_entry(offset=FLOATS_AT + 4), "it leads to byte"),
    "offset 2^60": (_entry(offset=1 << 60), "it leads to byte"),
    "offset 2^63 - 1": (_entry(offset=(1 << 63) - 1), "ends beyond"),
    "offset -1": (_entry(offset=-1), "negative"),
    "size of another shape": (_entry(shape=[5]), "is not the size of"),
    "shard 1 of 1": (_entry(shard_id=1), "is in shard 1 of 1"),
    "1000 dimensions": (_entry(shape=[1] * 1000), "dimensions"),
    "more elements than can be counted": (_entry(GRAPH, shape=[1 << 62, 1 << 62]), "dimensions"),
    "more strings than bytes": (_entry(GRAPH, shape=[1 << 62]), "elements"),
    "shared bytes": (_entry(offset=4), "shares bytes"),
    "a variant": (_entry(dtype=VARIANT, shape=[], size=8), "variant"),
    "lengths of strings": (_string_lengths, "end|fit"),
    "strings": (_string, "is not what its entry"),
    "slices that leave a gap": (_in_slices(((0, 1),), ((2, 2),), offsets=(0, 4)), "gaps"),
    "slices that overlap": (_in_slices(((0, 3),), ((2, 2),), offsets=(0, 12)), "overlap"),
    "slices beyond the tensor": (_in_slices(((0, 2),), ((2, 3),), offsets=(0, 8)), "slice"),
}


def write_run(
    store: Store,
    *,
    entry: Change = dict,
    manifest: Change = dict,
    index: IndexChange = lambda records, data: None,
) -> None:
    """Write a run of one checkpoint of a float tensor and an object graph, with something changed in it."""
    floats = struct.pack("<4f", 1, 2, 3, 4)
    stored = bytes([len(OBJECTS)]) + struct.pack("<I", mask(crc32c(struct.pack("<I", len(OBJECTS))))) + OBJECTS
    data = bytearray(stored + floats)
    key, graph_crc = KEY.decode(), entry_crc32c(STRING, (), [stored])
    records = dict(
        [
            full_record(key, FLOAT, (4,), shard=0, offset=FLOATS_AT, size=16, crc32c=mask(crc32c(floats))),
            full_record(OBJECT_GRAPH_KEY, STRING, (), shard=0, offset=0, size=FLOATS_AT, crc32c=graph_crc),
        ]
    )
    index(records, data)
    header = BundleHeader(num_shards=1)
    header.version.producer = 1
    items = [(b"", header.SerializeToString()), *((k, e.SerializeToString()) for k, e in sorted(records.items()))]
    contents = {
        layout.data_object("ckpt-1", 0, 1): ("data", bytes(data), WORKER),
        layout.index_object("ckpt-1"): ("index", write_table(items), None),
    }
    objects = [ObjectRecord(n, len(d), crc32c(d), role, task) for n, (role, d, task) in contents.items()]
    for name, (_, each, _) in contents.items():
        store.write(f"{FOLDER}/{name}", [each])
    sound = Manifest(PREFIX, 1, 1.7e9, "0badcafe", (WORKER,), tuple(objects))
    told = manifest(json.loads(sound.to_bytes()))
    text = told if isinstance(told, bytes) else json.dumps(told, indent=1).encode() + b"\n"
    store.write(layout.manifest_object(FOLDER), [text])
    record = replace(RECORD, manifest_crc32c=crc32c(text))
    store.write(layout.log_entry(0), [seal(entry(entry_fields(record)))])
