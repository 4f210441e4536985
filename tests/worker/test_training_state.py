"""A Keras model goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast import CheckpointManager
from holdfast.keras import training_state
from holdfast.restoring.apply import apply
from holdfast.restoring.staging import stage
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import open_store
from support.checkpoints import WORKERS, commit
from support.two_cpus import DEVICES

pytestmark = pytest.mark.tensorflow

X = np.random.RandomState(0).randn(32, 4).astype(np.float32)
Y = X.sum(1, keepdims=True)


class Scaling(keras.layers.Layer):
    """A layer that builds a weight into a list."""

    def build(self, shape: Any) -> None:
        self.scale = [self.add_weight(shape=(shape[-1],), initializer="normal", name="scale")]

    def call(self, x: Any) -> Any:
        return x * self.scale[0]


class Contained(keras.Model):
    """Layers, variables and generators where TensorFlow does not look, some made by `build`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(5), keras.layers.Dropout(0.5)]
        self.table = ({"a": keras.layers.Dense(4)},)
        self.a_set = {keras.layers.GaussianNoise(0.2)}
        self.scaling = Scaling()
        self.generators = [keras.random.SeedGenerator(3)]
        self.seen = keras.metrics.Mean()

    def build(self, shape: Any) -> None:
        self.late = keras.layers.Dropout(0.3)
        self.bias = [self.add_weight(shape=(4,), initializer="normal", name="bias")]
        self.late_blocks = [keras.layers.Dropout(0.2)]
        self.head = keras.layers.Dense(1)
        self.blocks[0].build(shape)
        self.table[0]["a"].build((None, 5))
        self.scaling.build((None, 4))
        self.head.build((None, 4))

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.late(x, training=training)
        for block in (*self.blocks, self.table[0]["a"], *self.a_set, *self.late_blocks):
            x = block(x, training=training)
        x = self.scaling(x) + self.bias[0] + keras.random.normal((4,), seed=self.generators[0])
        return self.head(x)


class Block(keras.layers.Layer):
    """A layer without `build`, and one that it has made and built before it attaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [keras.layers.Dense(5), keras.layers.Dropout(0.2)]
        self.norm = keras.layers.BatchNormalization()
        self.late = LateChild()

    def call(self, x: Any, training: bool = False) -> Any:
        for part in self.parts:
            x = part(x)
        return self.late(self.norm(x, training=training))


class LateChild(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        child = keras.layers.Dense(3)
        child.build(shape)
        self.child = child

    def call(self, x: Any) -> Any:
        return self.child(x)


class Subclassed(keras.Model):
    """The commonest kind of model: layers made by `__init__`, and built by the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = keras.layers.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.block(x, training=training))


class Plain(keras.Model):
    """All that it has TensorFlow sees by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.block = LateChild()
        self.head = keras.layers.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.block(x))


class Untraceable(keras.Model):
    """Its call needs values, so that Keras cannot build it by symbols; and its `build` builds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.nested = Subclassed()

    def build(self, shape: Any) -> None: ...

    def call(self, x: Any, training: bool = False) -> Any:
        return self.nested(x * float(tf.size(x) > 0), training=training)


def sequential(k: Any) -> Any:
    layers = k.layers
    return k.Sequential([layers.Dense(3), layers.Dropout(0.5), layers.BatchNormalization(), layers.Dense(1)])


def functional(k: Any) -> Any:
    inputs = k.Input((4,))
    x = k.layers.Dropout(0.2)(k.layers.Dense(6)(inputs))
    x = k.Sequential([k.layers.GaussianNoise(0.2), k.layers.Dense(3)])(x)
    return k.Model(inputs, k.layers.Dense(1)(x))


MODELS = {
    "keras-sequential": lambda: sequential(keras),
    "keras-functional": lambda: functional(keras),
    "keras-contained": Contained,
    "keras-subclassed": Subclassed,
    "tf_keras-sequential": lambda: sequential(tf_keras),
    "tf_keras-functional": lambda: functional(tf_keras),
}


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    tf_keras.backend.experimental.enable_tf_random_generator()
    yield
    tf_keras.backend.experimental.disable_tf_random_generator()


