"""Every byte of a checkpoint against its digests."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import full_record, header_record, slice_record, write_index
from holdfast_storage.checkpoint import verify
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.checkpoint.verify import Problem, verify_checkpoint, verify_size
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, StorageError
from holdfast_storage.lag import LAG, Wait
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.faulty_store import FaultyStore
from support.lagging import Clock, LaggingStore
from support.stores import KINDS, new_store

FOLDER = "ckpt-1.0000000a.0"
INDEX = "ckpt-1.index"
CONTENTS = {
    "assets/big": bytes(range(256)) * 40,
    "assets/small": b"abc",
    INDEX: write_index(1, []),
    "assets/empty": b"",
}


KIND = {"missing": "absent", "short": "absent", "long": "damaged", "bit": "damaged"}
"""What a mount that lags may show of a sound object as well is no damage, by itself."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a few kilobytes are many parts and many chunks, none of which ends where another does."""
    monkeypatch.setattr(verify, "_PART", 3001)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = new_store(request.param, tmp_path)
    store.block = 700
    return store


def put(store: Store) -> CheckpointRecord:
    """A committed checkpoint of ours."""
    objects = tuple(
        ObjectRecord(name, len(data), crc32c(data), "index" if name == INDEX else "asset")
        for name, data in CONTENTS.items()
    )
    for name, data in CONTENTS.items():
        store.write(f"{FOLDER}/{name}", [data])
    manifest = Manifest(f"{FOLDER}/ckpt-1", 1, 1.0, "0000000a", (Task("worker", 0),), objects).to_bytes()
    store.write(f"{FOLDER}/manifest.json", [manifest])
    return CheckpointRecord(f"{FOLDER}/ckpt-1", 1, 1.0, manifest_crc32c=crc32c(manifest))


