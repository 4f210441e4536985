"""Everything that can lie on parameter servers, saved by Holdfast and by TensorFlow at the same moment."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from refusals import failure_of

import holdfast
from holdfast_storage.bundle.index import Index
from holdfast_storage.layout import data_object, index_object

OPTIONS = {"save_timeout": 60.0, "join_timeout": 60.0}
DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
PARTITIONERS = tf.distribute.experimental.partitioners
BY_ROWS = {
    10: PARTITIONERS.FixedShardsPartitioner(3),
    12: PARTITIONERS.MinSizePartitioner(16, 4),
    14: PARTITIONERS.MaxSizePartitioner(64),
}


def partition(shape: Any, dtype: Any, **options: Any) -> list[int]:
    """Partition by a partitioner that the number of rows chooses; other variables lie on one server."""
    rows = shape.as_list()[0] if shape.rank else 0
    return list(BY_ROWS[rows](shape=shape, dtype=dtype, **options)) if rows in BY_ROWS else [1] * shape.rank


class Job:
    """A strategy, and what it is trained by. A process has one."""

    def __init__(self) -> None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        self.strategy = tf.distribute.ParameterServerStrategy(resolver, partition)
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)


JOBS: dict[str, Job] = {}


def job() -> Job:
    return JOBS.setdefault("job", Job()) if "job" not in JOBS else JOBS["job"]


def variables(rows: int) -> dict[str, Any]:
    """A variable of each dtype, with so many rows."""
    numbers = np.arange(rows * 3).reshape(rows, 3)
    return {
        f"{dtype}_{rows}": tf.Variable(tf.cast(numbers % 2 if dtype == "bool" else numbers, dtype)) for dtype in DTYPES
    }


def trained(library: Any, optimizer: Any) -> tuple[dict[str, Any], Any]:
    """A model with an optimizer, and a step of them. Keras 3 cannot train variables in parts, so it has none."""
    layers, (first, second, third) = library.layers, (5, 6, 7) if library is keras else BY_ROWS
    model = library.Sequential(
        [layers.Input((first,)), layers.Dense(second), layers.BatchNormalization(), layers.Dense(third)]
    )
    build = getattr(optimizer, "build", None) or optimizer._create_all_weights
    build(model.trainable_variables)

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(tf.ones([4, first]), training=True) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    return {"model": model, "optimizer": optimizer}, step


def compare(world: Any, *, directory: str, kind: str) -> dict[str, Any]:
    """Train, save twice, and compare the second checkpoint with TensorFlow's own of the same moment. Restore it.

    kind: what is saved beside tables and variables.
    """
    strategy, steps = job().strategy, []
    with strategy.scope():
        held: dict[str, Any] = {"scalar": tf.Variable(3.0), "text": tf.Variable(["on a", "server"])}
        for rows in (*BY_ROWS, 3):
            held |= variables(rows)
        held["table"] = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        held["dense"] = tf.lookup.experimental.DenseHashTable(tf.int64, tf.float32, 0.0, -1, -2)
        held["growing"] = tf.Variable([[1.0, 2.0]], shape=tf.TensorShape([None, 2]))
        if kind == "keras":
            made = [trained(keras, keras.optimizers.Adam())]
        elif kind == "tf_keras":
            made = [trained(tf_keras, tf_keras.optimizers.Adagrad())]
        else:
            made = [trained(tf_keras, tf_keras.optimizers.legacy.Adam())]
            held["texts"] = tf.Variable([[str(row)] for row in range(10)])
        for objects, step in made:
            held |= objects
            steps.append(step)
    held |= {"own": tf.Variable([1.0, 2.0]), "own_text": tf.Variable("the chief's"), "epoch": tf.Variable(0)}
    held["dense"].insert(tf.constant([5, 6], tf.int64), tf.constant([1.0, 2.0]))
    checkpoint = tf.train.Checkpoint(**held)
    functions = [tf.function(lambda step=step: strategy.run(step)) for step in steps]
    with holdfast.CheckpointManager(checkpoint, directory, **OPTIONS) as manager:
        for save in range(3):
            for function in functions:
                for _ in range(3):
                    job().coordinator.schedule(function)
            held["table"].insert(tf.constant([f"word {save}"]), tf.constant([save], tf.int64))
            held["growing"].assign(tf.fill([save + 1, 2], 1.0 * save))
            manager.save(blocking=True)
        newest = manager.latest_checkpoint
        assert newest is not None
        ours, stock = _read(newest), _read(checkpoint.write(f"{directory}-stock/stock"))
        held["dense"].insert(tf.constant([5, 6], tf.int64), tf.constant([0.5, 0.5]))
        held["growing"].assign([[0.0, 0.0]])
        manager.restore_or_initialize()
        restored = [held["dense"].lookup(tf.constant([5, 6], tf.int64)), held["growing"]]
    differing = sorted(str(key) for key in ours.keys() | stock.keys() if ours.get(key) != stock.get(key))
    return {
        "prefix": newest,
        "differing": differing,
        "entries": len(ours),
        "sliced": len({key for key, extents in ours if extents}),
        "restored": [each.numpy().tolist() for each in restored],
    }


def _read(prefix: str) -> dict[Any, Any]:
    """Everything in a checkpoint, piece by piece, as it is stored."""
    index = Index.parse(Path(index_object(prefix)).read_bytes())
    shards = [Path(data_object(prefix, n, index.num_shards)).read_bytes() for n in range(index.num_shards)]
    found: dict[Any, Any] = {}
    for key, tensor in index.tensors.items():
        found[key, None] = tensor.dtype, tensor.shape, sorted(tensor.slices)
        for extents, piece in index.pieces(key):
            data = shards[piece.shard][piece.offset : piece.offset + piece.size]
            found[key, extents] = tensor.dtype, tensor.shape, sorted(tensor.slices), piece.crc32c, data
    return found


def read_by_stock(world: Any, *, prefix: str, names: list[str]) -> dict[str, Any]:
    """In a process without a strategy: what TensorFlow itself reads of these variables, and restores of one of them."""
    reader = tf.train.load_checkpoint(prefix)
    values = {name: reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE") for name in names}
    variable = tf.Variable(tf.zeros([10, 3]))
    tf.train.Checkpoint(float32_10=variable).restore(prefix).expect_partial()
    return {
        "values": {name: np.asarray(value, "float64").tolist() for name, value in values.items()},
        "restored": variable.numpy().tolist(),
    }


def predicting(world: Any, *, directory: str, kind: str, pairs: list[list[int]]) -> list[list[float]]:
    """Train and save a model with a table; what it predicts for pairs of rows.

    The table lies in parts on both servers, but with Keras 3, which cannot train such variables, on one.
    """
    library, rows = {"keras": (keras, 11), "tf_keras": (tf_keras, 10)}[kind]
    with job().strategy.scope():
        given = library.Input((2,), dtype="int64")
        found = library.layers.Flatten()(library.layers.Embedding(rows, 4, name="table")(given))
        normal = library.layers.BatchNormalization(name="normal")(found)
        model = library.Model(given, library.layers.Dense(3, name="head")(normal))
        optimizer = library.optimizers.Adagrad(0.1)
        optimizer.build(model.trainable_variables)
    ids = tf.constant(pairs)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(ids, training=True) - 1.0) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    state = holdfast.keras.training_state(model)
    state.optimizer = optimizer
    with holdfast.CheckpointManager(state, directory, **OPTIONS) as manager:
        manager.save(3)
    return np.asarray(model(ids, training=False)).tolist()


def cut(world: Any, *, directory: str) -> dict[str, Any]:
    """Save, and train on while it is written: what was saved, and what a function has raised that was scheduled."""
    strategy, coordinator = job().strategy, job().coordinator
    with strategy.scope():
        table = tf.Variable(lambda: tf.zeros([10, 3]))
        dense, steps = tf.Variable(lambda: tf.zeros([7])), tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(table=table, dense=dense, steps=steps)

    @tf.function
    def step() -> None:
        for part in table.variables:
            # As an embedding: in place, unless somebody holds the value.
            part.scatter_add(tf.IndexedSlices(tf.ones(part.shape), tf.range(part.shape[0])))
        dense.assign_add(tf.ones([7]))
        steps.assign_add(1)

    @tf.function
    def fail() -> None:
        tf.debugging.assert_equal(steps, tf.constant(-1, tf.int64))

    found, raised = [], ""
    with holdfast.CheckpointManager(checkpoint, directory, **OPTIONS) as manager:
        for _ in range(3):
            for _ in range(20):
                coordinator.schedule(step)
            prefix = manager.save()
            for _ in range(200):
                coordinator.schedule(step)
            manager.wait()
            reader = tf.train.load_checkpoint(prefix)
            keys = [key for key in reader.get_variable_to_shape_map() if key.startswith(("table", "dense", "steps"))]
            found.append(sorted({float(value) for key in keys for value in np.unique(reader.get_tensor(key))}))
        before = int(checkpoint.save_counter.numpy())
        coordinator.schedule(fail)
        try:
            manager.save()
        except tf.errors.InvalidArgumentError as error:
            raised = str(error)
        counted, committed = int(checkpoint.save_counter.numpy()) - before, len(manager.checkpoints)
    by_interval = {**OPTIONS, "checkpoint_interval": 10, "step_counter": steps}
    with holdfast.CheckpointManager(checkpoint, f"{directory}-by-interval", **by_interval) as manager:
        for _ in range(200):
            coordinator.schedule(step)
        manager.save()
        late = int(steps.numpy()) - (manager.last_checkpoint_step or 0)
    return {
        "found": found,
        "late": late,
        "raised": raised,
        "counted": counted,
        "committed": committed,
    }


def refused(world: Any, *, directory: str) -> dict[str, Any]:
    """What cannot be saved; and that nothing was written, nor anybody waited for."""
    with job().strategy.scope():
        checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
        iterator = iter(tf.data.Dataset.from_generator(lambda: iter([1]), output_types=tf.int32))
    own = {"per_worker": tf.train.Checkpoint(w=tf.Variable(1.0))}
    with_iterator = tf.train.Checkpoint(v=tf.Variable(1.0), data=iterator)

    def save() -> None:
        with holdfast.CheckpointManager(with_iterator, directory, **OPTIONS) as manager:
            manager.save()

    return {
        "per_worker": failure_of(lambda: holdfast.CheckpointManager(checkpoint, directory, **OPTIONS, **own)),
        "iterator": failure_of(save),
        "written": os.path.exists(directory) and os.listdir(directory),
    }


def without_agent(world: Any, *, directory: str) -> dict[str, Any] | None:
    with job().strategy.scope():
        checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = holdfast.CheckpointManager(checkpoint, directory, **OPTIONS)
    try:
        return failure_of(manager.save)
    finally:
        manager.close()


def requested(world: Any, *, directory: str) -> dict[str, Any]:
    """Saves by the clock, and at notice of a preemption."""
    with job().strategy.scope():
        steps = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(steps=steps)
    preemption = holdfast.Preemption(signals=(signal.SIGUSR1,), grace=60.0)
    options = {"preemption": preemption, "save_every": timedelta(seconds=0.5), **OPTIONS}
    with holdfast.CheckpointManager(checkpoint, directory, **options) as manager:
        prefixes: list[str] = []
        try:
            while True:
                steps.assign_add(1)
                prefix = manager.save_if_requested()
                if prefix is not None:
                    prefixes.append(prefix)
                if len(prefixes) == 2 and prefix is not None:
                    os.kill(os.getpid(), signal.SIGUSR1)
        except holdfast.Preempted as preempted:
            return {"code": preempted.code, "saves": len(prefixes), "committed": len(manager.checkpoints)}


def noticed(world: Any, *, directory: str) -> dict[str, Any]:
    """Train until a server has notice that its host goes away."""
    with job().strategy.scope():
        steps = tf.Variable(0, dtype=tf.int64)
    preemption = holdfast.Preemption(signals=(signal.SIGUSR1,), grace=60.0)
    options = {"preemption": preemption, **OPTIONS}
    with holdfast.CheckpointManager(tf.train.Checkpoint(steps=steps), directory, **options) as manager:
        try:
            while True:
                steps.assign_add(1)
                manager.save_if_requested()
                Path(f"{directory}.trains").touch()
        except holdfast.Preempted as preempted:
            saved = tf.train.load_checkpoint(manager.latest_checkpoint).get_tensor("steps/.ATTRIBUTES/VARIABLE_VALUE")
            return {"code": preempted.code, "why": preempted.reason, "lost": int(steps.numpy() - saved)}
