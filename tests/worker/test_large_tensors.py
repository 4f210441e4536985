"""Large tensors: read into TensorFlow's memory, every byte where it belongs, and given to its restore."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import io_ops

from holdfast import tensorflow_internals as door
from holdfast.restoring import large_tensors as values
from holdfast.restoring import staging
from holdfast.restoring.apply import apply
from holdfast.restoring.free_memory import available
from holdfast.restoring.large_tensors import Values, read_value
from holdfast.restoring.staging import Staged, stage
from holdfast_storage.bundle.index import Index, TensorEntry, full_record, header_record, slice_record, write_index
from holdfast_storage.checkpoint import verify
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store
from holdfast_storage.store.posix import PosixStore
from support.checkpoints import WORKERS, commit
from support.stores import KINDS, new_store
from support.two_cpus import DEVICES

pytestmark = pytest.mark.tensorflow

FLOAT = 1
"""TensorFlow's number of float32."""


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what has a byte, and all is read in small pieces."""
    monkeypatch.setattr(values, "LARGE", 1)
    monkeypatch.setattr(verify, "_PART", 1000)
    monkeypatch.setattr(PosixStore, "block", 300)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


def staged(store: Store, record: CheckpointRecord) -> Staged:
    return stage(store, record, task=WORKERS[1], world=WORKERS, values=Values)


def key(name: str) -> str:
    return f"{name}/.ATTRIBUTES/VARIABLE_VALUE"


ALL_DTYPES = [
    *(tf.bool, tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128),
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
]


@pytest.fixture(params=[values.EMPTY_DIMENSION, 1], ids=["empty", "filled"])
def dimension(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are made empty, or all as those of an enormous dimension."""
    monkeypatch.setattr(values, "EMPTY_DIMENSION", request.param)


@pytest.mark.usefixtures("dimension")
def test_every_dtype(store: Store, tmp_path: Path) -> None:
    """Every dtype comes back as it was. Guards against numbers of a dtype that Python has no name for."""
    saved = {
        f"v{number}": tf.Variable(tf.cast(np.random.default_rng(number).integers(0, 2, (7, 13)), dtype))
        for number, dtype in enumerate(ALL_DTYPES)
    }
    saved |= {"scalar": tf.Variable(3.5), "none": tf.Variable(np.zeros((0, 4)))}
    record = commit(store, str(tf.train.Checkpoint(**saved).save(str(tmp_path / "stock" / "ckpt"))))
    with staged(store, record) as found:
        served = found._held._values
        assert served is not None
        assert set(served._tensors[found.prefix]) >= {key(name) for name in saved} - {key("none")}
        blank = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in saved.items()}
        apply(tf.train.Checkpoint(**blank), None, found).assert_consumed()
    for name, variable in saved.items():
        assert blank[name].dtype == variable.dtype
        np.testing.assert_array_equal(blank[name].numpy(), variable.numpy())


@pytest.mark.skipif(available() < 5 << 30, reason="less than 5 GiB of memory are free")
def test_a_dimension_that_32_bits_cannot_hold() -> None:
    """A dimension beyond 32 bits comes back. Guards against a flat buffer of 2.2 GB that is committed, verified, and
    cannot be restored."""
    size = 2**31 + 200
    stored = values._Stored(tf.int8.as_datatype_enum, (size,), (values._Range("data", 0, size, 0),))
    tensor, memory = values._empty(stored)
    memory[-1] = 7
    assert (tensor.shape, tensor[-1].numpy(), tensor[0].numpy()) == ((size,), 7, 0)


