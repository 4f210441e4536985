"""The snapshot, against TensorFlow's own checkpoint of the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.saving.capture import Snapshotter, capture
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import Index
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from support.two_cpus import DEVICES

pytestmark = pytest.mark.tensorflow

NUMERIC = [
    *("bfloat16", "float16", "float32", "float64", "float8_e5m2", "float8_e4m3fn", "complex64", "complex128", "bool"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
]
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def dtype(name: str) -> Any:
    return getattr(tf.dtypes, name, None) or getattr(tf.dtypes.experimental, name)


def stock(checkpoint: tf.train.Checkpoint, folder: Path) -> dict[str, tuple[int, tuple[int, ...], bytes, int]]:
    """What TensorFlow itself stores, by key."""
    prefix = checkpoint.write(str(folder / "stock"))
    index = Index.parse(Path(f"{prefix}.index").read_bytes())
    data = Path(f"{prefix}.data-00000-of-00001").read_bytes()
    return {key: (e.dtype, e.shape, data[e.offset : e.offset + e.size], e.crc32c) for key, e in index.tensors.items()}


def as_stored(tensor: SnapshotTensor) -> tuple[int, tuple[int, ...], bytes, int]:
    data = bytes(tensor.data)
    crc = tensor.encoded_crc32c
    return tensor.dtype, tensor.shape, data, entry_crc32c(tensor.dtype, tensor.shape, [data]) if crc is None else crc


def check_against_stock(snapshot: Snapshot, checkpoint: tf.train.Checkpoint, folder: Path) -> None:
    expected = stock(checkpoint, folder)
    found = {t.key: as_stored(t) for t in (*snapshot.tensors, snapshot.object_graph)}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value, key
    keys = [t.key.encode() for t in snapshot.tensors]
    assert keys == sorted(keys)


def guarded(snapshot: Snapshot) -> set[str]:
    return {t.key.removesuffix(VALUE) for t in snapshot.tensors if t.guarded}


def every_kind() -> tf.train.Checkpoint:
    module = tf.Module()
    for name in NUMERIC:
        setattr(module, name, tf.Variable(tf.cast(tf.constant([[0.0, 1, 0], [1, 1, 1]]), dtype(name))))
    module.qint8 = tf.Variable(tf.bitcast(tf.constant([1, -2], tf.int8), tf.qint8))
    module.scalar = tf.Variable(3.0)
    module.scalar_bfloat16 = tf.Variable(tf.constant(3.0, tf.bfloat16))
    module.empty = tf.Variable(tf.zeros([0, 4]))
    module.empty_bfloat16 = tf.Variable(tf.zeros([2, 0], tf.bfloat16))
    return tf.train.Checkpoint(module=module, generator=tf.random.Generator.from_seed(1))


def test_every_dtype_as_tensorflow_stores_it(tmp_path: Path) -> None:
    """Every dtype has the bytes that TensorFlow stores. Guards against bfloat16 and float8, which Python's buffers do
    not know, and empty tensors, which cannot be viewed as bytes."""
    checkpoint = every_kind()
    snapshotter = Snapshotter(checkpoint)
    check_against_stock(snapshotter.capture(), checkpoint, tmp_path)
    check_against_stock(snapshotter.capture(), checkpoint, tmp_path)  # read directly, without the saver


def test_strings_and_iterators_in_tensorflows_encoding(tmp_path: Path) -> None:
    """Strings and iterators have TensorFlow's encoding and checksum. Guards against an encoding of our own."""
    checkpoint = every_kind()
    checkpoint.names = tf.Variable(["a", "", "b" * 300])
    options = tf.data.Options()
    options.autotune.enabled = False  # else the iterator reads ahead on a thread of its own, while we compare
    checkpoint.iterator = iter(tf.data.Dataset.range(10).shuffle(5, seed=1).with_options(options))
    snapshotter = Snapshotter(checkpoint)
    for _ in range(2):
        snapshot = snapshotter.capture()
        check_against_stock(snapshot, checkpoint, tmp_path)
        assert [t.key for t in snapshot.tensors if t.encoded] == [
            "iterator/.ATTRIBUTES/ITERATOR_STATE",
            f"names{VALUE}",
        ]
        assert snapshot.object_graph.key == OBJECT_GRAPH_KEY
        next(checkpoint.iterator)


