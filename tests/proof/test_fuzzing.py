"""Everything that parses bytes from outside, given any bytes: the errors that it documents, and no others.

Bytes are arbitrary ones, and valid ones that were changed, under checksums that hold, so that what is behind a checksum
is reached too. What is asked for beside the right errors: no length field is believed before there are so many bytes
(memory), no nesting ends in a RecursionError, and no input takes long.
"""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.restoring.staging import stage
from holdfast.session.hint import Hint, read_hint
from holdfast.session.this_task import ThisTask, parse_tf_config
from holdfast_protos.v1.bundle_pb2 import BundleEntry, BundleHeader, TensorShape, TensorSlice
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import Index, InvalidIndex, full_record, header_record, slice_record, write_index
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest
from holdfast_storage.log.entries import Records, decode, decode_page, encode, encode_page, page_name
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from holdfast_storage.run_directory import import_state, read_run
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store, open_store
from support.hostile import WORKER, write_run

EXAMPLES = settings(max_examples=300)
SECONDS = 5.0  # far more than any of them takes, on a machine that is shared
MEMORY = 64 << 20  # for inputs of at most 2 MiB

FLOAT, STRING = 1, 7
GENERATION = Generation("0000000a", ((Task("worker", 0), "p.1"), (Task("worker", 1), "q.1")))
RECORD = CheckpointRecord("ckpt-1.0000000a.1/ckpt-1", 1, 2.0, manifest_crc32c=3)
STATE = LogState(
    "run", Leader("id", "host:1", "host"), GENERATION, (RECORD,), ("ckpt-0.0000000a.0",), (RECORD.prefix,), 4.0
)
ENTRY = encode(Entry(3, "commit", "id.3", 5.0, STATE, "a note"))
INNER = ENTRY[ENTRY.index(b'"entry":') + 8 : -2]
PAGE = encode_page((RECORD, CheckpointRecord("ckpt-2", 2, 2.5, stock=True)))
MANIFEST = Manifest(
    RECORD.prefix,
    1,
    2.0,
    "0000000a",
    (Task("worker", 0), Task("worker", 1)),
    (
        ObjectRecord("ckpt-1.index", 3, 4, "index"),
        ObjectRecord("local/worker-1.index", 5, 6, "local", Task("worker", 1)),
    ),
    cluster={"worker": ("a:1", "b:1")},
    metadata={"a": [1, {"b": None}]},
).to_bytes()
ROWS = (((0, 2), (0, 3)), ((2, 2), (0, 3)))
RECORDS = [
    full_record("whole", FLOAT, (2, 2), shard=0, offset=0, size=16, crc32c=7),
    full_record("text", STRING, (2,), shard=0, offset=16, size=9, crc32c=8),
    header_record("cut", FLOAT, (4, 3), ROWS),
    *(slice_record("cut", FLOAT, rows, shard=1, offset=24 * n, size=24, crc32c=n) for n, rows in enumerate(ROWS)),
]
INDEX = write_index(2, [(key, entry.SerializeToString()) for key, entry in RECORDS])
STATE_FILE = state_file.to_bytes(LogState("run", checkpoints=(CheckpointRecord("ckpt-1", 1, 2.0, stock=True),)))
HINT = b'{"address": "host:1", "cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}\n'
TF_CONFIG = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes with a few of them replaced, taken out, put in or doubled."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        data[start:end] = draw(st.one_of(st.binary(max_size=8), st.just(data[start:end] * 2)))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, valid: bytes | str) -> object:
    """Valid JSON, with something else in a place of it, or without that."""
    fields = json.loads(valid)
    where, at = fields, draw(st.sampled_from(sorted(fields)))
    while isinstance(where[at], dict | list) and where[at] and draw(st.booleans()):
        where = where[at]
        at = draw(st.sampled_from(sorted(where))) if isinstance(where, dict) else draw(st.integers(0, len(where) - 1))
    if draw(st.booleans()):
        where[at] = draw(JSON)
    else:
        del where[at]
    return fields


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within time and memory."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < SECONDS


def sealed_entry(inner: bytes) -> bytes:
    """A log entry of any contents whose checksum holds."""
    return b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)


