"""Keras 3 models that train on several workers as one process does on the same global batches.

Each function here is a way to train. It returns what Keras told, and the model.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from values import digests

X = np.random.RandomState(0).rand(160, 8).astype("float32")
Y = (X.sum(1) * 3 / 8).astype("int32") % 3
LAYERS = keras.layers
EPOCHS = 2


def train(world: Any, *, way: str, mirrored: bool = False) -> dict[str, Any]:
    """Train one of the ways: what Keras told, the trained values, and digests of them, which are equal on all workers.

    mirrored: with a MirroredStrategy in this process.
    """
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if mirrored else world.strategy
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        told, model = WAYS[way]()
    values = {str(i): each.numpy() for i, each in enumerate(model.trainable_variables)}
    told = {name: np.asarray(value, float).ravel().tolist() for name, value in told.items()}
    return {
        "told": told,
        "iterations": int(model.optimizer.iterations.numpy()),
        "values": {name: value.ravel().tolist() for name, value in values.items()},
        "digests": digests(values),
    }


def batches(*parts: Any, count: int = 160, size: int = 16) -> Any:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    parts = tuple(tf.nest.map_structure(lambda part: part[:count], part) for part in parts or (X, Y))
    return tf.data.Dataset.from_tensor_slices(parts).batch(size).with_options(options)


def dense(optimizer: Any = "sgd", kind: Any = keras.Sequential, **arguments: Any) -> Any:
    model = kind([keras.Input((8,)), LAYERS.Dense(16, activation="relu"), LAYERS.Dense(3)])
    arguments = {"metrics": ["accuracy"], **arguments}
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **arguments)
    return model


def dataset() -> Any:
    """Averaged weights, class weights, a smaller last batch; validation, evaluate and predict."""
    model = dense(keras.optimizers.Adam(0.01, use_ema=True))
    weights = {0: 1.0, 1: 2.0, 2: 0.5}
    told = model.fit(
        batches(count=150), validation_data=batches(count=70), class_weight=weights, epochs=EPOCHS, verbose=0
    ).history
    told["evaluated"] = model.evaluate(batches(count=150), verbose=0)
    told["predicted"] = model.predict(batches(count=150), verbose=0)
    return told, model


def arrays() -> Any:
    """Arrays with weights of examples, shuffled by nobody; predictions of arrays."""
    model = dense(weighted_metrics=["accuracy"], metrics=[])
    weights = np.linspace(0.1, 1, 160).astype("float32")
    told = model.fit(
        X, Y, sample_weight=weights, batch_size=16, shuffle=False, validation_split=0.2, epochs=EPOCHS, verbose=0
    ).history
    told["predicted"] = model.predict(X[:150], batch_size=16, verbose=0)
    return told, model


def curves() -> Any:
    """Metrics that are no means, and callbacks that decide by what they are told."""
    model = keras.Sequential([keras.Input((8,)), LAYERS.Dense(1, activation="sigmoid")])
    metrics = [keras.metrics.AUC(name="auc"), keras.metrics.Precision(name="precision")]
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=metrics)
    callbacks = [
        keras.callbacks.EarlyStopping("auc", mode="max", patience=1, min_delta=0.02),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=0.05),
    ]
    labels = (Y > 0).astype("float32")[:, None]
    return model.fit(batches(X, labels), callbacks=callbacks, epochs=20, verbose=0).history, model


def dictionaries() -> Any:
    """Several inputs, one of them texts and one integers, and several outputs, by name."""
    numbers, words, ids = (keras.Input(shape, name=n, dtype=t) for shape, n, t in INPUTS)
    parts = [
        numbers,
        LAYERS.Flatten()(LAYERS.Embedding(3, 4)(LAYERS.StringLookup(vocabulary=["a", "b"])(words))),
        LAYERS.Flatten()(LAYERS.Embedding(3, 4)(ids)),
    ]
    joined = LAYERS.Concatenate()(parts)
    outputs = {"u": LAYERS.Dense(3, name="u")(joined), "v": LAYERS.Dense(1, name="v")(joined)}
    model = keras.Model({"numbers": numbers, "words": words, "ids": ids}, outputs)
    losses = {"u": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "v": "mse"}
    model.compile("sgd", losses, metrics={"u": ["accuracy"]})
    given = {"numbers": X, "words": np.array([["a"], ["b"]] * 80), "ids": Y[:, None]}
    return model.fit(batches(given, {"u": Y, "v": X[:, :1]}), epochs=EPOCHS, verbose=0).history, model


INPUTS = (((8,), "numbers", "float32"), ((1,), "words", "string"), ((1,), "ids", "int32"))


class OwnStep(keras.Model):  # type: ignore[misc]
    """Trains by a step of its own, and tells a number of Python's beside a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = LAYERS.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {
            "loss": loss * tf.distribute.get_strategy().num_replicas_in_sync,
            "half": 0.5,
            "sums": tf.reduce_sum(x, axis=1),
        }