def test_no_copy_and_no_change() -> None:
    """A snapshot is no copy, and training does not change it. Guards against bytes that change while they are
    written."""
    variable = tf.Variable(tf.zeros([1000]))
    sparse = tf.Variable(tf.zeros([1000]))
    half = tf.Variable(tf.zeros([10, 10], tf.bfloat16))
    snapshotter = Snapshotter(tf.train.Checkpoint(a=variable, b=sparse, c=half))
    taken = []
    for number in range(3):
        variable.assign(tf.fill([1000], float(number)))
        sparse.assign(tf.fill([1000], float(number)))
        half.assign(tf.cast(tf.fill([10, 10], float(number)), tf.bfloat16))
        snapshot = snapshotter.capture()
        for tensor, view in zip(
            snapshot.tensors[::2],
            [memoryview(variable.value()), memoryview(tf.bitcast(half.value(), tf.uint16))],
            strict=True,
        ):
            assert np.frombuffer(tensor.data, np.uint8).ctypes.data == np.frombuffer(view, np.uint8).ctypes.data
            del view
        taken.append(snapshot)
        variable.assign_add(tf.fill([1000], 10.0))
        sparse.scatter_nd_update([[3]], [7.0])
        sparse.scatter_nd_add([[4]], [7.0])
        half.assign_add(tf.ones([10, 10], tf.bfloat16))
    for number, snapshot in enumerate(taken):
        for tensor, kind in zip(snapshot.tensors, ["float32", "float32", "bfloat16"], strict=True):
            assert set(np.frombuffer(tensor.data, dtype(kind).as_numpy_dtype)) == {float(number)}


def test_a_table_that_changes_what_it_has_handed_out() -> None:
    """A lookup table is copied. Guards against a DenseHashTable that inserts into the buffers that it has exported,
    after the vote."""
    table = tf.lookup.experimental.DenseHashTable(tf.int64, tf.float32, -1.0, empty_key=0, deleted_key=-1)
    table.insert(tf.constant([5], tf.int64), tf.constant([1.0]))
    snapshot = capture(tf.train.Checkpoint(table=table))
    before = [bytes(tensor.data) for tensor in snapshot.tensors]
    table.insert(tf.constant([6], tf.int64), tf.constant([2.0]))
    assert len(before) == 2
    assert [bytes(tensor.data) for tensor in snapshot.tensors] == before


def test_objects_that_change_between_captures_are_seen(tmp_path: Path) -> None:
    """Changed objects are noticed between captures. Guards against direct reads of objects that no longer are what they
    were."""
    module = tf.Module()
    module.parts = [tf.Variable(1.0), tf.Variable(2.0)]
    checkpoint = tf.train.Checkpoint(module=module)
    snapshotter = Snapshotter(checkpoint)
    changes = [
        lambda: None,
        lambda: module.parts.append(tf.Variable(3.0)),
        lambda: setattr(module, "other", tf.Variable([4.0])),
        lambda: setattr(module, "other", tf.Variable([5.0])),
        lambda: delattr(module, "other"),
        lambda: setattr(checkpoint, "save_count", checkpoint.save_counter),
        lambda: checkpoint.save_counter.assign_add(1),
    ]
    for change in changes:
        change()
        for _ in range(2):
            check_against_stock(snapshotter.capture(), checkpoint, tmp_path)


def test_a_checkpoint_with_a_root(tmp_path: Path) -> None:
    """`Checkpoint(root, other=...)` has TensorFlow's keys. Guards against wrong keys for the root's own children and
    others."""
    root = tf.Module()
    root.weight = tf.Variable(2.0)
    checkpoint = tf.train.Checkpoint(root, step=tf.Variable(3, dtype=tf.int64))
    snapshotter = Snapshotter(checkpoint)
    for _ in range(2):
        snapshot = snapshotter.capture()
        check_against_stock(snapshot, checkpoint, tmp_path)
        assert guarded(snapshot) == {"weight"}
        checkpoint.save_counter.assign_add(1)
        root.weight.assign_add(1.0)