def parse_entry(data: bytes) -> Entry | None:
    try:
        return decode(data, "entry")
    except (CheckpointDamaged, InvalidRequest):
        return None


def parse_page(data: bytes) -> Records | None:
    """A page of any contents that are those of its name."""
    try:
        return decode_page(data, page_name(data), "page")
    except CheckpointDamaged:
        return None


def parse_manifest(data: bytes) -> Manifest | None:
    try:
        return Manifest.parse(data)
    except (CheckpointDamaged, InvalidRequest):
        return None


def parse_index(data: bytes) -> Index | None:
    try:
        return Index.parse(data)
    except (CheckpointDamaged, InvalidRequest):
        return None


# -- the index --


@EXAMPLES
@given(st.one_of(st.binary(max_size=300), mutated(INDEX)))
def test_index_files(data: bytes) -> None:
    """Any index file is read or refused. Guards against a rotten index that ends a restore with a traceback, although
    the checkpoint before is good."""
    if data != INDEX:
        # Bytes between the blocks and the footer belong to neither; the manifest has the CRC of the whole file.
        assert parse_index(data) in (None, Index.parse(INDEX))
        with contextlib.suppress(CheckpointDamaged, InvalidRequest):
            read_table(data)


@EXAMPLES
@given(st.data())
def test_records_under_checksums_that_hold(data: st.DataObject) -> None:
    """Any records under good checksums are read or refused. Guards against a broken writer's index that is half
    accepted."""
    pairs = dict(read_table(INDEX))
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from(sorted(pairs)))
        value = pairs.pop(key)
        pairs[data.draw(st.one_of(st.just(key), mutated(key or b"\0")))] = data.draw(
            st.one_of(mutated(value), st.just(value))
        )
    with bounded():
        index = parse_index(write_table(sorted(pairs.items())))
    if index is not None:
        with contextlib.suppress(InvalidIndex):  # slices that leave gaps, or share bytes
            again = write_index(index.num_shards, [(key, e.SerializeToString()) for key, e in index.records()])
            assert Index.parse(again) == index
            assert all(end < 2**63 for end in index.ends().values())
        for key in index.tensors:
            for extents, entry in index.pieces(key):
                assert 0 <= entry.shard < index.num_shards
                assert entry.size >= 0
                assert extents is None or len(extents) == len(index.tensors[key].shape)


HUGE = 2**63 - 1
TEXT = full_record("text", STRING, (HUGE, HUGE), shard=0, offset=0, size=HUGE, crc32c=0)


@pytest.mark.parametrize(
    "records",
    [
        [TEXT],
        [full_record("x", FLOAT, (HUGE,), shard=0, offset=HUGE, size=HUGE, crc32c=0)],
        [full_record("x", FLOAT, [HUGE] * 1000, shard=0, offset=0, size=16, crc32c=0)],
        [header_record("x", FLOAT, (HUGE, HUGE), [((0, HUGE), (0, HUGE))])],
        [(b"x", BundleEntry(dtype=FLOAT, shape=TensorShape(dim=[TensorShape.Dim(size=-1)])))],
        [(b"x", BundleEntry(dtype=FLOAT, slices=[TensorSlice(extent=[TensorSlice.Extent(start=-5, length=2)])]))],
        [(b"x", BundleEntry(dtype=9999, shard_id=-1))],
    ],
    ids=["text", "offset", "rank", "slice", "negative", "start", "shard"],
)
@pytest.mark.parametrize("shards", [1, 2**31 - 1, -1])
def test_lengths_that_nothing_stands_behind(
    tmp_path: Path, records: list[tuple[bytes, BundleEntry]], shards: int
) -> None:
    """Absurd lengths are refused. Guards against eight bytes that make a reader ask for exabytes."""
    header = BundleHeader(num_shards=shards)
    table = write_table(
        [
            (b"", header.SerializeToString()),
            *((k, e.SerializeToString()) for k, e in sorted(records, key=lambda r: r[0])),
        ]
    )
    store = open_store(tmp_path / "run")
    store.write("ckpt-1.index", [table])
    store.write(layout.data_object("ckpt-1", 0, shards), [bytes(100)])
    with bounded():
        parse_index(table)
        assert verify_checkpoint(store, CheckpointRecord("ckpt-1", 1, 0.0, stock=True)).verdict != "good"