def test_what_is_left_to_tensorflow(store: Store, tmp_path: Path) -> None:
    """What is not read this way is left to TensorFlow. Guards against losing a tensor of an unusual dtype, or one that
    a registered saver reads by itself."""
    stock = str(tmp_path / "stock")
    tensors = {
        key("quantized"): tf.bitcast(tf.constant([1, 2, 3], tf.int8), tf.qint8),
        key("text"): tf.constant(["a", "bc"]),
        key("plain"): tf.range(1000),
        "dense/kernel": tf.range(2000),
    }
    tf.raw_ops.SaveV2(
        prefix=stock, tensor_names=list(tensors), shape_and_slices=[""] * 4, tensors=list(tensors.values())
    )
    with staged(store, commit(store, stock)) as found:
        assert found._held._values is not None
        assert set(found._held._values._tensors[found.prefix]) == {key("plain")}
        names, dtypes = list(tensors)[::-1], [each.dtype for each in tensors.values()][::-1]
        read = io_ops.restore_v2(found.prefix, names, [""] * 4, dtypes)
        for tensor, name in zip(read, names, strict=True):
            np.testing.assert_array_equal(tensor, tensors[name])
        np.testing.assert_array_equal(tf.train.load_checkpoint(found.prefix).get_tensor("dense/kernel"), range(2000))


def test_other_checkpoints_meanwhile(store: Store, tmp_path: Path) -> None:
    """TensorFlow's other restores work meanwhile. Guards against restores that fail for as long as a checkpoint is
    held."""
    saved = tf.train.Checkpoint(v=tf.Variable(np.arange(1000.0)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))
    saved.write(str(tmp_path / "other" / "ckpt"))
    elsewhere = os.fsencode(tmp_path) + b"/\xff/ckpt"
    os.rename(tmp_path / "other", os.path.dirname(elsewhere))
    with staged(store, record):
        saved.v.assign(np.zeros(1000))
        saved.read(elsewhere).assert_consumed()
        np.testing.assert_array_equal(saved.v, np.arange(1000.0))


def test_whatever_device_the_caller_works_with(store: Store, tmp_path: Path) -> None:
    """It works whatever the caller's device is. Guards against a tensor on another device that stays as it was because
    a copy was filled."""
    saved = tf.train.Checkpoint(v=tf.Variable(np.arange(1000.0)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))
    with tf.device(DEVICES[1]), staged(store, record) as found:
        tensor = read_value(found.prefix, key("v"), tf.float64)
        assert tensor.backing_device.endswith(DEVICES[0])
        np.testing.assert_array_equal(tensor, np.arange(1000.0))


def test_a_restore_that_fails(store: Store, tmp_path: Path) -> None:
    """A failed restore releases the memory. Guards against a whole checkpoint that stays in memory after a variable had
    another shape."""
    saved = tf.train.Checkpoint(v=tf.Variable(np.arange(1000.0)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))
    with staged(store, record) as found:
        with pytest.raises(ValueError, match="shape"):
            apply(tf.train.Checkpoint(v=tf.Variable(np.zeros(999))), None, found)
        assert (found.prefix in door._served) == (not isinstance(store, PosixStore))


def test_files_are_not_read_again(tmp_path: Path) -> None:
    """What was read is not read again from files. Guards against reading every byte twice."""
    store = new_store("posix", tmp_path)
    variable = tf.Variable(np.arange(1000.0))
    record = commit(store, str(tf.train.Checkpoint(v=variable).save(str(tmp_path / "stock" / "ckpt"))))
    with staged(store, record) as found:
        [data] = (tmp_path / "run" / record.folder).glob("*.data-*")
        data.write_bytes(bytes(data.stat().st_size))
        np.testing.assert_array_equal(read_value(found.prefix, key("v"), tf.float64), np.arange(1000.0))
        with pytest.raises(tf.errors.OpError, match="Checksum does not match"):
            tf.train.load_checkpoint(found.prefix).get_tensor(key("v"))


@pytest.mark.usefixtures("dimension")
def test_a_restored_variable_is_updated_in_place(store: Store, tmp_path: Path) -> None:
    """A restored variable is updated in place. Guards against a first update that takes as much memory again because
    somebody holds the value."""
    saved = tf.train.Checkpoint(v=tf.Variable(np.arange(1000.0)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))

    def address(variable: Any) -> int:
        return int(np.frombuffer(memoryview(variable.read_value()), np.uint8).ctypes.data)

    checkpoint = tf.train.Checkpoint(v=tf.Variable(np.zeros(1000)))
    with staged(store, record) as found:
        apply(checkpoint, None, found).assert_consumed()
    before = address(checkpoint.v)
    checkpoint.v.assign_add(np.ones(1000))
    assert address(checkpoint.v) == before
    np.testing.assert_array_equal(checkpoint.v, np.arange(1000.0) + 1)


