"""The format against TensorFlow itself: it reads what is written here, and is read here, byte for byte the same."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import Index, full_record, header_record, slice_record, write_index
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.bundle.table import read_table, write_table

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow

SHARDS = 4


def has_dtype(number: int) -> bool:
    """Whether this TensorFlow has such a dtype: the newest has all that the table has, others most of them."""
    try:
        tf.as_dtype(number)
    except TypeError:
        return False
    return True


KNOWN = [number for number in range(1, 34) if has_dtype(number)]
NUMERIC = [number for number in KNOWN if dtypes.itemsize(number) is not None]
SINCE_2_18 = {*range(1, 26), 29, 30}


def shard_path(prefix: Path, shard: int, num_shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")


def save(prefix: Path, tensors: dict[str, object], specs: Sequence[str] | None = None) -> None:
    """TensorFlow's own write of a bundle."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=specs or [""] * len(tensors),
        tensors=list(tensors.values()),
    )


def assert_every_crc_holds(prefix: Path, index: Index) -> None:
    """Each stored tensor's checksum, from the bytes in its shard."""
    shards = [shard_path(prefix, shard, index.num_shards).read_bytes() for shard in range(index.num_shards)]
    for key in index.tensors:
        for _, entry in index.pieces(key):
            data = shards[entry.shard][entry.offset : entry.offset + entry.size]
            assert len(data) == entry.size
            assert entry_crc32c(entry.dtype, entry.shape, [data]) == entry.crc32c, key


def rewritten(index: Index) -> bytes:
    return write_index(index.num_shards, ((key, entry.SerializeToString()) for key, entry in index.records()))


def assert_same_bytes_as_tensorflow(prefix: Path) -> Index:
    stock = prefix.with_name(prefix.name + ".index").read_bytes()
    index = Index.parse(stock)
    assert write_table(read_table(stock)) == stock
    assert rewritten(index) == stock
    assert_every_crc_holds(prefix, index)
    return index


class Writer:
    """A bundle written without TensorFlow: tensors appended to shards, records collected."""

    def __init__(self, prefix: Path, num_shards: int) -> None:
        self.prefix = prefix
        self.shards = [bytearray() for _ in range(num_shards)]
        self.records: list[tuple[bytes, bytes]] = []

    def append(
        self, key: str, value: np.ndarray, shard: int, extents: Extents | None = None, dtype: int | None = None
    ) -> None:
        dtype = dtype or tf.as_dtype(value.dtype).as_datatype_enum
        data = value.tobytes()
        place = {"shard": shard, "offset": len(self.shards[shard]), "size": len(data), "crc32c": mask(crc32c(data))}
        self.shards[shard] += data
        if extents is None:
            table_key, entry = full_record(key, dtype, value.shape, **place)
        else:
            table_key, entry = slice_record(key, dtype, extents, **place)
        self.records.append((table_key, entry.SerializeToString()))

    def append_rows(self, key: str, value: np.ndarray, cuts: Sequence[int], dtype: int | None = None) -> None:
        rest = [(0, size) for size in value.shape[1:]]
        slices = []
        for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
            extents = ((begin, end - begin), *rest)
            slices.append(extents)
            self.append(key, value[begin:end], number % len(self.shards), extents, dtype)
        dtype = dtype or tf.as_dtype(value.dtype).as_datatype_enum
        table_key, entry = header_record(key, dtype, value.shape, slices)
        self.records.append((table_key, entry.SerializeToString()))

    def finish(self) -> None:
        for shard, data in enumerate(self.shards):
            shard_path(self.prefix, shard, len(self.shards)).write_bytes(data)
        index = write_index(len(self.shards), reversed(self.records))
        self.prefix.with_name(self.prefix.name + ".index").write_bytes(index)


def test_dtypes_are_tensorflows() -> None:
    """Numbers and sizes of dtypes are TensorFlow's. Guards against reading a variable's bytes as those of
    another type."""
    assert set(KNOWN) >= SINCE_2_18
    for number in KNOWN:
        assert dtypes.name(number) == tf.as_dtype(number).name
        assert dtypes.itemsize(number) == (tf.as_dtype(number).size or None)
    with pytest.raises(TypeError):
        tf.as_dtype(34)  # a dtype that is newer than the table here
    assert dtypes.name(34) == "dtype-34"
    assert dtypes.itemsize(34) is None


@pytest.mark.parametrize("number", NUMERIC)
def test_every_numeric_dtype_is_stored_as_its_bytes(number: int, tmp_path: Path) -> None:
    """Every numeric dtype is stored as its bytes. Guards against a type that TensorFlow packs or pads, so that a plain
    buffer is another tensor to its reader."""
    dtype = tf.as_dtype(number)
    if dtype.is_quantized:
        plain = {1: tf.uint8, 2: tf.int16, 4: tf.int32}[dtype.size]
        value = tf.bitcast(tf.ones([3, 5], plain), dtype)
    else:
        value = tf.constant(np.ones([3, 5], dtype.as_numpy_dtype))
    assert value.dtype == dtype
    save(tmp_path / "t", {"k": value})
    index = assert_same_bytes_as_tensorflow(tmp_path / "t")
    assert index.tensors["k"].dtype == number
    assert shard_path(tmp_path / "t", 0, 1).read_bytes() == value.numpy().tobytes()