def block(entries: bytes, *restarts: int) -> bytes:
    return entries + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table_of(*blocks: bytes) -> bytes:
    """A table with one data block after the other, of any bytes, under checksums that hold."""
    out, handles = b"", []
    for each in blocks:
        handles.append(_numbers(len(out), len(each)))
        out += _sealed(each)
    index = b"".join(bytes([0, 1, len(h)]) + bytes([0x30 + n]) + h for n, h in enumerate(handles))
    index = block(index, 0)
    meta = block(b"", 0)
    footer = _numbers(len(out), len(meta)) + _numbers(len(out) + len(meta) + 5, len(index))
    return out + _sealed(meta) + _sealed(index) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _sealed(each: bytes) -> bytes:
    return each + b"\0" + struct.pack("<I", mask(crc32c(each + b"\0")))


def _numbers(*values: int) -> bytes:
    return b"".join(_number(value) for value in values)


def _number(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _number(value >> 7)


def _grown(length: int) -> bytes:
    """A key of `length` bytes, and then as many that leave out all of the one before but a byte."""
    first = _numbers(0, length, 0) + b"\x01" * length
    return first + b"".join(_numbers(length + n, 1, 0) + b"\x01" for n in range(length))


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ([block(_grown(20_000), 0)], "leave out more"),
        ([block(b"\0\1\0/", 0, 2)], "no key begins"),
        ([block(b"\0\1\0/", 1)], "no key begins"),
        ([block(b"\0\1\0-\0\1\0/", 4, 0)], "no key begins"),
        ([block(b"\0\1\0/", *[0] * 100_000)], "no key begins"),
        ([block(b"", *[0] * 1000)] * 3, "no key begins"),
        ([block(b"", 0)] * 3, "empty or out of order"),
        ([block(b"\0\1\0/", 0)] * 2, "out of order"),
        ([block(b"\0\1\0x", 0)], "out of order"),
    ],
    ids=["grown keys", "beyond", "within", "descending", "repeated", "empty large", "empty", "twice", "misplaced"],
)
def test_blocks_that_nobody_writes(blocks: list[bytes], told: str) -> None:
    """Blocks that no writer makes are damage, soon. Guards against keys of gigabytes that a few bytes each stand for, a
    large block that is read a million times, and restart points by which TensorFlow finds other keys than this
    reader."""
    assert read_table(table_of(block(b"\0\1\0/", 0))) == [(b"/", b"")]
    with bounded(), pytest.raises(CheckpointDamaged, match=told):
        read_table(table_of(*blocks))


def test_slices_that_are_tangled() -> None:
    """A tensor of many slices is checked soon, whether they are a grid, or cross each other so that none can be parted.
    Guards against a comparison of each with each."""
    grid = [((row, 1), (column, 1)) for row in range(100) for column in range(100)]
    rings = [((n, 2), (n, 2)) for n in range(0, 5000, 2)] + [((n + 1, 2), (n + 2, 1)) for n in range(0, 5000, 2)]
    for slices, good in ((grid, True), (rings, False)):
        shape = (6000, 6000)
        records = [header_record("x", FLOAT, shape, slices)]
        records += [
            slice_record("x", FLOAT, e, shard=0, offset=0, size=4 * e[0][1] * e[1][1], crc32c=0) for e in slices
        ]
        header = BundleHeader(num_shards=1)
        pairs = [(b"", header.SerializeToString()), *((key, entry.SerializeToString()) for key, entry in records)]
        with bounded():
            assert (parse_index(write_table(sorted(pairs))) is not None) == good