def change(store: Store, name: str, data: bytes | None) -> None:
    """Another content for an object of the run, or none."""
    path = Path(store.url) / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def test_a_good_checkpoint(store: Store) -> None:
    """A good checkpoint is found good, and all bytes are counted. Guards against passing over a sound checkpoint, and a
    progress bar that does not end at 100 %."""
    record = put(store)
    done: list[int] = []
    report = verify_checkpoint(store, record, progress=done.append)
    report.raise_if_bad()
    assert report.verdict == "good"
    assert report.objects == len(CONTENTS) + 1
    assert report.size == sum(done) == verify_size(store, record) == sum(map(len, CONTENTS.values()))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_everything_passes_through_the_sink(store: Store, threads: int) -> None:
    """Everything passes through the sink. Guards against a staged copy with a hole, whose digests were good."""
    expected = {f"{FOLDER}/{name}": data for name, data in CONTENTS.items() if name != INDEX}
    copies = {name: bytearray(len(data)) for name, data in expected.items()}
    lock = threading.Lock()

    def sink(name: str, offset: int, chunk: memoryview) -> None:
        with lock:
            copies[name][offset : offset + len(chunk)] = chunk

    verify_checkpoint(store, put(store), sink=sink, threads=threads).raise_if_bad()
    assert copies == expected


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "short", "long", "bit"])
def test_damage_is_found_and_named(tmp_path: Path, name: str, how: str) -> None:
    """Damage of any kind in any object is found and named. Guards against restoring damage as if it were good."""
    store = new_store("posix", tmp_path)
    record = put(store)
    before = store.read(f"{FOLDER}/{name}")
    if not before and how in ("short", "bit"):
        return
    flipped = bytearray(before)
    if before:
        flipped[len(before) // 2] ^= 4
    data = {"missing": None, "short": before[:-1], "long": before + b"x", "bit": bytes(flipped)}[how]
    change(store, f"{FOLDER}/{name}", data)
    report = verify_checkpoint(store, record)
    verdict = KIND[how]
    assert report.verdict == verdict
    assert [(problem.object, problem.kind) for problem in report.problems] == [(f"{FOLDER}/{name}", verdict)]
    with pytest.raises(CheckpointDamaged, match=name) as raised:
        report.raise_if_bad()
    assert raised.value.object == f"{FOLDER}/{name}"
    assert isinstance(raised.value, CheckpointAbsent) == (verdict == "absent")


def test_every_flipped_bit_of_an_object_is_found(tmp_path: Path) -> None:
    """Every flipped bit of an object is found. Guards against a bit at the seam of two parts that belongs to
    neither."""
    store = new_store("posix", tmp_path)
    record = put(store)
    data = CONTENTS["assets/big"]
    for position in [*range(0, len(data), 97), 699, 700, 3000, 3001, 6001, 6002, len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1
        change(store, f"{FOLDER}/assets/big", bytes(damaged))
        assert verify_checkpoint(store, record).verdict == "damaged"


def test_swapped_objects_are_found(tmp_path: Path) -> None:
    """Swapped objects are found. Guards against two objects of one size, each sound in itself, in each other's
    place."""
    store = new_store("posix", tmp_path)
    data = [bytes(10), b"x" * 10]
    objects = tuple(ObjectRecord(f"assets/{n}", 10, crc32c(data[n]), "asset") for n in (0, 1))
    for n in (0, 1):
        store.write(f"{FOLDER}/assets/{n}", [data[1 - n]])
    manifest = Manifest(f"{FOLDER}/ckpt-1", 1, 1.0, "0000000a", (), objects).to_bytes()
    store.write(f"{FOLDER}/manifest.json", [manifest])
    report = verify_checkpoint(store, CheckpointRecord(f"{FOLDER}/ckpt-1", 1, 1.0, manifest_crc32c=crc32c(manifest)))
    assert [problem.object for problem in report.problems] == [
        f"{FOLDER}/{name}" for name in ("assets/0", "assets/1", INDEX)
    ]


@pytest.mark.parametrize("fault", [("read", 0), ("size", 1), ("read_into", 0), ("read_into", 7)])
def test_unreadable_is_not_damaged(store: Store, fault: tuple[str, int]) -> None:
    """An unreadable object is not damaged. Guards against a good checkpoint that is condemned because a mount or a
    credential failed for a moment."""
    report = verify_checkpoint(FaultyStore(store, {fault: "fail"}), put(store))
    assert report.verdict == "unreadable"
    with pytest.raises(StorageError, match="Could not"):
        report.raise_if_bad()


def test_a_mount_that_is_gone_damages_nothing(tmp_path: Path) -> None:
    """A missing run directory is unreadable, not damaged. Guards against a mount point without its mount: an empty
    folder in which every checkpoint is missing."""
    record = put(new_store("posix", tmp_path))
    report = verify_checkpoint(open_store(tmp_path / "elsewhere"), record)
    assert report.verdict == "unreadable"
    assert "is it mounted" in report.problems[0].reason


def test_only_the_objects_asked_for(tmp_path: Path) -> None:
    """Only the requested objects are read. Guards against a worker that reads what only others need, or condemns what
    it does not need."""
    store = new_store("posix", tmp_path)
    record = put(store)
    change(store, f"{FOLDER}/assets/big", None)
    report = verify_checkpoint(store, record, objects=["assets/small"])
    assert (report.verdict, report.size) == ("good", 3)
    assert verify_checkpoint(store, record, objects=["other"]).problems == (
        Problem(f"{FOLDER}/other", "damaged", "is not in the manifest"),
    )


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError("x"), StorageError("x"), KeyboardInterrupt()])
def test_what_the_caller_raises_is_raised(store: Store, error: BaseException) -> None:
    """An error of the caller's functions is raised. Guards against a full staging disk that is taken for a damaged
    checkpoint, or for a good one."""

    def sink(_name: str, _offset: int, _chunk: memoryview) -> None:
        raise error

    record = put(store)
    with pytest.raises(type(error)) as raised:
        verify_checkpoint(store, record, sink=sink)
    assert raised.value is error


