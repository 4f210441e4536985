"""One program for each kind that people write, under each strategy. It may kill itself in the middle."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import orbit
import tensorflow as tf
from values import digests

import holdfast
import holdfast.keras

BATCH, FEATURES = 8, 4
EVERY = 4
"""Steps between two saves."""

OPTIONS = {"join_timeout": 60.0, "save_timeout": 60.0}


def train(
    world: Any, *, directory: str, strategy: str, program: str, framework: str, steps: int, killed_at: int = 0
) -> dict[str, Any]:
    """Train up to `steps` and return the first step, and the digests of this worker's values at the end.

    strategy: "none", "one device", "mirrored" (two logical devices), or "multi-worker" (this world's).
    program: "loop", "orbit" or "fit".
    framework: "keras" or "tf_keras".
    killed_at: SIGKILL after this step. 0: never.
    """
    keras = importlib.import_module(framework)
    if framework == "tf_keras":
        keras.backend.experimental.enable_tf_random_generator()
    chosen = {
        "none": lambda: None,
        "one device": lambda: tf.distribute.OneDeviceStrategy("/cpu:0"),
        "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "multi-worker": lambda: world.strategy,
    }[strategy]()
    keras.utils.set_random_seed(11)
    with scope(chosen):
        model = build(keras)

    def ended(step: int) -> None:
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    first = PROGRAMS[program](chosen, model, directory, steps, ended)
    variables = [*model.weights, *model.optimizer.variables]
    local = chosen.experimental_local_results if chosen else lambda value: (value,)
    values = {f"{i}.{n}": each.numpy() for i, v in enumerate(variables) for n, each in enumerate(local(tensor(v)))}
    return {"first": first, "values": digests(values)}


def tensor(variable: Any) -> Any:
    return getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable


def scope(strategy: Any) -> AbstractContextManager[Any]:
    return strategy.scope() if strategy else nullcontext()


def build(keras: Any) -> Any:
    """Build a model of which a resumed run loses something if anything is lost: statistics, dropout, slots."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((FEATURES,)),
            layers.Dense(16),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model


def examples(count: int) -> tuple[Any, Any]:
    numbers = np.random.default_rng(3).normal(size=(count * BATCH, FEATURES)).astype("float32")
    return numbers, numbers.sum(1, keepdims=True)


def gradient_step(model: Any, features: Any, wanted: Any) -> None:
    """One step of one replica. The gradients are summed over all of them."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(features, training=True) - wanted) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
    if hasattr(model.optimizer, "apply"):
        model.optimizer.apply(gradients, model.trainable_variables)
    else:
        pairs = zip(gradients, model.trainable_variables, strict=True)
        model.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def loop(strategy: Any, model: Any, directory: str, steps: int, ended: Callable[[int], None]) -> int:
    """A custom loop, with its place in a shuffled input."""
    batches = iter(tf.data.Dataset.from_tensor_slices(examples(10)).shuffle(40, seed=5).repeat().batch(BATCH))
    run = strategy.run if strategy else lambda step, arguments: step(*arguments)
    step = tf.function(lambda *batch: run(lambda *batch: gradient_step(model, *batch), batch))
    own = tf.train.Checkpoint(batches=batches)
    with holdfast.CheckpointManager(
        holdfast.keras.training_state(model), directory, per_worker=own, **OPTIONS
    ) as manager:
        manager.restore_or_initialize()
        first = done = int(model.optimizer.iterations.numpy())
        while done < steps:
            step(*next(batches))
            done += 1
            if done % EVERY == 0:
                manager.save(done)
            ended(done)
    return first


class Trainer(orbit.StandardTrainer):
    """orbit's loop over an input without a place: the same batch each time, since orbit does not save it."""

    def __init__(self, strategy: Any, model: Any, ended: Callable[[int], None]) -> None:
        self.model, self.ended, self.strategy = model, ended, strategy
        data = tf.data.Dataset.from_tensors(examples(1)).repeat()
        super().__init__(strategy.experimental_distribute_dataset(data) if strategy else data)

    def train_step(self, iterator: Any) -> None:
        batch = next(iterator)
        if self.strategy:
            self.strategy.run(lambda *batch: gradient_step(self.model, *batch), batch)
        else:
            gradient_step(self.model, *batch)

    def train_loop_end(self) -> None:
        self.ended(int(self.model.optimizer.iterations.numpy()))


def controlled(strategy: Any, model: Any, directory: str, steps: int, ended: Callable[[int], None]) -> int:
    """orbit's Controller, as it is."""
    step = model.optimizer.iterations
    with (
        holdfast.CheckpointManager(
            holdfast.keras.training_state(model), directory, step_counter=step, checkpoint_interval=EVERY, **OPTIONS
        ) as manager,
        scope(strategy),
    ):
        controller = orbit.Controller(
            strategy=strategy,
            trainer=Trainer(strategy, model, ended),
            global_step=step,
            steps_per_loop=1,
            checkpoint_manager=manager,
        )
        first = int(step.numpy())
        controller.train(steps)
    return first


def fit(strategy: Any, model: Any, directory: str, steps: int, ended: Callable[[int], None]) -> int:
    """Keras's own loop, over two epochs of a shuffled input."""
    keras = importlib.import_module(type(model).__module__.partition(".")[0])
    data = tf.data.Dataset.from_tensor_slices(examples(steps)).shuffle(40, seed=5).batch(2 * BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    begun: list[int] = []

    def step() -> int:
        return int(model.optimizer.iterations.numpy())

    batches = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begun.append(step()),
        on_train_batch_end=lambda batch, logs: ended(step()),
    )
    backup = holdfast.keras.BackupAndRestore(directory, save_freq=EVERY, **OPTIONS)
    model.fit(data.with_options(options), epochs=2, callbacks=[batches, backup], verbose=0)
    return begun[0]


PROGRAMS = {"loop": loop, "orbit": controlled, "fit": fit}