@pytest.mark.parametrize("library", ["keras", "tf_keras", "tf_keras.legacy"])
@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "mirrored"])
def test_what_must_be_equal_on_all_workers(library: str, mirrored: bool, tmp_path: Path) -> None:
    """Weights and slots are guarded, statistics are not. Guards against a weight that rots unseen, and a guarded moving
    mean that stops every Keras 3 run."""
    keras = pytest.importorskip(library.partition(".")[0])
    strategy = tf.distribute.MirroredStrategy(DEVICES) if mirrored else tf.distribute.get_strategy()
    with strategy.scope():
        layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.layers.Input((4,)), *layers])
        optimizers = keras.optimizers.legacy if library.endswith("legacy") else keras.optimizers
        optimizer = optimizers.Adam()
        model.compile(optimizer, "mse")
        local = tf.Variable([1.0, 2.0], trainable=False)
    model.fit(np.ones([4, 4]), np.ones([4, 1]), verbose=0)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, local=local)
    snapshotter = Snapshotter(checkpoint)
    for _ in range(2):
        snapshot = snapshotter.capture()
        check_against_stock(snapshot, checkpoint, tmp_path)
        free = {t.key.removesuffix(VALUE) for t in snapshot.tensors} - guarded(snapshot)
        assert len([key for key in free if "moving_" in key]) == 2
        assert {key.rpartition("/")[2] for key in free} <= {"moving_mean", "moving_variance", "local", "total", "count"}
        slots = [t for t in snapshot.tensors if t.guarded and t.shape == (4, 3)]
        assert len(slots) == 3  # the kernel, and Adam's two
        model.fit(np.ones([4, 4]), np.ones([4, 1]), verbose=0)


def test_integers_are_not_trained() -> None:
    """Integer variables are not guarded. Guards against a counter made by `tf.Variable(0)`, which TensorFlow calls
    trainable, that counts as corruption."""
    checkpoint = tf.train.Checkpoint(counter=tf.Variable(0), weight=tf.Variable(0.0), frozen=tf.Variable(0.0, False))
    assert guarded(capture(checkpoint)) == {"weight"}


def test_local_values_that_the_stock_key_does_not_tell(tmp_path: Path) -> None:
    """Replicas' own values are captured. Guards against losing one of two moving means, or one part of a summed
    counter."""
    strategy = tf.distribute.MirroredStrategy(DEVICES)
    with strategy.scope():
        summed = tf.Variable(
            0.0, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
        )
        mean = tf.Variable([0.0, 0.0], trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        weight = tf.Variable(1.0)
    for index, part in enumerate(strategy.experimental_local_results(summed)):
        part.assign(10.0 + index)
    checkpoint = tf.train.Checkpoint(mean=mean, weight=weight)
    snapshotter = Snapshotter(checkpoint)
    assert not snapshotter.capture().replicas
    for index, part in enumerate(strategy.experimental_local_results(mean)):
        part.assign([1.0, float(index)])
    for _ in range(2):
        snapshot = snapshotter.capture()
        assert not snapshot.collective
        values = {t.key: np.frombuffer(t.data, np.float32).tolist() for t in snapshot.replicas}
        assert values == {f"mean{VALUE}/.REPLICA/0": [1.0, 0.0], f"mean{VALUE}/.REPLICA/1": [1.0, 1.0]}

    checkpoint = tf.train.Checkpoint(summed=summed)
    snapshotter = Snapshotter(checkpoint)
    for _ in range(2):
        snapshot = snapshotter.capture()
        assert snapshot.collective
        check_against_stock(snapshot, checkpoint, tmp_path)
        values = {t.key: np.frombuffer(t.data, np.float32).tolist() for t in (*snapshot.tensors, *snapshot.replicas)}
        parts = {f"summed{VALUE}/.REPLICA/0": [10.0], f"summed{VALUE}/.REPLICA/1": [11.0]}
        assert values == {f"summed{VALUE}": [21.0], **parts}


def test_a_snapshot_needs_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot needs no disk. Guards against a worker with a full disk that stays out of a collective in which the
    others hang."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    snapshot = capture(tf.train.Checkpoint(names=tf.Variable(["a"])))
    assert [t.key for t in snapshot.tensors] == [f"names{VALUE}"]
    assert tf.io.gfile.glob("ram://holdfast-*") == []


def test_partitioned_variables_are_refused() -> None:
    """Partitioned variables are refused. Guards against a checkpoint of a part of the state."""
    from tensorflow.python.distribute.sharded_variable import ShardedVariable

    sharded = ShardedVariable([tf.Variable([1.0]), tf.Variable([2.0])])
    with pytest.raises(InvalidRequest, match="parameter server"):
        capture(tf.train.Checkpoint(sharded=sharded))