STRINGS = b"\x02\x00" + mask(crc32c(b"\2\0\0\0\0\0\0\0")).to_bytes(4, "little") + b"hi"


def put_stock(store: Store) -> CheckpointRecord:
    """A checkpoint as TensorFlow writes it: plain, empty, large, sliced and string tensors, in two shards, a gap."""
    big = bytes(range(256)) * 20
    shards = [b"abcd" + b"gap" + big + STRINGS, b"wxyz" * 4]
    records = [
        full_record("a", 4, (4,), shard=0, offset=0, size=4, crc32c=mask(crc32c(b"abcd"))),
        full_record("big", 4, (5120,), shard=0, offset=7, size=5120, crc32c=mask(crc32c(big))),
        full_record("none", 4, (0,), shard=0, offset=7 + 5120, size=0, crc32c=mask(0)),
        full_record("s", 7, (2,), shard=0, offset=7 + 5120, size=8, crc32c=entry_crc32c(7, (2,), [STRINGS])),
        header_record("t", 4, (4, 4), [((0, 2), (0, 4)), ((2, 2), (0, 4))]),
        slice_record("t", 4, ((0, 2), (0, 4)), shard=1, offset=0, size=8, crc32c=mask(crc32c(b"wxyzwxyz"))),
        slice_record("t", 4, ((2, 2), (0, 4)), shard=1, offset=8, size=8, crc32c=mask(crc32c(b"wxyzwxyz"))),
    ]
    for shard, data in enumerate(shards):
        store.write(f"ckpt-1.data-{shard:05d}-of-00002", [data])
    store.write("ckpt-1.index", [write_index(2, [(key, entry.SerializeToString()) for key, entry in records])])
    return CheckpointRecord("ckpt-1", 1, 1.0, stock=True)


def test_a_good_stock_checkpoint(store: Store) -> None:
    """A good stock checkpoint is found good. Guards against passing over a checkpoint of TensorFlow's that its own
    reader takes."""
    record = put_stock(store)
    report = verify_checkpoint(store, record)
    report.raise_if_bad()
    assert report.objects == 3
    assert verify_size(store, record) == 4 + 5120 + 8 + 16


STOCK = ["ckpt-1.index", "ckpt-1.data-00000-of-00002", "ckpt-1.data-00001-of-00002"]


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("how", ["missing", "short", "bit"])
def test_damage_in_a_stock_checkpoint(tmp_path: Path, name: str, how: str) -> None:
    """Damage in a stock checkpoint is found and named. Guards against a newest stock checkpoint that lacks a file,
    while nobody looks at the intact one before it."""
    store = new_store("posix", tmp_path)
    record = put_stock(store)
    before = bytearray(store.read(name))
    before[-1] ^= 1
    change(store, name, {"missing": None, "short": bytes(before[:-1]), "bit": bytes(before)}[how])
    report = verify_checkpoint(store, record)
    # That the index of TensorFlow ends early, nothing tells.
    kind = "damaged" if (how, name) == ("short", STOCK[0]) else KIND[how]
    assert [(problem.object, problem.kind) for problem in report.problems] == [(name, kind)]