def test_variables_created_later(store: Store, tmp_path: Path) -> None:
    """Variables that are created later get their values. Guards against values that are lost when the restore is over,
    or stay in memory although there are files."""
    saved = tf.train.Checkpoint(a=tf.Variable(np.arange(1000.0)), b=tf.Variable(np.ones(1000)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))
    tensorflows_own = io_ops.restore_v2
    checkpoint = tf.train.Checkpoint(a=tf.Variable(np.zeros(1000)))
    with staged(store, record) as found:
        status = apply(checkpoint, None, found)
        assert (found.prefix in door._served) == (not isinstance(store, PosixStore))
        assert (io_ops.restore_v2 is door.restore_v2) == (not isinstance(store, PosixStore))
        store.delete_folder(record.folder)
        checkpoint.b = tf.Variable(np.zeros(1000))
        status.assert_consumed()
        found.tidy()
        assert door._served == {}, "nothing waits any more"
        assert io_ops.restore_v2 is tensorflows_own
    np.testing.assert_array_equal(checkpoint.a, np.arange(1000.0))
    np.testing.assert_array_equal(checkpoint.b, np.ones(1000))


def test_part_of_a_tensor(store: Store, tmp_path: Path) -> None:
    """A part of a tensor gets exactly that part. Guards against a distributed variable that gets the whole, or another
    part."""
    tensor = np.arange(24.0).reshape(6, 4)
    stock = str(tmp_path / "stock")
    tf.raw_ops.SaveV2(prefix=stock, tensor_names=[key("v")], shape_and_slices=[""], tensors=[tensor])
    with staged(store, commit(store, stock)) as found:
        specs = ["6 4 0,3:-", "6 4 2,2:1,3", "6 4 -:-"]
        read = io_ops.restore_v2(found.prefix, [key("v")] * 3, specs, [tf.float64] * 3)
        for part, expected in zip(read, (tensor[:3], tensor[2:4, 1:4], tensor), strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.uint16, tf.uint32, tf.uint64])
