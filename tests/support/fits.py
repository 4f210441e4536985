"""A `fit` of Keras 3 or tf_keras that can be ended at any batch and begun again, as a new process would."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import holdfast.keras

EXAMPLES, BATCH = 50, 10
STEPS = EXAMPLES // BATCH


ARGUMENTS = ("save_freq", "delete_checkpoint")


class Killed(Exception):
    """Stands for the end of a process: nothing after it is done, not even `on_train_end`."""


@dataclass
class Seen:
    """What one or more processes have seen, one after the other.

    Attributes:
        batches: of each that was trained: epoch, number, and loss after it. What is repeated since the last save is
            listed again.
        epochs: the logs of each epoch.
    """

    batches: list[tuple[int, int, float]] = field(default_factory=list)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)

    def kept(self) -> dict[tuple[int, int], float]:
        """The loss by epoch and batch, as it was the last time."""
        return {(epoch, batch): loss for epoch, batch, loss in self.batches}


@dataclass(frozen=True)
class Program:
    """A program with one `fit`.

    Attributes:
        library: "keras" or "tf_keras".
        directory: for its checkpoints and files.
        options: what differs from test to test, by names that say what.
    """

    library: str
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)

    def but(self, directory: Path | None = None, **options: Any) -> Program:
        return replace(self, directory=directory or self.directory, options={**self.options, **options})

    def run(self, seen: Seen, kill_at: int = 0, in_validation: bool = False) -> dict[str, Any]:
        """Build all anew, and fit. Raises Killed after so many batches.

        Returns all that is to be equal to another run.
        """
        keras = importlib.import_module(self.library)
        keras.utils.set_random_seed(11)
        if self.library == "tf_keras":
            keras.backend.experimental.enable_tf_random_generator()
        with self.options.get("scope", contextlib.nullcontext)():
            model = self.options.get("model", self._model)(keras)
        recorder = _recorder(keras, model, seen, kill_at, in_validation)
        others = self._others(keras)
        arguments = {"save_freq": 3, **{name: self.options[name] for name in ARGUMENTS if name in self.options}}
        backup = holdfast.keras.BackupAndRestore(self.directory / "run", **arguments)
        history = model.fit(
            self.options.get("make_input", self._input)(keras),
            epochs=self.options.get("epochs", 3),
            initial_epoch=self.options.get("initial_epoch", 0),
            steps_per_epoch=self.options.get("steps_per_epoch"),
            validation_data=self.options.get("validation", _validation()),
            callbacks=[backup, *others, recorder],
            shuffle=self.options.get("shuffle", False),  # Keras warns of it with a dataset
            verbose=self.options.get("verbose", 0),
        )
        weights = [np.asarray(each) for each in model.get_weights()]
        optimizer = model.optimizer.variables
        optimizer = [np.asarray(each) for each in (optimizer() if callable(optimizer) else optimizer)]
        states = {type(each).__name__: _public(each) for each in others}
        return {
            "weights": weights,
            "optimizer": optimizer,
            "history": history.history,
            "epochs": history.epoch,
            "callbacks": states,
        }

    def run_until_done(self, kills: list[int], **more: Any) -> tuple[dict[str, Any], Seen]:
        """Run, with a kill after each of these numbers of batches, and then to the end."""
        seen = Seen()
        for kill in kills:
            try:
                self.run(seen, kill, **more)
                raise AssertionError(f"it ended before its {kill}th batch")
            except Killed:
                pass
        return self.run(seen), seen

    def model(self) -> Any:
        return self._model(importlib.import_module(self.library))

    def _input(self, keras: Any) -> Any:
        values = np.random.RandomState(0).rand(EXAMPLES, 6).astype(np.float32)
        labels = (values.sum(1) * 3).astype(np.int32) % 4
        found = tf.data.Dataset.from_tensor_slices((values, labels)).shuffle(64, seed=5).batch(BATCH)
        return self.options.get("input", lambda each: each)(found)

    def _model(self, keras: Any) -> Any:
        layers = keras.layers
        entry = keras.Input((6,)) if self.library == "keras" else layers.InputLayer((6,))
        model = keras.Sequential(
            [
                entry,
                layers.Dense(8, activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.3),
                layers.Dense(4),
            ]
        )
        rate = self.options.get("rate", lambda keras: 0.01)(keras)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        per_execution = self.options.get("steps_per_execution", 1)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], steps_per_execution=per_execution)
        return model

    def _others(self, keras: Any) -> list[Any]:
        monitor = self.options.get("monitor", "val_loss")
        plateau = keras.callbacks.ReduceLROnPlateau(monitor, factor=0.5, patience=1, min_delta=0.05)
        return [
            keras.callbacks.EarlyStopping(monitor, patience=2, restore_best_weights=True),
            *([] if "rate" in self.options else [plateau]),
            *(make(keras) for make in self.options.get("others", ())),
        ]


def same(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return what differs between the results of two runs, in any bit."""
    different = []
    for name, value in one.items():
        if name in ("weights", "optimizer"):
            equal = len(value) == len(other[name]) and all(map(np.array_equal, value, other[name]))
        else:
            equal = value == other[name]
        different += [] if equal else [f"{name}: {value} and {other[name]}"]
    return different


def _validation() -> Any:
    values = np.random.RandomState(1).rand(40, 6).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((values, (values.sum(1) * 3).astype(np.int32) % 4)).batch(BATCH)


def _public(callback: Any) -> dict[str, Any]:
    kinds = (int, float, bool, str, type(None))
    return {name: value for name, value in vars(callback).items() if isinstance(value, kinds)}


def _recorder(keras: Any, model: Any, seen: Seen, kill_at: int, in_validation: bool) -> Any:
    class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
        """Dies before the batch that comes after `kill_at` of them, when the callback that saves has seen that one."""

        epoch = count = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.die_if_due(not in_validation)

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.die_if_due(in_validation)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.count += 1
            seen.batches.append((self.epoch, int(batch), float(logs["loss"])))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.epochs[epoch] = {name: float(value) for name, value in logs.items()}
            self.die_if_due(not in_validation)

        def die_if_due(self, now: bool) -> None:
            if now and kill_at and self.count >= kill_at:
                raise Killed

    return Recorder()