def test_every_byte_of_a_stock_tensor_counts(tmp_path: Path) -> None:
    """Every byte of a stock tensor is checked. Guards against a byte at the seam of two chunks or two tensors that
    belongs to neither."""
    store = new_store("posix", tmp_path)
    record = put_stock(store)
    good = store.read(STOCK[1])
    for position in [*range(0, len(good), 41), 699, 700, 706, 707, len(good) - 9, len(good) - 1]:
        damaged = bytearray(good)
        damaged[position] ^= 1
        change(store, STOCK[1], bytes(damaged))
        expected = "good" if 4 <= position < 7 else "damaged"
        assert verify_checkpoint(store, record).verdict == expected


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.installed(monkeypatch)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("stock", [False, True])
def test_what_a_mount_shows_late_is_waited_for(tmp_path: Path, clock: Clock, stock: bool, short: bool) -> None:
    """What a mount shows late is waited for. Guards against a good checkpoint that is called damaged because another
    host wrote it a moment ago."""
    inner = new_store("posix", tmp_path)
    record = put_stock(inner) if stock else put(inner)
    first, second = STOCK[:2] if stock else ("manifest.json", "/assets/big")
    late = {second: clock.now + 30.0} if stock and short else {first: clock.now + 5.0, second: clock.now + 30.0}
    store = LaggingStore(inner.url, clock, late, short=short)
    assert verify_checkpoint(store, record).verdict == "absent", "nobody has said that it is to wait"
    assert clock.pauses == 0
    assert verify_checkpoint(store, record, wait=Wait()).verdict == "good"
    assert 1030.0 <= clock.now <= 1033.0


def test_only_what_is_late_is_looked_at_again(tmp_path: Path, clock: Clock) -> None:
    """Only late objects are read again. Guards against reading a hundred gigabytes again and again for one
    small file."""
    record = put(new_store("posix", tmp_path))
    store = LaggingStore(new_store("posix", tmp_path).url, clock, {"/assets/small": clock.now + 20.0})
    assert verify_checkpoint(store, record, wait=Wait(), threads=1).verdict == "good"
    once = [f"{FOLDER}/{name}" for name in CONTENTS if name not in ("assets/small", "assets/empty", INDEX)]
    parts = {name: store.looked.count(name) for name in once}
    store.looked.clear()
    verify_checkpoint(store, record, threads=1)
    assert parts == {name: store.looked.count(name) for name in once}


def test_what_never_comes_is_absent(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """What never comes is absent. Guards against waiting for a deleted file without end or without a word, and calling
    it damage that somebody has read."""
    store = new_store("posix", tmp_path)
    record = put(store)
    change(store, f"{FOLDER}/assets/small", None)
    report = verify_checkpoint(store, record, wait=Wait())
    assert report.problems == (Problem(f"{FOLDER}/assets/small", "absent", "is missing"),)
    assert clock.now == pytest.approx(1000.0 + LAG)
    (told,) = caplog.messages
    assert f"{store.url}/{FOLDER}/assets/small is missing; waiting up to" in told


def test_nothing_is_waited_for_beside_damage(tmp_path: Path, clock: Clock) -> None:
    """If there is damage, nothing is waited for. Guards against a minute for a file that cannot change the verdict."""
    store = new_store("posix", tmp_path)
    record = put(store)
    change(store, f"{FOLDER}/assets/small", None)
    change(store, f"{FOLDER}/assets/big", CONTENTS["assets/big"][:-1] + b"?")
    report = verify_checkpoint(store, record, wait=Wait())
    assert report.verdict == "damaged"
    assert [problem.kind for problem in report.problems] == ["damaged", "absent"]
    assert clock.pauses == 0


@pytest.mark.tensorflow
def test_what_tensorflow_wrote_is_good(tmp_path: Path) -> None:
    """What TensorFlow wrote is good. Guards against calling a stock checkpoint with an iterator, Python state and many
    small variables damaged."""
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint(
        iterator=iter(tf.data.Dataset.range(100).shuffle(10)),
        variables=[tf.Variable(tf.random.normal([n, 3])) for n in range(40)],
        strings=tf.Variable(["a", "", "é" * 300]),
        flag=tf.Variable(True),
    )
    path = checkpoint.save(str(tmp_path / "run" / "ckpt"))
    store = open_store(tmp_path / "run")
    record = CheckpointRecord("ckpt-1", 1, 1.0, stock=True)
    verify_checkpoint(store, record).raise_if_bad()
    (shard,) = (tmp_path / "run").glob("*.data-*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert path.endswith("ckpt-1")
    assert verify_checkpoint(store, record).verdict == "damaged"