def compiled(kind: str, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    model = MODELS[kind]()
    if kind.startswith("tf_keras"):
        model.compile(tf_keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    else:
        model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse", metrics=["mae"])
    return model


def train(model: Any, epochs: int = 1) -> None:
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False)


def everything(model: Any) -> list[Any]:
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    optimizer = model.optimizer.variables
    variables = [*model.variables, *metrics, *(optimizer() if callable(optimizer) else optimizer)]
    if isinstance(model, tf.Module):
        generators = [getattr(layer, "_random_generator", None) for layer in model.submodules]
        variables += [generator._generator.state for generator in generators if generator is not None]
    return list({id(variable): variable for variable in variables}.values())


def values(model: Any) -> list[Any]:
    return [variable.numpy() for variable in everything(model)]


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_left_out(kind: str, tmp_path: Path) -> None:
    """Everything in a model is in the checkpoint. Guards against TensorFlow leaving out seed generators, metrics, and
    the contents of lists and dictionaries."""
    model = compiled(kind, 1)
    train(model)
    for marker, variable in enumerate(everything(model)):
        variable.assign(tf.cast(tf.fill(variable.shape, marker + 1), variable.dtype))
    reader = tf.train.load_checkpoint(training_state(model).write(str(tmp_path / "ckpt")))
    saved = {
        reader.get_tensor(key).flatten()[0]
        for key, shape in reader.get_variable_to_shape_map().items()
        if key[0] != "_"
    }
    assert saved >= {marker + 1 for marker in range(len(everything(model)))}


@pytest.mark.parametrize("restored", ["unbuilt", "trained"])
@pytest.mark.parametrize("kind", MODELS)
def test_resumed_is_bit_equal(kind: str, restored: str, tmp_path: Path) -> None:
    """A resumed run is bit-equal. Guards against other dropout masks, and losing what the model builds after the
    restore."""
    model = compiled(kind, 1)
    train(model)
    saved = training_state(model).save(str(tmp_path / "ckpt"))
    at_save = values(model)
    train(model)

    again = compiled(kind, 2)
    if restored == "trained":
        train(again)
    status = training_state(again).restore(saved)
    if restored == "trained":
        for variable, expected in zip(everything(again), at_save, strict=True):
            np.testing.assert_array_equal(variable.numpy(), expected, err_msg=str(variable))
    train(again)
    status.assert_consumed()
    for variable, expected in zip(everything(again), values(model), strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=str(variable))


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(
    ("make", "whole", "loop"),
    [
        (Subclassed, training_state, "eager"),
        (Subclassed, training_state, "graph"),
        (Untraceable, training_state, "eager"),
        (Plain, lambda model: tf.train.Checkpoint(model=model), "eager"),
    ],
    ids=["eager", "graph", "untraceable", "plain checkpoint"],
)
def test_a_model_is_built_by_its_first_step_after_the_restore(make: Any, whole: Any, loop: str, tmp_path: Path) -> None:
    """A model that its first step builds after the restore is restored. Guards against weights that silently stay
    random, and saves over the good checkpoints."""

    def create(seed: int) -> tuple[Any, Any, Any]:
        keras.utils.set_random_seed(seed)
        model, optimizer = make(), keras.optimizers.Adam(0.01)

        def step() -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((tf.cast(model(X, training=True), tf.float32) - Y) ** 2)
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return loss

        state = whole(model)
        state.optimizer = optimizer
        return model, state, tf.function(step) if loop == "graph" else step

    model, state, step = create(1)
    step()
    saved = state.save(str(tmp_path / "ckpt"))
    expected = [step().numpy() for _ in range(3)]

    again, state, step = create(2)
    status = state.restore(saved)
    assert [step().numpy() for _ in range(3)] == expected
    status.assert_consumed()
    for mine, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=mine.path)


def test_a_model_is_built_on_two_devices_after_the_restore(tmp_path: Path) -> None:
    """A model that is built on two devices after the restore is restored. Guards against restoring only the first
    device's values, or none."""
    # Without collectives: where a model is built in the replicas' threads, these need not agree on their order.
    strategy = tf.distribute.MirroredStrategy(DEVICES, tf.distribute.ReductionToOneDevice())

    def create(seed: int) -> Any:
        with strategy.scope():
            return compiled("keras-subclassed", seed)

    model = create(1)
    train(model)
    with CheckpointManager(training_state(model), tmp_path / "run") as manager:
        manager.save(blocking=True)
    train(model)

    again = create(2)
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        status = manager.restore()
        train(again)
        status.assert_consumed()
    for mine, theirs in zip(again.weights, model.weights, strict=True):
        for mine_here, theirs_here in zip(mine.value.values, theirs.value.values, strict=True):
            np.testing.assert_array_equal(mine_here, theirs_here, err_msg=mine.path)


