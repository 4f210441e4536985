"""Bytes that earlier versions wrote are read, to what they meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.cluster import Task
from holdfast_storage.log.entries import Records, decode, decode_page
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, Lease, LogState, Pin

WORKERS = Task("worker", 0), Task("worker", 1)
RECORDS = (
    CheckpointRecord("ckpt-7", 7, 0.0, stock=True),
    CheckpointRecord(
        "ckpt-1000.7f3a2c1b.12/ckpt-1000", 1000, 1750000000.25, preserved=True, manifest_crc32c=4000000000
    ),
    CheckpointRecord(
        f"my ckpt-v2-{2**63 - 1}.00000000.1/my ckpt-v2-{2**63 - 1}", 2**63 - 1, 1750000001.0, manifest_crc32c=1
    ),
)
STATE = LogState(
    "a1b2c3d4e5f60718",
    Leader("0123456789abcdef-2", "trainer-0.trainers:40123", "trainer-0"),
    Generation("7f3a2c1b", ((WORKERS[0], "0123456789ab.1"), (WORKERS[1], "ba9876543210.3"))),
    RECORDS,
    retired=("ckpt-990.7f3a2c1b.11",),
    damaged=("ckpt-7",),
    last_preserved=1750000000.25,
    superseded=("00000000",),
)
NOTE = "replaced by ckpt-1000.7f3a2c1b.12/ckpt-1000"
SAID = Entry(42, "retire", "0123456789abcdef-2.7", 1750000002.5, STATE, NOTE)

ENTRY = (
    b'{"crc32c":"415e7df0","entry":{"format":1,"number":42,"kind":"retire","write_id":"0123456789abcd'
    b'ef-2.7","time":1750000002.5,"note":"replaced by ckpt-1000.7f3a2c1b.12/ckpt-1000","run_id":"a1b2'
    b'c3d4e5f60718","leader":{"id":"0123456789abcdef-2","address":"trainer-0.trainers:40123","host":"'
    b'trainer-0"},"generation":{"id":"7f3a2c1b","members":{"worker-0":"0123456789ab.1","worker-1":"ba'
    b'9876543210.3"}},"checkpoints":[{"prefix":"ckpt-7","step":7,"time":0.0,"stock":true},{"prefix":"'
    b'ckpt-1000.7f3a2c1b.12/ckpt-1000","step":1000,"time":1750000000.25,"manifest_crc32c":4000000000,'
    b'"preserved":true},{"prefix":"my ckpt-v2-9223372036854775807.00000000.1/my ckpt-v2-9223372036854'
    b'775807","step":9223372036854775807,"time":1750000001.0,"manifest_crc32c":1}],"retired":["ckpt-9'
    b'90.7f3a2c1b.11"],"damaged":["ckpt-7"],"last_preserved":1750000000.25,"superseded":["00000000"]}'
    b"}\n"
)
PAGE_NAME = "14d3ab55fdc6e76a765cc41bfda2d763"
PAGE = (
    b'{"checkpoints":[{"prefix":"ckpt-7","step":7,"time":0.0,"stock":true},{"prefix":"ckpt-1000.7f3a2'
    b'c1b.12/ckpt-1000","step":1000,"time":1750000000.25,"manifest_crc32c":4000000000,"preserved":tru'
    b"e}]}\n"
)
PAGED = (
    b'{"crc32c":"f63d0877","entry":{"format":2,"number":42,"kind":"retire","write_id":"0123456789abcd'
    b'ef-2.7","time":1750000002.5,"note":"replaced by ckpt-1000.7f3a2c1b.12/ckpt-1000","run_id":"a1b2'
    b'c3d4e5f60718","leader":{"id":"0123456789abcdef-2","address":"trainer-0.trainers:40123","host":"'
    b'trainer-0"},"generation":{"id":"7f3a2c1b","members":{"worker-0":"0123456789ab.1","worker-1":"ba'
    b'9876543210.3"}},"checkpoints":["14d3ab55fdc6e76a765cc41bfda2d763",{"prefix":"my ckpt-v2-9223372'
    b'036854775807.00000000.1/my ckpt-v2-9223372036854775807","step":9223372036854775807,"time":17500'
    b'00001.0,"manifest_crc32c":1}],"retired":["ckpt-990.7f3a2c1b.11"],"damaged":["ckpt-7"],"last_pre'
    b'served":1750000000.25,"superseded":["00000000"]}}\n'
)
HELD = (
    b'{"crc32c":"85ea6e95","entry":{"format":3,"number":43,"kind":"lease","write_id":"0123","time":175'
    b'0000004.0,"note":"note","run_id":"a1b2c3d4e5f60718","leader":{"id":"0123456789abcdef-2","address'
    b'":"trainer-0.trainers:40123","host":"trainer-0"},"generation":{"id":"7f3a2c1b","members":{"worke'
    b'r-0":"0123456789ab.1","worker-1":"ba9876543210.3"}},"checkpoints":[{"prefix":"ckpt-7","step":7,"'
    b'time":0.0,"stock":true},{"prefix":"ckpt-1000.7f3a2c1b.12/ckpt-1000","step":1000,"time":175000000'
    b'0.25,"manifest_crc32c":4000000000,"preserved":true},{"prefix":"my ckpt-v2-9223372036854775807.00'
    b'000000.1/my ckpt-v2-9223372036854775807","step":9223372036854775807,"time":1750000001.0,"manifes'
    b't_crc32c":1}],"retired":["ckpt-990.7f3a2c1b.11"],"damaged":["ckpt-7"],"last_preserved":175000000'
    b'0.25,"superseded":["00000000"],"pinned":[{"prefix":"ckpt-1000.7f3a2c1b.12/ckpt-1000","time":1750'
    b'000003.0,"reason":"for the paper"}],"leases":[{"prefix":"ckpt-1000.7f3a2c1b.12/ckpt-1000","reade'
    b'r":"r1","seconds":3600.0,"taken":43},{"prefix":"my ckpt-v2-9223372036854775807.00000000.1/my ckp'
    b't-v2-9223372036854775807","reader":"r2","seconds":60.0,"taken":41}]}}\n'
)
FIRST = (
    b'{"crc32c":"ebb49ba4","entry":{"format":1,"number":0,"kind":"import","write_id":"x.1","time":1.0'
    b',"note":"first entry","run_id":"r","leader":null,"generation":null,"checkpoints":[],"retired":['
    b'],"damaged":[],"last_preserved":null}}\n'
)
MANIFEST = (
    b'{\n "format": 1,\n "prefix": "ckpt-1000.7f3a2c1b.12/ckpt-1000",\n "step": 1000,\n "time": 175000000'
    b'0.25,\n "generation": "7f3a2c1b",\n "world": [\n  "worker-0",\n  "worker-1"\n ],\n "cluster": {\n  "wo'
    b'rker": [\n   "a:1",\n   "b:1"\n  ],\n  "ps": [\n   "c:1"\n  ]\n },\n "strategy": "MultiWorkerMirroredSt'
    b'rategy",\n "versions": {\n  "holdfast": "0.1.0"\n },\n "git_commit": "0123abc",\n "metadata": {\n  "n'
    b'\xc3\xa9e": [\n   1,\n   {\n    "b": null\n   }\n  ],\n  "s": "\\ud800"\n },\n "metrics": {\n  "loss": 0.'
    b'5\n },\n "local_keys": [\n  "bn/mean\\n\\udcff"\n ],\n "objects": [\n  {\n   "name": "ckpt-1000.data-000'
    b'00-of-00001",\n   "size": 3,\n   "crc32c": "00000004",\n   "role": "data",\n   "task": "worker-1"\n '
    b' },\n  {\n   "name": "ckpt-1000.index",\n   "size": 5,\n   "crc32c": "00000006",\n   "role": "index"'
    b',\n   "task": null\n  },\n  {\n   "name": "local/worker-1.data-00000-of-00001",\n   "size": 1,\n   "c'
    b'rc32c": "00000002",\n   "role": "local",\n   "task": "worker-1"\n  },\n  {\n   "name": "local/worker'
    b'-1.index",\n   "size": 7,\n   "crc32c": "00000008",\n   "role": "local",\n   "task": "worker-1"\n  }'
    b"\n ]\n}\n"
)


def pages(names: Sequence[str]) -> Sequence[Records]:
    return [decode_page(PAGE, name, "page") for name in names]


def test_entries() -> None:
    """Entries of all formats are read, and one of before there were superseded generations. Guards against a new check
    with which a run of last year does not start."""
    assert decode(ENTRY, "entry") == SAID
    assert decode(PAGED, "entry", pages) == SAID
    held = replace(
        STATE,
        pinned=(Pin(RECORDS[1].prefix, 1750000003.0, "for the paper"),),
        leases=(Lease(RECORDS[1].prefix, "r1", 3600.0, 43), Lease(RECORDS[2].prefix, "r2", 60.0, 41)),
    )
    assert decode(HELD, "entry") == Entry(43, "lease", "0123", 1750000004.0, held, "note")
    assert decode(FIRST, "entry") == Entry(0, "import", "x.1", 1.0, LogState("r"), "first entry")


def test_manifests() -> None:
    """A manifest is read, with all that a user's metadata and TensorFlow's keys may hold. Guards against a new check
    with which the checkpoints of last year are damaged."""
    assert Manifest.parse(MANIFEST) == Manifest(
        "ckpt-1000.7f3a2c1b.12/ckpt-1000",
        1000,
        1750000000.25,
        "7f3a2c1b",
        WORKERS,
        (
            ObjectRecord("ckpt-1000.data-00000-of-00001", 3, 4, "data", WORKERS[1]),
            ObjectRecord("ckpt-1000.index", 5, 6, "index"),
            ObjectRecord("local/worker-1.data-00000-of-00001", 1, 2, "local", WORKERS[1]),
            ObjectRecord("local/worker-1.index", 7, 8, "local", WORKERS[1]),
        ),
        cluster={"worker": ("a:1", "b:1"), "ps": ("c:1",)},
        strategy="MultiWorkerMirroredStrategy",
        versions={"holdfast": "0.1.0"},
        git_commit="0123abc",
        metadata={"née": [1, {"b": None}], "s": "\ud800"},
        metrics={"loss": 0.5},
        local_keys=("bn/mean\n\udcff",),
    )