@pytest.mark.parametrize("number", NUMERIC)
def test_which_dtypes_tensorflow_joins(number: int, tmp_path: Path) -> None:
    """Our table says which dtypes TensorFlow joins from slices. Guards against a large float16 variable that is
    committed in slices and that no stock reader can read."""
    value = np.ones((4, 6), tf.as_dtype(number).as_numpy_dtype)
    writer = Writer(tmp_path / "ours", SHARDS)
    writer.append("whole", value, 0, dtype=number)
    writer.append_rows("slices", value, [0, 1, 4], dtype=number)
    writer.finish()
    reader = tf.train.load_checkpoint(str(writer.prefix))
    assert reader.get_tensor("whole").tobytes() == value.tobytes()

    def restored() -> bytes:
        prefix, dtype = str(writer.prefix), tf.as_dtype(number)
        read = tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=["slices"], shape_and_slices=[""], dtypes=[dtype])
        return bytes(read[0].numpy().tobytes())

    for read in (lambda: reader.get_tensor("slices").tobytes(), restored):
        if dtypes.are_slices_joined(number, 2):
            assert read() == value.tobytes()
        else:
            with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="not supported"):
                read()


def test_how_many_dimensions_tensorflow_joins(tmp_path: Path) -> None:
    """Our limit says up to how many dimensions TensorFlow joins slices. Guards against a sliced tensor of nine
    dimensions, at which a reader's process ends."""
    value = np.arange(6, dtype=np.float32)
    writer = Writer(tmp_path / "ours", SHARDS)
    for dimensions in (8, 9):
        writer.append_rows(f"{dimensions}", value.reshape(2, *[1] * (dimensions - 2), 3), [0, 1, 2])
    writer.finish()
    for dimensions in (8, 9):
        read = f"import tensorflow as tf; tf.train.load_checkpoint({str(writer.prefix)!r}).get_tensor('{dimensions}')"
        done = subprocess.run([sys.executable, "-c", read], check=False, capture_output=True)
        assert (done.returncode == 0) == dtypes.are_slices_joined(1, dimensions), done.stderr


def test_three_thousand_keys_over_four_shards(tmp_path: Path) -> None:
    """TensorFlow reads back an index of 3,000 keys over four shards, value by value. Guards against restart points of
    several hundred blocks that are wrong."""
    rng = np.random.default_rng(1)
    writer = Writer(tmp_path / "ours", SHARDS)
    values: dict[str, np.ndarray] = {}
    for number in range(3_000):
        dtype = [np.float32, np.int64, np.float16, np.complex64, np.bool_][number % 5]
        shape = [(), (0,), (3,), (2, 5), (2, 1, 3)][number // 5 % 5]
        key = f"layer_{number % 97}/ünï/{number}/.ATTRIBUTES/VARIABLE_VALUE"
        values[key] = rng.integers(0, 2, shape).astype(dtype)
        writer.append(key, values[key], number % SHARDS)
    writer.finish()
    reader = tf.train.load_checkpoint(str(writer.prefix))
    assert set(reader.get_variable_to_shape_map()) == set(values)
    for key, value in values.items():
        read = reader.get_tensor(key)
        assert read.dtype == value.dtype, key
        assert read.shape == value.shape, key
        np.testing.assert_array_equal(read, value)


def test_slices_over_four_shards_are_one_tensor_to_tensorflow(tmp_path: Path) -> None:
    """TensorFlow joins slices over four shards. Guards against large variables, written by several workers, that
    TensorFlow reads in pieces."""
    rng = np.random.default_rng(2)
    table = rng.standard_normal((10_000, 7)).astype(np.float32)
    deep = rng.standard_normal((70, 3, 2)).astype(np.float64)
    line = np.arange(100, dtype=np.int32)
    writer = Writer(tmp_path / "ours", SHARDS)
    writer.append_rows("table", table, [0, 1, 63, 64, 65, 8_191, 8_192, 9_000, 10_000])
    writer.append("scalar", np.float32(3).reshape(()), 1)
    writer.append_rows("deep", deep, [0, 33, 70])
    writer.append_rows("line", line, [0, 50, 51, 100])
    writer.append_rows("one", line, [0, 100])
    writer.finish()
    reader = tf.train.load_checkpoint(str(writer.prefix))
    assert reader.get_variable_to_shape_map() == {
        "table": [10_000, 7],
        "scalar": [],
        "deep": [70, 3, 2],
        "line": [100],
        "one": [100],
    }
    for key, value in {"table": table, "deep": deep, "line": line, "one": line}.items():
        np.testing.assert_array_equal(reader.get_tensor(key), value)
    part = tf.raw_ops.RestoreV2(
        prefix=str(writer.prefix), tensor_names=["table"], shape_and_slices=["10000 7 50,9000:2,3"], dtypes=[tf.float32]
    )
    np.testing.assert_array_equal(part[0], table[50:9050, 2:5])
    assert_every_crc_holds(writer.prefix, Index.parse(Path(f"{writer.prefix}.index").read_bytes()))


def test_the_merge_of_four_slices_is_byte_for_byte_tensorflows(tmp_path: Path) -> None:
    """An index of four parts is byte for byte the one that TensorFlow's merge writes. Guards against any difference in
    the format."""
    value = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    other = np.arange(6, dtype=np.int64)
    cuts = [0, 7, 8, 30, 40]
    parts = [tmp_path / f"part{number}" for number in range(SHARDS)]
    ours = Writer(tmp_path / "ours", SHARDS)
    ours.append_rows("w", value, cuts)
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        whole = {f"whole/{number}": tf.constant(other)}
        save(parts[number], {"w": value[begin:end], **whole}, [f"40 3 {begin},{end - begin}:0,3", ""])
        ours.append(f"whole/{number}", other, number)
    ours.finish()
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts], destination_prefix=str(tmp_path / "merged")
    )
    index = assert_same_bytes_as_tensorflow(tmp_path / "merged")
    assert index.num_shards == SHARDS
    assert (tmp_path / "ours.index").read_bytes() == (tmp_path / "merged.index").read_bytes()
    for shard in range(SHARDS):
        mine, theirs = (shard_path(tmp_path / name, shard, SHARDS).read_bytes() for name in ("ours", "merged"))
        assert mine == theirs