def test_custom_loop_goes_on(tmp_path: Path) -> None:
    """A custom loop goes on from a real folder. Guards against an optimizer, or layers below another checkpoint, that
    are restored only in part."""

    def create(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        checkpoint = tf.train.Checkpoint(state=training_state(Contained()))
        checkpoint.optimizer = keras.optimizers.Adam(0.01)
        return checkpoint

    def step(checkpoint: Any) -> Any:
        model = checkpoint.state.model
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        weights = model.trainable_variables
        checkpoint.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss.numpy()

    first = create(1)
    step(first)
    store = open_store(tmp_path / "run")
    record = commit(store, str(first.save(str(tmp_path / "stock" / "ckpt"))))
    expected = [step(first) for _ in range(3)]

    again = create(2)
    with stage(store, record, task=WORKERS[0], world=WORKERS) as staged:
        status = apply(again, None, staged)
        losses = [step(again) for _ in range(3)]
        status.assert_consumed()
    assert losses == expected


def test_keys_of_equal_models_are_equal(tmp_path: Path) -> None:
    """Equal models have equal keys. Guards against a second model of a process that cannot restore the first one's
    checkpoint."""
    keys = []
    for run in range(2):
        model = compiled("keras-contained", 1)
        train(model)
        reader = tf.train.load_checkpoint(training_state(model).write(str(tmp_path / f"ckpt-{run}")))
        keys.append(set(reader.get_variable_to_shape_map()))
    assert keys[0] == keys[1]
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert {f"model/layer-0/_kernel{suffix}", f"model/late/seed_generator-0{suffix}"} <= keys[0]


def test_model_is_not_changed(tmp_path: Path) -> None:
    """The model itself is not changed. Guards against Keras taking what TensorFlow tracks for new weights."""
    model = compiled("keras-contained", 1)
    train(model)
    before = [[v.path for v in of] for of in (model.variables, model.trainable_variables, model.weights)]
    training_state(model).write(str(tmp_path / "ckpt"))
    assert [[v.path for v in of] for of in (model.variables, model.trainable_variables, model.weights)] == before


def test_plain_checkpoint_of_the_model_reads_it(tmp_path: Path) -> None:
    """A plain checkpoint of the model reads the weights. Guards against weights that nobody without Holdfast
    can get."""
    model = compiled("keras-functional", 1)
    train(model)
    saved = training_state(model).save(str(tmp_path / "ckpt"))
    plain = compiled("keras-functional", 2)
    tf.train.Checkpoint(model=plain).restore(saved).expect_partial()
    for mine, theirs in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_a_state_within_another_checkpoint(tmp_path: Path) -> None:
    """A state is restored as a part of a TensorFlow checkpoint, too, before its model is built. Guards against weights
    that silently stay random."""

    class Unbuilt(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.listed = keras.layers.Dense(2), [keras.layers.Dense(2)]

        def call(self, x: Any) -> Any:
            return self.listed[0](self.dense(x))

    x = np.ones((4, 3), np.float32)
    model, again = Unbuilt(), Unbuilt()
    model(x)
    path = tf.train.Checkpoint(state=training_state(model)).save(str(tmp_path / "ckpt"))
    status = tf.train.Checkpoint(state=training_state(again)).restore(path)
    again(x)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    status.assert_consumed()


def test_model_that_is_not_compiled(tmp_path: Path) -> None:
    """A model without an optimizer is saved completely. Guards against an error, or a checkpoint without the model."""
    model = Contained()
    model(X)
    saved = training_state(model).save(str(tmp_path / "ckpt"))
    again = Contained()
    state = training_state(again)
    again(X)
    state.restore(saved).assert_consumed()
    for mine, theirs in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_what_has_gone_on_is_not_set_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A layer that has trained on is not set back later. Guards against a next save that gives it the outdated
    value."""

    class Growing(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.layers_of_later: list[Any] = []

    model = Growing()
    model.layers_of_later.append(keras.layers.Dropout(0.5, seed=4))
    saved = training_state(model).save(str(tmp_path / "ckpt"))

    again = Growing()
    state = training_state(again)
    state.restore(saved).expect_partial()
    again.layers_of_later.append(keras.layers.Dropout(0.5, seed=5))
    for number in range(2):
        state.write(str(tmp_path / f"next-{number}"))
        assert again.layers_of_later[0].seed_generator.state.numpy().tolist() == [5, 0]
    assert caplog.text.count("not restored") == 1


def test_draws_that_cannot_be_saved_are_told() -> None:
    """tf_keras layers with stateful draws give a warning. Guards against a resumed run that silently differs."""
    tf_keras.backend.experimental.disable_tf_random_generator()
    model = sequential(tf_keras)
    with pytest.warns(UserWarning, match="enable_tf_random_generator"):
        training_state(model)


@pytest.mark.parametrize("wrong", [None, "model", object()])
def test_what_is_no_model(wrong: Any) -> None:
    """Anything but a model is refused. Guards against an AttributeError of something internal at the first save."""
    with pytest.raises(InvalidRequest, match="Keras"):
        training_state(wrong)
