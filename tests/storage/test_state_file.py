"""TensorFlow's `checkpoint` file, and the checkpoints that TensorFlow itself wrote into a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.stock.state_file import stock_checkpoints, to_bytes
from holdfast_storage.store import Store, open_store
from support.stores import KINDS, new_store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


def put(store: Store, *prefixes: str, state_file: str | None = None) -> None:
    for prefix in prefixes:
        store.write(f"{prefix}.index", [b"x"])
    if state_file is not None:
        store.replace("checkpoint", state_file.encode())


def found(store: Store) -> list[str]:
    return [record.prefix for record in stock_checkpoints(store)]


def test_the_file_that_stock_readers_expect() -> None:
    """The file names the good checkpoints, newest last. Guards against a file in which `latest_checkpoint` finds
    nothing, or the damaged one."""
    records = tuple(CheckpointRecord(f"ckpt-{n}.0000000a.{n}/ckpt-{n}", n, n + 0.5) for n in (1, 2, 3))
    state = LogState("run", checkpoints=records, damaged=(records[2].prefix,), last_preserved=1.5)
    assert to_bytes(state).decode() == (
        'model_checkpoint_path: "ckpt-2.0000000a.2/ckpt-2"\n'
        'all_model_checkpoint_paths: "ckpt-1.0000000a.1/ckpt-1"\n'
        'all_model_checkpoint_paths: "ckpt-2.0000000a.2/ckpt-2"\n'
        "all_model_checkpoint_timestamps: 1.5\n"
        "all_model_checkpoint_timestamps: 2.5\n"
        "last_preserved_timestamp: 1.5\n"
    )
    assert to_bytes(LogState("run")) == b""


@pytest.mark.tensorflow
def test_stock_tensorflow_reads_it(tmp_path: Path) -> None:
    """Stock TensorFlow reads names with every kind of escape. Guards against a text format of our own."""
    import tensorflow as tf

    names = ["ckpt-1.0000000a.0/ckpt-1", 'my "model"/x\'-2', "модель-3/ckpt-3"]
    records = tuple(CheckpointRecord(name, n, 1e9 + n / 7) for n, name in enumerate(names))
    state = LogState("run", checkpoints=records, last_preserved=1e9 / 3)
    (tmp_path / "checkpoint").write_bytes(to_bytes(state))
    read = tf.train.get_checkpoint_state(str(tmp_path))
    assert list(read.all_model_checkpoint_paths) == [f"{tmp_path}/{name}" for name in names]
    assert read.model_checkpoint_path == f"{tmp_path}/{names[-1]}"
    assert list(read.all_model_checkpoint_timestamps) == [record.time for record in records]
    assert read.last_preserved_timestamp == state.last_preserved


@pytest.mark.tensorflow
def test_where_all_are_damaged_the_file_still_names_them() -> None:
    """If all checkpoints are damaged, the file still names them. Guards against a file that names nothing, after which
    stock TensorFlow starts from scratch and overwrites the last checkpoints."""
    records = (
        CheckpointRecord("ckpt-1.0a1b2c3d.1/ckpt-1", 1, 1.0),
        CheckpointRecord("ckpt-2.0a1b2c3d.2/ckpt-2", 2, 2.0),
    )
    state = LogState("run", checkpoints=records)
    whole = to_bytes(state)
    assert to_bytes(state.condemn([records[1].prefix])) != whole
    assert to_bytes(state.condemn([record.prefix for record in records])) == whole


def test_what_tensorflows_manager_wrote_is_found(tmp_path: Path) -> None:
    """All that TensorFlow's manager wrote is found. Guards against taking over a directory in which nothing, or too
    much, is found."""
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=2)
    for _ in range(3):
        manager.save()
    records = stock_checkpoints(open_store(tmp_path))
    assert [(r.prefix, r.step, r.stock) for r in records] == [("ckpt-2", 2, True), ("ckpt-3", 3, True)]
    assert 0 < records[0].time < records[1].time
    (tmp_path / "checkpoint").unlink()
    assert [r.prefix for r in stock_checkpoints(open_store(tmp_path))] == ["ckpt-2", "ckpt-3"]


@given(st.lists(st.from_regex(r"[^/\x00\ud800-\udfff]+-[0-9]{1,6}", fullmatch=True), unique=True, max_size=4))
def test_names_read_back(prefixes: list[str]) -> None:
    """Any name reads back. Guards against a checkpoint that is lost because of a quotation mark in its name."""
    store = new_store("memory", Path())
    try:
        for prefix in prefixes:
            store.write(f"{prefix}.index", [b"x"])
    except ValueError:
        return
    records = tuple(CheckpointRecord(prefix, 1, float(n)) for n, prefix in enumerate(prefixes))
    store.replace("checkpoint", to_bytes(LogState("", checkpoints=records)))
    assert [(r.prefix, r.time) for r in stock_checkpoints(store)] == [(r.prefix, r.time) for r in records]


def test_nothing_there(store: Store) -> None:
    """An empty directory has no checkpoints. Guards against an empty directory that is taken for an error."""
    assert stock_checkpoints(store) == ()


def test_a_lost_state_file(store: Store) -> None:
    """Without a state file, the checkpoints are found by their index. Guards against training that restarts from
    scratch because one text file is gone, as TensorFlow's does."""
    put(store, "ckpt-10", "ckpt-9", "other")
    assert found(store) == ["other", "ckpt-9", "ckpt-10"]
    assert [record.step for record in stock_checkpoints(store)] == [0, 9, 10]