@pytest.mark.parametrize(
    ("spec", "begin", "end", "extents"),
    [("10 4 0,6:0,4", 0, 6, ((0, 6), (0, 4))), ("10 4 6,4:-", 6, 10, ((6, 4), (0, 4)))],
)
def test_one_slice_alone_is_read(spec: str, begin: int, end: int, extents: Extents, tmp_path: Path) -> None:
    """The index of one slice alone is read. Guards against refusing gaps, or the unsaid length of a whole dimension,
    both of which TensorFlow writes."""
    value = tf.reshape(tf.range(40, dtype=tf.float32), (10, 4))
    save(tmp_path / "t", {"w\0\u00ff": value[begin:end]}, [spec])
    index = Index.parse((tmp_path / "t.index").read_bytes())
    assert index.tensors["w\0\u00ff"].shape == (10, 4)
    assert [found for found, _ in index.pieces("w\0\u00ff")] == [extents]
    assert_every_crc_holds(tmp_path / "t", index)


def test_a_large_index_is_byte_for_byte_tensorflows(tmp_path: Path) -> None:
    """A large index is byte for byte TensorFlow's. Guards against another cut between blocks, or other keys to find
    them by, which only a large index shows."""
    tensors = {f"{number:05d}/{'x' * (number % 211)}": tf.constant(float(number)) for number in range(6_000)}
    save(tmp_path / "t", tensors)
    assert (tmp_path / "t.index").stat().st_size > 2 * 256 * 1024
    index = assert_same_bytes_as_tensorflow(tmp_path / "t")
    assert list(index.tensors) == list(tensors)


def test_a_whole_training_state_is_read(tmp_path: Path) -> None:
    """A whole training state is read, with strings, object graph and iterators. Guards against wrong encodings or
    checksums of what is not plain numbers."""
    iterator = iter(tf.data.Dataset.range(100).shuffle(10).batch(3))
    next(iterator)
    checkpoint = tf.train.Checkpoint(
        words=tf.Variable(["one", "", "thrée" * 100]),
        weights=tf.Variable(tf.ones((3, 4))),
        generator=tf.random.Generator.from_seed(1),
        iterator=iterator,
    )
    prefix = Path(checkpoint.save(str(tmp_path / "ckpt")))
    index = assert_same_bytes_as_tensorflow(prefix)
    names = {dtypes.name(entry.dtype) for entry in index.tensors.values()}
    assert {"string", "float32", "int64"} <= names


def test_variant_tensors_are_read(tmp_path: Path) -> None:
    """Variant tensors are read. Guards against ignoring the checksums between a variant's bytes, which enter that of
    the entry."""
    variants = tf.stack(
        [tf.raw_ops.TensorListFromTensor(tensor=tf.range(n), element_shape=tf.constant([], tf.int32)) for n in (3, 1)]
    )
    save(tmp_path / "t", {"v": variants, "w": tf.constant(1.0)})
    index = assert_same_bytes_as_tensorflow(tmp_path / "t")
    assert dtypes.name(index.tensors["v"].dtype) == "variant"