def own_step() -> Any:
    """A step of the model's own. Its vector is averaged over the examples, which one process does not do; and its loss
    is half of that of one process, as Keras scales it for two replicas."""
    model = OwnStep()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    told = model.fit(batches(), epochs=EPOCHS, verbose=0).history
    told["sums"] = [float(np.mean(each)) for each in told["sums"]]
    return told, model


def sequence() -> Any:
    """A PyDataset, in eager steps."""

    class Pieces(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 10

        def __getitem__(self, i: int) -> Any:
            return X[i * 16 : (i + 1) * 16], Y[i * 16 : (i + 1) * 16]

    model = dense(run_eagerly=True)
    return model.fit(Pieces(), shuffle=False, epochs=EPOCHS, verbose=0).history, model


def clipped() -> Any:
    """Clipped gradients, and a last batch with one example."""
    model = dense(keras.optimizers.SGD(0.5, clipnorm=0.2))
    return model.fit(batches(count=145), epochs=EPOCHS, verbose=0).history, model


WAYS = {each.__name__: each for each in (dataset, arrays, curves, dictionaries, own_step, sequence, clipped)}


def uneven(world: Any) -> dict[str, Any]:
    """Train on batches that no two workers can divide evenly."""
    with world.scope():
        model = dense()
    losses = model.fit(batches(size=15), epochs=EPOCHS, verbose=0).history["loss"]
    return {"losses": losses, "predicted": model.predict(batches(size=15), verbose=0).shape}


def refused(world: Any) -> dict[str, str]:
    """What is said to each call that cannot work; a good one comes last."""

    def generator() -> Any:
        yield from ((X[i : i + 16], Y[i : i + 16]) for i in range(0, 160, 16))

    class Compiled(keras.Sequential):  # type: ignore[misc]
        """Where everything is deterministic, as in these worlds, Keras compiles nothing, whatever it is told."""

        jit_compile = property(lambda self: True, lambda self, value: None)

    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    said = {}
    distributed = world.strategy.experimental_distribute_dataset(batches())
    release = keras.__version__
    for name, call, arguments, data in (
        ("3.9.2", "fit", {}, batches()),
        ("steps_per_execution", "fit", {"steps_per_execution": 2}, batches()),
        ("steps_per_execution=3", "fit", {"steps_per_execution": 3}, distributed),
        ("jit_compile", "evaluate", {"kind": Compiled}, batches()),
        ("gradient_accumulation_steps", "fit", {"optimizer": accumulating}, batches()),
        ("generator", "fit", {}, generator()),
        ("nothing", "fit", {}, batches()),
    ):
        keras.__version__ = name if name == "3.9.2" else release
        with world.scope():
            model = dense(**arguments)
        try:
            getattr(model, call)(data, verbose=0)
            said[name] = ""
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        said[name] += f" ({model.optimizer.iterations.numpy()} steps)"
    return said


def in_a_function(world: Any) -> list[float]:
    """A loop of one's own in a `tf.function`, with conditions and loops that TensorFlow translates."""
    strategy = world.strategy

    def step(x: Any) -> Any:
        y = x * 2.0 if tf.reduce_sum(x) > 10.0 else x
        for _ in tf.range(2):
            y += 1.0
        return y

    @tf.function
    def loop(numbers: Any) -> Any:
        told = tf.TensorArray(tf.float32, 3)
        for i in tf.range(3):
            results = strategy.run(step, args=(next(numbers),))
            told = told.write(i, strategy.reduce("MEAN", results, axis=0))
        return told.stack()

    numbers = tf.data.Dataset.range(12).map(lambda i: tf.cast(i, tf.float32)).batch(4)
    return [float(each) for each in loop(iter(strategy.experimental_distribute_dataset(numbers)))]