@pytest.mark.parametrize("restarts", [0, 1, 2**32 - 1])
def test_blocks_that_say_they_are_larger(restarts: int) -> None:
    """Blocks with absurd numbers are refused. Guards against varints of 2**70 in a block whose checksum holds."""
    for numbers in (b"\xff" * 9 + b"\x01", b"\x00" + b"\xff" * 9 + b"\x7f", b"\x00\x01" + b"\xff" * 9 + b"\x7f"):
        block = numbers + b"a" + struct.pack("<II", 0, restarts)
        sealed = block + b"\0"
        table = sealed + struct.pack("<I", mask(crc32c(sealed)))
        footer = bytes([0, len(block), 0, len(block)]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
        with bounded(), pytest.raises(CheckpointDamaged):
            read_table(table + footer)


# -- manifest and log --


@EXAMPLES
@given(
    st.one_of(st.binary(max_size=300), mutated(MANIFEST), changed(MANIFEST).map(lambda each: json.dumps(each).encode()))
)
@example(b"[" * 100_000)
@example(b'{"format":' * 100_000)
@example(b"9" * 100_000)
@example(MANIFEST.replace(b'"step": 1', b'"step": ' + b"9" * 5000))
@example(MANIFEST.replace(b'"time": 2.0', b'"time": NaN'))
@example(MANIFEST.replace(b'"time": 2.0', b'"time": 1e999'))
def test_manifests(data: bytes) -> None:
    """Any manifest is read or refused. Guards against one bad manifest that ends the import of a whole copied
    directory."""
    with bounded():
        manifest = parse_manifest(data)
    if manifest is not None:
        assert Manifest.parse(manifest.to_bytes()) == manifest
        assert manifest.size >= 0
        # The first entry of a log would hold it.
        record = CheckpointRecord(manifest.prefix, manifest.step, manifest.time)
        encode(Entry(0, "import", "w", 0.0, LogState("run", checkpoints=(record,))))
        for each in manifest.objects:
            assert ".." not in each.name.split("/")
            assert not each.name.startswith("/")


@EXAMPLES
@given(
    st.one_of(
        st.binary(max_size=300),
        mutated(ENTRY),
        mutated(INNER).map(sealed_entry),
        changed(INNER).map(lambda each: sealed_entry(json.dumps(each).encode())),
    )
)
@example(sealed_entry(b"{" + b"9" * 100_000 + b"}"))
def test_log_entries(data: bytes) -> None:
    """Any log entry is read or refused. Guards against a traceback that every restart meets again."""
    with bounded():
        entry = parse_entry(data)
    if entry is not None:
        assert decode(encode(entry), "entry") == entry, "it is read, and could not have been written"


@EXAMPLES
@given(
    data=st.one_of(st.binary(max_size=200), mutated(PAGE), changed(PAGE).map(lambda each: json.dumps(each).encode()))
)
@example(data=b"[" * 200_000)
def test_pages(data: bytes) -> None:
    """Any page is read or refused. Guards against a run that ends with a traceback."""
    with bounded():
        records = parse_page(data)
    if records is not None:
        page = encode_page(records)
        assert decode_page(page, page_name(page), "page") == records


def test_entries_are_sealed_here_as_there() -> None:
    """Entries are sealed here as in the product. Guards against a change of the format after which the test above sees
    only wrong checksums."""
    assert sealed_entry(INNER) == ENTRY


# -- a worker, and the coordinator as the second reader --


NUMBERS = st.sampled_from([-1, 0, 1, 3, 4, 7, 16, 20, 21, 2**31 - 1, 2**40, 2**62, 2**63 - 1])


@settings(max_examples=200)
@given(st.data())
def test_two_readers_agree(data: st.DataObject) -> None:
    """A worker and the coordinator find the same in a checkpoint, whatever is changed in its manifest or its index.
    Guards against a restore that ends in an error for ever, since one of the two finds good what the other cannot
    read."""

    def other_manifest(fields: dict[str, object]) -> dict[str, object]:
        return data.draw(changed(json.dumps(fields))) if data.draw(st.booleans()) else fields  # type: ignore[return-value]

    def other_index(records: dict[bytes, BundleEntry], content: bytearray) -> None:
        for _ in range(data.draw(st.integers(0, 2))):
            entry = records[data.draw(st.sampled_from(sorted(records)))]
            field = data.draw(st.sampled_from(["offset", "size", "shard_id", "dtype", "crc32c", "dim"]))
            number = data.draw(NUMBERS)
            with contextlib.suppress(ValueError):  # it does not fit the field
                if field == "dim":
                    entry.shape.dim.add(size=number)
                else:
                    setattr(entry, field, number)

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        write_run(store, manifest=other_manifest, index=other_index)
        state = read_run(store)
        assert state is not None
        with bounded():
            seen = _seen(lambda: verify_checkpoint(store, state.checkpoints[0]).raise_if_bad())
            also = _seen(lambda: stage(store, state.checkpoints[0], task=WORKER, world=[WORKER]).close())
    assert seen == also


def _seen(look: Callable[[], None]) -> str:
    try:
        look()
    except (CheckpointDamaged, InvalidRequest) as error:
        return type(error).__name__
    return "good"


# -- TensorFlow's state file --


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A directory of TensorFlow's with two checkpoints."""
    store = open_store(tmp_path_factory.mktemp("fuzz") / "run")
    for number in (1, 2):
        store.write(f"ckpt-{number}.index", [b"an index"])
    return store


def imported(store: Store, data: bytes) -> LogState:
    store.replace(layout.STATE_FILE, data)
    return import_state(store, "run")


LINES = st.sampled_from(
    [
        b'model_checkpoint_path: "ckpt-1"',
        b"all_model_checkpoint_paths: 'ckpt-2'",
        b'all_model_checkpoint_paths: "\\143kpt-1"',
        b'all_model_checkpoint_paths: "../../etc/passwd"',
        b"all_model_checkpoint_timestamps: nan",
        b"all_model_checkpoint_timestamps: -inf",
        b"all_model_checkpoint_timestamps: 1e999",
        b"all_model_checkpoint_timestamps: 3.5",
        b"last_preserved_timestamp: x",
    ]
)


@EXAMPLES
@given(data=st.one_of(st.binary(max_size=300), mutated(STATE_FILE), st.lists(LINES, max_size=6).map(b"\n".join)))
@example(data=b"\n" * 200_000)
@example(data=b"a" + b"\n" * 200_000)
@example(data=b"a" + b" " * 200_000)
@example(data=b"a:" + b" \n" * 100_000)
@example(data=b'a:"' + b"\\" * 2_000_001)
@example(data=b'a:"x\n' * 50_000)
@example(data=b"a:'\"\n" * 50_000)
@example(data=b'all_model_checkpoint_paths: "ckpt-1"\n' * 20_000)
def test_state_files(stock: Store, data: bytes) -> None:
    """Any state file is read as far as possible. Guards against a text file that everybody may edit and that blocks
    taking over a directory."""
    with bounded():
        state = imported(stock, data)
    assert {record.prefix for record in state.checkpoints} <= {"ckpt-1", "ckpt-2"}
    assert state.checkpoints, "checkpoints that are there are not found"
    encode(Entry(0, "import", "w", 0.0, state))
    assert [record.time for record in state.checkpoints] == sorted(record.time for record in state.checkpoints)


# -- where others are --


@EXAMPLES
@given(
    data=st.one_of(st.binary(max_size=200), mutated(HINT), changed(HINT).map(lambda each: json.dumps(each).encode()))
)
def test_hints(stock: Store, data: bytes) -> None:
    """Any hint is read or ignored. Guards against a worker that cannot start because of a hint."""
    stock.replace(layout.HINT, data)
    with bounded():
        hint = read_hint(stock)
    assert hint is None or isinstance(hint, Hint)


@EXAMPLES
@given(st.one_of(st.text(max_size=100), JSON.map(json.dumps), changed(TF_CONFIG).map(json.dumps)))
def test_cluster_specifications(text: str) -> None:
    """Any TF_CONFIG is read or refused. Guards against a traceback for a mistyped TF_CONFIG."""
    with bounded():
        try:
            place = parse_tf_config(text)
        except InvalidRequest:
            return
    assert place is None or (isinstance(place, ThisTask) and (place.reader or place.task in place.tasks))


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_nothing_nests_too_deeply(text: str) -> None:
    """Deeply nested JSON is refused. Guards against a RecursionError."""
    assert parse_manifest(text.encode()) is None
    assert parse_manifest(MANIFEST.replace(b"null", text.encode())) is None
