"""What one task of several hands over to TensorFlow is what TensorFlow would have read itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.restoring import wanted as module
from holdfast.restoring.large_tensors import Values
from holdfast.restoring.parts import Parts
from holdfast.restoring.staging import stage
from holdfast.restoring.wanted import Wanted
from holdfast.restoring.wants import Want
from holdfast.tensorflow_internals import placed, serve_by, stop_serving
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.checkpoints import WORKERS

pytestmark = pytest.mark.tensorflow

RECORD = CheckpointRecord("ckpt", -1, 0.0, stock=True)
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
NUMBERS = ("bool", "float16", "bfloat16", "float32", "float64", "complex64", "complex128", "int4", "int8", "int16",
           "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float8_e5m2")  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "run")


def put(store: Store, pieces: dict[tuple[str, str], Any]) -> None:
    """Write tensors, or parts of them, by key and specification, with TensorFlow."""
    Path(store.url).mkdir(exist_ok=True)
    names, specs = zip(*pieces, strict=True)
    tensors = [tf.convert_to_tensor(each) for each in pieces.values()]
    tf.raw_ops.SaveV2(
        prefix=f"{store.url}/ckpt", tensor_names=list(names), shape_and_slices=list(specs), tensors=tensors
    )


def cast(dtype: str, *shape: int) -> Any:
    numbers = np.arange(np.prod(shape)).reshape(shape) % 2
    return numbers.astype(tf.as_dtype(dtype).as_numpy_dtype)


def same(found: Any, expected: Any) -> bool:
    found, expected = tf.convert_to_tensor(found), tf.convert_to_tensor(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    one, other = found.numpy(), expected.numpy()
    return one.tobytes() == other.tobytes() if one.dtype != object else one.tolist() == other.tolist()


@pytest.fixture(params=["known", "late", "no memory"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no memory":
        monkeypatch.setattr(module, "available", lambda: 0)
    return str(request.param)


def test_every_dtype_is_handed_over(store: Store, how: str) -> None:
    """Whole tensors and rows of them come as they were saved, in one piece or in several, also of dtypes whose slices
    TensorFlow cannot join, whether they were known to be wanted or not.

    Guards against values of another dtype, and against tables of 16-bit numbers that fit one partitioner alone.
    """
    values = {dtype: cast(dtype, 6, 2) for dtype in NUMBERS} | {"string": np.array([[b"a", b"bb"]] * 6, object)}
    pieces = {(dtype, ""): value for dtype, value in values.items()}
    for dtype, value in values.items():
        pieces |= {(f"{dtype}-cut", f"6 2 {at},{n}:-"): value[at : at + n] for at, n in ((0, 1), (1, 4), (5, 1))}
    put(store, pieces)
    asked = [(key, spec) for dtype in values for key in (dtype, f"{dtype}-cut") for spec in ("", "6 2 0,3:0,2")]
    wants = [Want.of(*each) for each in asked] if how != "late" else []
    wanted = Wanted(Parts(store, RECORD), wants)
    for key, spec in asked:
        dtype = key.removesuffix("-cut")
        value = values[dtype]
        found = wanted.hand_over(key, spec, dtype)
        assert same(found, value if not spec else value[:3]), (key, spec)
    wanted.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_of_a_mirrored_world_joins_them_too(store: Store, late: bool) -> None:
    """A worker that holds everything restores strings and 16-bit numbers that lie in slices, along whatever dimension,
    and also into a variable that is created after it has let go of what it has in memory.

    Guards against a checkpoint of parameter servers that goes back to nothing but the same partitioner.
    """
    saved = tf.train.Checkpoint(words=tf.Variable([[b"a", b"bb"]] * 6), half=tf.Variable(tf.zeros([6, 2], tf.float16)))
    saved.write(f"{store.url}/graph")
    key = "_CHECKPOINTABLE_OBJECT_GRAPH"
    graph = tf.train.load_checkpoint(f"{store.url}/graph").get_tensor(key)
    words, half = np.array([[b"a", b"bb"]] * 6, object), np.arange(12, dtype=np.float16).reshape(6, 2)
    pieces = {(key, ""): graph}
    for name, value in (("words", words), ("half", half)):
        pieces |= {(f"{name}{SUFFIX}", f"6 2 -:{at},1"): value[:, at : at + 1] for at in (0, 1)}
    put(store, pieces)
    here = tf.train.Checkpoint()
    with stage(store, RECORD, task=WORKERS[0], world=WORKERS, values=Values) as staged:
        if not late:
            here.words, here.half = tf.Variable([[b"", b""]] * 6), tf.Variable(tf.zeros([6, 2], tf.float16))
        status = here.read(staged.prefix)
        staged.tidy()
        if late:
            here.words, here.half = tf.Variable([[b"", b""]] * 6), tf.Variable(tf.zeros([6, 2], tf.float16))
        status.assert_consumed()
    assert same(here.words, words)
    assert same(here.half, half)


def test_what_is_not_as_asked_is_left_to_tensorflow(store: Store) -> None:
    """Another dtype, another shape and a missing tensor are TensorFlow's own errors. Guards against values that are
    taken for something else."""
    put(store, {("v", ""): cast("float32", 6, 2)})
    wanted = Wanted(Parts(store, RECORD), [Want("v")])
    for key, spec, dtype in (("v", "", "int32"), ("v", "7 2 0,7:-", "float32"), ("w", "", "float32")):
        with pytest.raises(tf.errors.OpError):
            wanted.hand_over(key, spec, dtype)
    wanted.close()


def test_variants(store: Store) -> None:
    """A variant, such as an iterator's, is read by TensorFlow itself from what was verified."""
    put(
        store,
        {
            ("i", ""): tf.raw_ops.TensorListReserve(
                element_shape=tf.constant([], tf.int32), num_elements=2, element_dtype=tf.int32
            )
        },
    )
    wanted = Wanted(Parts(store, RECORD), [Want("i")])
    found = wanted.hand_over("i", "", tf.variant)
    assert int(tf.raw_ops.TensorListLength(input_handle=found)) == 2
    wanted.close()