def test_slices_that_tensorflow_cannot_join(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """Slices that TensorFlow cannot join are joined here. Guards against a committed checkpoint, from before such
    tensors were kept whole, that nobody can restore."""
    monkeypatch.setattr(values, "LARGE", 1 << 40)
    tensor = np.arange(24, dtype=dtype.as_numpy_dtype).reshape(6, 4)
    stock = str(tmp_path / "stock")
    slices = ["6 4 0,2:0,4", "6 4 2,4:0,4"]
    tf.raw_ops.SaveV2(
        prefix=stock, tensor_names=[key("v")] * 2, shape_and_slices=slices, tensors=[tensor[:2], tensor[2:]]
    )
    with staged(store, commit(store, stock)) as found:
        np.testing.assert_array_equal(read_value(found.prefix, key("v"), dtype), tensor)


@pytest.mark.parametrize("spec", ["5 4 0,3:-", "6 5 -:0,4", "6 0,3", "6 4 0,0:-", "6 4 0,7:-"])
def test_a_part_that_there_is_not(store: Store, tmp_path: Path, spec: str) -> None:
    """A part that does not exist is TensorFlow's error. Guards against an embedding of another size that is silently
    cut or padded."""
    stock = str(tmp_path / "stock")
    tf.raw_ops.SaveV2(prefix=stock, tensor_names=[key("v")], shape_and_slices=[""], tensors=[tf.zeros((6, 4))])
    with (
        staged(store, commit(store, stock)) as found,
        pytest.raises((tf.errors.InvalidArgumentError, tf.errors.InternalError)),
    ):
        io_ops.restore_v2(found.prefix, [key("v")], [spec], [tf.float32])


def test_another_dtype_is_refused_as_tensorflow_does(store: Store, tmp_path: Path) -> None:
    """Another dtype is refused as TensorFlow does. Guards against float32 bits in a bfloat16 model, or an error about a
    broken file."""
    stock = str(tmp_path / "stock")
    tf.raw_ops.SaveV2(prefix=stock, tensor_names=[key("v")], shape_and_slices=[""], tensors=[tf.zeros(1000)])
    with staged(store, commit(store, stock)) as found, pytest.raises(tf.errors.InvalidArgumentError, match="dtype"):
        read_value(found.prefix, key("v"), tf.float64)


@pytest.mark.parametrize("told", [True, False])
def test_too_little_memory(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """With too little memory, values stay in files. Guards against a process that is killed because of the part of a
    checkpoint that it does not need."""

    def none(**_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    if told:
        monkeypatch.setattr(staging, "available", lambda: 0)
    else:
        monkeypatch.setattr(tf.raw_ops, "Empty", none)
    saved = tf.train.Checkpoint(v=tf.Variable(np.arange(1000.0)))
    record = commit(store, str(saved.save(str(tmp_path / "stock" / "ckpt"))))
    checkpoint = tf.train.Checkpoint(v=tf.Variable(np.zeros(1000)))
    with staged(store, record) as found:
        assert found._held._values is None
        apply(checkpoint, None, found).assert_consumed()
    np.testing.assert_array_equal(checkpoint.v, np.arange(1000.0))


# -- every byte where it belongs --


def index_of(records: list[Any], shards: int = 2) -> Index:
    return Index.parse(write_index(shards, [(name, entry.SerializeToString()) for name, entry in records]))


def make(records: list[Any], sizes: dict[str, int] | None = None) -> Values:
    return Values({"p": SimpleNamespace(index=index_of(records), objects={0: "zero", 1: "one"})}, sizes)


def whole(name: str, count: int, shard: int, offset: int) -> Any:
    return full_record(key(name), FLOAT, [count], shard=shard, offset=offset, size=4 * count, crc32c=0)


def fill(made: Values, contents: dict[str, bytes], chance: random.Random) -> dict[str, bytearray]:
    """Read all objects in pieces of any size, in any order; what is left over, by object, the rest zero."""
    rest = {name: bytearray(len(content)) for name, content in contents.items()}
    cuts = []
    for name, content in contents.items():
        ends = sorted({*chance.sample(range(1, len(content)), 7), len(content)})
        cuts += [(name, begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    chance.shuffle(cuts)
    for name, first, end in cuts:
        begin = first
        while begin < end:
            room = made.room(name, begin, end - begin)
            if room is None:
                size = chance.randint(1, end - begin)
                for at, piece in made.take(name, begin, memoryview(contents[name])[begin : begin + size]):
                    rest[name][at : at + len(piece)] = piece
            else:
                size = len(room)
                assert 0 < size <= end - begin
                room[:] = contents[name][begin : begin + size]
            begin += size
    return rest


@pytest.mark.parametrize("seed", range(40))
def test_every_byte_goes_where_it_belongs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte goes where it belongs, for random layouts and reads. Guards against a neighbour's bytes where a read
    crosses a tensor's border."""
    monkeypatch.setattr(values, "LARGE", 80)
    chance = random.Random(seed)
    records, expected = [], {}
    lengths = {"zero": 0, "one": 0}
    state = np.random.default_rng(seed)
    pieces: dict[str, list[bytes]] = {"zero": [], "one": []}
    left: dict[str, list[bytes]] = {"zero": [], "one": []}

    def put(data: bytes, large: bool) -> tuple[int, int]:
        shard = chance.randrange(2)
        name = ("zero", "one")[shard]
        gap = bytes(chance.choice((0, 0, 3)))
        offset = lengths[name] + len(gap)
        pieces[name] += [gap, data]
        left[name] += [gap, bytes(len(data)) if large else data]
        lengths[name] = offset + len(data)
        return shard, offset

    for number in range(12):
        rows, columns = chance.randint(1, 9), chance.randint(1, 30)
        tensor = state.random((rows, columns), np.float32)
        large = tensor.nbytes >= 80
        if large:
            expected[key(f"t{number:02}")] = tensor
        if chance.random() < 0.5:
            shard, offset = put(tensor.tobytes(), large)
            records.append(
                full_record(
                    key(f"t{number:02}"), FLOAT, tensor.shape, shard=shard, offset=offset, size=tensor.nbytes, crc32c=0
                )
            )
            continue
        # Rows, and in the first of them columns, each somewhere else.
        cut = chance.randint(1, columns)
        boxes = [((0, 1), (0, cut)), ((0, 1), (cut, columns - cut)), ((1, rows - 1), (0, columns))]
        boxes = [box for box in boxes if all(length for _, length in box)]
        records.append(header_record(key(f"t{number:02}"), FLOAT, tensor.shape, boxes))
        for box in boxes:
            (row, height), (column, width) = box
            data = tensor[row : row + height, column : column + width].tobytes()
            shard, offset = put(data, large)
            records.append(
                slice_record(key(f"t{number:02}"), FLOAT, box, shard=shard, offset=offset, size=len(data), crc32c=0)
            )
    contents = {name: b"".join(found) + b"the end" for name, found in pieces.items()}
    made = make(records, {name: len(content) for name, content in contents.items()})
    rest = fill(made, contents, chance)
    assert {name: bytes(found) for name, found in rest.items()} == {
        name: b"".join(found) + b"the end" for name, found in left.items()
    }
    assert made._tensors["p"].keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(made._tensors["p"][name], tensor)


def test_slices_that_are_no_run_of_bytes() -> None:
    """Slices that are not one run of bytes are left to TensorFlow. Guards against columns of a matrix that are written
    as if they were rows."""
    columns = [((0, 4), (0, 3)), ((0, 4), (3, 3))]
    records = [header_record(key("v"), FLOAT, (4, 6), columns)]
    records += [
        slice_record(key("v"), FLOAT, box, shard=0, offset=48 * i, size=48, crc32c=0) for i, box in enumerate(columns)
    ]
    assert make(records)._tensors == {"p": {}}


def test_slices_with_a_gap() -> None:
    """Slices with a gap are left to TensorFlow. Guards against whatever the memory held before, in place of the gap."""
    box = ((0, 3), (0, 6))
    index = Index(
        1,
        {key("v"): TensorEntry(key("v"), FLOAT, (4, 6), shard=0, offset=0, size=0, crc32c=0, slices=(box,))},
        {(key("v"), box): TensorEntry(key("v"), FLOAT, (3, 6), shard=0, offset=0, size=72, crc32c=0)},
    )
    assert Values({"p": SimpleNamespace(index=index, objects={0: "zero"})}, None)._tensors == {"p": {}}


def test_what_is_not_read() -> None:
    """A tensor outside of what is read is left to TensorFlow. Guards against a value that is never filled because an
    index leads beyond an object's end."""
    records = [whole("a", 100, 0, 0), whole("b", 100, 0, 400), whole("c", 100, 1, 0)]
    assert make(records, {"zero": 799})._tensors["p"].keys() == {key("a")}


def test_two_bundles_with_one_tensor() -> None:
    """A tensor in two bundles is read once and found under both keys. Guards against a worker-local value that is
    missing under the stock key."""
    main, local = index_of([whole("v", 100, 1, 0)]), index_of([(f"{key('v')}/.OWN".encode(), whole("v", 100, 0, 0)[1])])
    made = Values(
        {
            "main": SimpleNamespace(index=main, objects={1: "own"}),
            "local": SimpleNamespace(index=local, objects={0: "own"}),
        },
        {"own": 400},
    )
    assert made._tensors["main"][key("v")] is made._tensors["local"][f"{key('v')}/.OWN"]
    assert made.room("own", 0, 400) is not None