def test_a_number_beyond_any_step(store: Store) -> None:
    """A number beyond any step counts as step 0. Guards against a name that ends in a date and a time, and breaks every
    restore."""
    put(store, "ckpt-20240101123059123456789", "ckpt-7", "ckpt-20240101123059123456790")
    assert found(store) == ["ckpt-7", "ckpt-20240101123059123456789", "ckpt-20240101123059123456790"]
    assert [record.step for record in stock_checkpoints(store)] == [7, (1 << 63) - 1, (1 << 63) - 1]


@pytest.mark.parametrize(
    "text", ["", "\0\0\0\0", "nonsense", 'model_checkpoint_path: "gone-1"', 'model_checkpoint_path: "']
)
def test_a_useless_state_file(store: Store, text: str) -> None:
    """With a useless state file, the checkpoints are found by their index. Guards against the same for a file that is
    empty, damaged or outdated."""
    put(store, "ckpt-1", "ckpt-2", state_file=text)
    assert found(store) == ["ckpt-1", "ckpt-2"]


def test_the_newest_is_the_one_that_the_file_says(store: Store) -> None:
    """The newest is the one that the file says. Guards against taking the last listed, or the one with the largest
    number, after a rollback."""
    put(
        store,
        "ckpt-1",
        "ckpt-2",
        "ckpt-3",
        state_file='model_checkpoint_path: "ckpt-1"\n'
        'all_model_checkpoint_paths: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-2"\n'
        "all_model_checkpoint_timestamps: 1\nall_model_checkpoint_timestamps: 2.5\n",
    )
    assert [(r.prefix, r.time) for r in stock_checkpoints(store)] == [("ckpt-2", 2.5), ("ckpt-1", 2.5)]


def test_what_is_listed_but_gone_is_left_out(store: Store) -> None:
    """A listed checkpoint that is gone is left out. Guards against choosing as the newest what somebody deleted by
    hand."""
    put(
        store,
        "ckpt-1",
        state_file='model_checkpoint_path: "ckpt-2"\nall_model_checkpoint_paths: "ckpt-1"\n'
        'all_model_checkpoint_paths: "ckpt-2"\n',
    )
    assert found(store) == ["ckpt-1"]


def test_absolute_paths(store: Store) -> None:
    """Absolute paths are understood. Guards against a directory that seems empty because it was moved, or is reached by
    another name."""
    put(
        store,
        "ckpt-1",
        "ckpt-2",
        "sub/ckpt-3",
        state_file=f'all_model_checkpoint_paths: "{store.url}/ckpt-1"\n'
        'all_model_checkpoint_paths: "/old/place/ckpt-2"\n'
        f'all_model_checkpoint_paths: "{store.url}/sub/ckpt-3"\nall_model_checkpoint_paths: "../ckpt-1"\n',
    )
    assert found(store) == ["ckpt-1", "ckpt-2", "sub/ckpt-3"]


def test_our_own_are_not_stock(store: Store) -> None:
    """Our own checkpoints are not stock ones. Guards against a checkpoint of ours whose digests are not used."""
    prefix = "ckpt-1.0000000a.0/ckpt-1"
    put(
        store,
        prefix,
        "ckpt-0",
        state_file=to_bytes(LogState("", checkpoints=(CheckpointRecord(prefix, 1, 1.0),))).decode(),
    )
    assert found(store) == ["ckpt-0"]


def test_of_very_many_the_newest_are_named() -> None:
    """Of very many checkpoints only the newest are named. Guards against a file of 13 MB, written at each commit of a
    run that keeps all."""
    records = tuple(CheckpointRecord(f"ckpt-{n}.0000000a.{n}/ckpt-{n}", n, float(n)) for n in range(3000))
    written = to_bytes(LogState("run", checkpoints=records))
    assert len(written) < 200_000
    assert written.startswith(b'model_checkpoint_path: "ckpt-2999.')
    assert b"/ckpt-2000" in written
    assert b"/ckpt-1999" not in written


def test_files_that_are_named_like_an_index_of_nothing(tmp_path: Path) -> None:
    """A file `.index` is no checkpoint's. Guards against a log that can never be begun, since no entry can name it."""
    for name in (".index", "ckpt-5.index"):
        (tmp_path / name).touch()
    assert [record.prefix for record in stock_checkpoints(open_store(tmp_path))] == ["ckpt-5"]