def test_what_is_gone_or_damaged_is_named(store: Store) -> None:
    """Damage in a variant, or in what nobody wants but is this task's share, is found at once; what is asked for after
    the checkpoint was removed is an error by the object's name. Guards against unverified bytes behind TensorFlow's own
    reader."""
    put(store, {("v", ""): cast("float32", 6, 2), ("s", ""): tf.constant(["text"])})
    [data] = Path(store.url).glob("*.data-*")
    wanted = Wanted(Parts(store, RECORD), [])
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + b"X")
    with pytest.raises(CheckpointDamaged, match=data.name):
        Wanted(Parts(store, RECORD), [], files=["s", "v"])
    data.unlink()
    with pytest.raises(CheckpointAbsent, match=data.name):
        wanted.hand_over("v", "", tf.float32)
    wanted.close()


@pytest.fixture
def served() -> Iterator[Any]:
    """Has TensorFlow read a prefix by a task, and forget that after the test."""
    prefixes: list[str] = []

    def serve(wanted: Wanted) -> str:
        def read(names: Any, specs: Any, dtypes: Any) -> list[Any]:
            assert placed().device_type == "CPU"
            with tf.init_scope():
                return [
                    tf.convert_to_tensor(wanted.hand_over(*each)) for each in zip(names, specs, dtypes, strict=True)
                ]

        serve_by({wanted.files.prefix: read})
        prefixes.append(wanted.files.prefix)
        return wanted.files.prefix

    yield serve
    stop_serving(prefixes)


def test_tensorflow_restores_by_it(store: Store, served: Any) -> None:
    """`tf.train.Checkpoint.restore` gets everything this way, at once or when a variable is created, by the files that
    hold the object graph alone."""
    saved = tf.train.Checkpoint(a=tf.Variable([1.0, 2.0]), late=tf.Variable("text"), n=tf.Variable(3, dtype=tf.int64))
    saved.write(f"{store.url}/ckpt")
    wanted = Wanted(Parts(store, RECORD), [Want(f"a{SUFFIX}")], files=["_CHECKPOINTABLE_OBJECT_GRAPH"])
    here = tf.train.Checkpoint(a=tf.Variable([0.0, 0.0]), n=tf.Variable(0, dtype=tf.int64))
    status = here.read(served(wanted))
    assert here.a.numpy().tolist() == [1.0, 2.0]
    here.late = tf.Variable("")
    status.assert_consumed()
    assert here.late.numpy() == b"text"
    assert here.n.numpy() == 3
    wanted.close()


def test_partitioned_checkpoints_of_tensorflow_1(store: Store, served: Any) -> None:
    """A name-based checkpoint with partitioned variables is joined, whatever the axis and the dtype.

    Guards against models that move to TensorFlow 2 without their weights.
    """
    table, bias = np.arange(24, dtype=np.float32).reshape(4, 6), np.arange(3, dtype=np.float16)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value, axis in (("table", table, 1), ("bias", bias, 0)):
            parts = iter(np.array_split(value, 3, axis))
            tf.compat.v1.get_variable(
                name,
                value.shape,
                value.dtype,
                initializer=lambda *_, parts=parts, **__: tf.constant(next(parts)),
                partitioner=tf.compat.v1.fixed_size_partitioner(3, axis),
            )
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, f"{store.url}/ckpt")
    wanted = Wanted(Parts(store, RECORD), [])
    here = tf.train.Checkpoint(
        table=tf.Variable(tf.zeros([4, 6]), name="table"), bias=tf.Variable(tf.zeros([3], tf.float16), name="bias")
    )
    here.read(served(wanted))
    assert np.array_equal(here.table.numpy(), table)
    assert np.array_equal(here.bias.numpy(), bias)
    wanted.close()
