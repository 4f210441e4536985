"""`holdfast.keras.ModelCheckpoint` keeps the model of each epoch, or of the best one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import holdfast
from holdfast.keras import BackupAndRestore, ModelCheckpoint, training_state
from holdfast_storage.checkpoint.manifest import Manifest, read_manifest
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.keras_release import needs_last_batch
from support.two_cpus import DEVICES

pytestmark = pytest.mark.tensorflow

X = np.random.RandomState(0).randn(32, 4).astype(np.float32)
Y = X.sum(1, keepdims=True)

open_callbacks: list[ModelCheckpoint] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while open_callbacks:
        callback = open_callbacks.pop()
        if callback.manager is not None:
            callback.manager.close()


def made(*args: Any, **kwargs: Any) -> ModelCheckpoint:
    open_callbacks.append(ModelCheckpoint(*args, **kwargs))
    return open_callbacks[-1]


def a_model(library: Any = keras, rate: float = 0.01) -> Any:
    library.utils.set_random_seed(7)
    layers = library.layers
    (scaled := layers.Normalization()).adapt(X)
    model = library.Sequential(
        [layers.InputLayer((4,)), scaled, layers.Dense(8), layers.BatchNormalization(), layers.Dense(1)]
    )
    model.compile(library.optimizers.SGD(rate), "mse", metrics=["mae"])
    return model


def begun(callback: ModelCheckpoint, model: Any = None) -> ModelCheckpoint:
    """As `fit` begins. A test then calls what `fit` calls."""
    callback.set_model(model or a_model())
    callback.on_train_begin()
    return callback


def epochs(callback: ModelCheckpoint, *values: Any, monitor: str = "val_loss") -> None:
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"loss": 1.0, monitor: value})
    callback.on_train_end()


def manifests(directory: Any) -> list[Manifest]:
    store = open_store(str(directory))
    state = read_run(store)
    return [read_manifest(store, record) for record in state.restorable] if state else []


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_the_best_is_remembered_after_a_restart(tmp_path: Path, library: Any) -> None:
    """`fit` keeps the best epoch, with its logs, and a worse one of the next process does not replace it. Guards
    against a restart that forgets what was best."""
    path = tmp_path / "best"
    first = made(path, save_best_only=True)
    history = a_model(library).fit(X, Y, validation_data=(X, Y), epochs=3, callbacks=[first], verbose=0).history
    best = min(history["val_loss"])
    assert first.best == pytest.approx(best)
    (kept,) = manifests(path)
    assert kept.metrics == pytest.approx({name: values[-1] for name, values in history.items()})
    assert kept.metadata == {"epoch": 3, "filepath": str(path)}
    assert kept.step == 3
    first.manager.close()

    second = made(path, save_best_only=True)
    worse = a_model(library, rate=0.0)
    worse.fit(X, Y, validation_data=(X, Y), epochs=2, callbacks=[second], verbose=0)
    assert second.best == pytest.approx(best)
    assert manifests(path) == [kept]


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_weights_alone_are_read_by_tensorflow(tmp_path: Path, library: Any) -> None:
    """`save_weights_only` leaves out optimizer and metrics, and whoever reads weights gets them. Guards against keys
    that fit nothing but the same program."""
    model = a_model(library)
    model.fit(X, Y, callbacks=[made(tmp_path, save_weights_only=True)], verbose=0)
    prefix = tf.train.latest_checkpoint(str(tmp_path))
    values = [key for key, _ in tf.train.list_variables(prefix) if key.endswith("VARIABLE_VALUE")]
    assert len(values) == len(model.weights) + 1, "the weights and the save counter"

    def check(how: Any) -> None:
        fresh = library.models.clone_model(model)
        how(fresh)
        np.testing.assert_array_equal(fresh.predict(X, verbose=0), model.predict(X, verbose=0))

    check(lambda fresh: tf.train.Checkpoint(model=fresh).restore(prefix).expect_partial())
    check(lambda fresh: tf.train.Checkpoint(fresh).restore(prefix).expect_partial())
    if library is tf_keras:
        check(lambda fresh: fresh.load_weights(prefix))
    with holdfast.CheckpointManager(training_state(fresh := a_model(library)), tmp_path) as manager:
        manager.restore().expect_partial()
        np.testing.assert_array_equal(fresh.predict(X, verbose=0), model.predict(X, verbose=0))


def test_weights_of_any_name_are_saved(tmp_path: Path) -> None:
    """Layers may go by the names of a checkpoint's own methods. Guards against a layer that is called to write."""

    class Named(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.write = self.model = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.write(x)

    model, fresh = Named(), Named()
    for each in (model, fresh):
        each.compile("sgd", "mse")
        each(X)
    model.fit(X, Y, callbacks=[made(tmp_path, save_weights_only=True)], verbose=0)
    tf.train.Checkpoint(model=fresh).restore(tf.train.latest_checkpoint(str(tmp_path))).expect_partial()
    np.testing.assert_array_equal(fresh.predict(X, verbose=0), model.predict(X, verbose=0))


def test_placeholders_name_the_checkpoints(tmp_path: Path) -> None:
    """The folder is the run, the start of the last part the name, and all checkpoints are kept, each with the name that
    Keras would have given it. Guards against a run for each epoch, and against the loss of all but the last."""
    path = tmp_path / "run" / "model-{epoch:02d}-{val_loss:.2f}.keras"
    epochs(begun(made(path)), 0.75, 0.5)
    found = manifests(tmp_path / "run")
    assert [each.prefix.rpartition("/")[2] for each in found] == ["model-1", "model-2"]
    assert [each.metadata["filepath"] for each in found] == [
        str(tmp_path / "run" / name) for name in ("model-01-0.75.keras", "model-02-0.50.keras")
    ]


def test_without_placeholders_the_last_is_kept(tmp_path: Path) -> None:
    """As Keras overwrites its file. Guards against a disk that fills up."""
    epochs(begun(made(tmp_path / "last.keras")), 0.5, 0.75)
    assert [each.step for each in manifests(tmp_path / "last.keras")] == [2]


def test_the_caller_decides_what_to_keep(tmp_path: Path) -> None:
    """`keep` overrides what the path says: each epoch is saved, and the best are kept beside the newest. Guards against
    a callback whose own rule wins."""
    keep = holdfast.keep.newest(1) | holdfast.keep.best(1, "val_loss")
    epochs(begun(made(tmp_path, keep=keep)), 0.75, 0.5, 0.6, 0.7)
    assert [each.step for each in manifests(tmp_path)] == [2, 4]


@pytest.mark.parametrize(
    ("options", "values", "saved"),
    [
        ({}, (0.5, 0.6, 0.4), [1, 3]),
        ({"mode": "max"}, (0.5, 0.6, 0.4), [1, 2]),
        ({"monitor": "val_accuracy"}, (0.5, 0.6, 0.4), [1, 2]),
        ({"initial_value_threshold": 0.45}, (0.5, 0.6, 0.4), [3]),
        ({}, (float("nan"), 0.6, float("inf"), float("nan"), 0.5), [2, 5]),
        ({}, (float("inf"), 0.6), [1, 2]),
    ],
    ids=["auto", "max", "auto, by the name", "a threshold", "not a number", "infinite"],
)
def test_only_what_is_better_is_saved(tmp_path: Path, options: Any, values: Any, saved: list[int]) -> None:
    """Each epoch that is better than all before is saved. Guards against NaN as the best, which nothing is better than,
    and against a manifest that cannot hold it."""
    callback = begun(made(tmp_path, save_best_only=True, max_to_keep=None, **options))
    epochs(callback, *values, monitor=options.get("monitor", "val_loss"))
    assert [each.step for each in manifests(tmp_path)] == saved


def test_two_replicas_decide_as_one(tmp_path: Path) -> None:
    """Under MirroredStrategy, a value that is not a number, a best that is infinite, and all digits of a value come
    through. Guards against a sum over the replicas that makes another number of them."""
    with tf.distribute.MirroredStrategy(DEVICES).scope():
        model = a_model()
    callback = begun(made(tmp_path, save_best_only=True, max_to_keep=None), model)
    epochs(callback, float("nan"), float("inf"), 1 / 3, 1 / 3)
    assert callback.best == 1 / 3
    assert [each.step for each in manifests(tmp_path)] == [2, 3]


def test_without_the_metric_nothing_is_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the monitored metric is missing, a warning says so. Guards against a model in the place of the best that
    nobody has judged."""
    callback = begun(made(tmp_path, save_best_only=True))
    epochs(callback, 0.5)
    callback.on_epoch_end(1, {"loss": 0.1, "words": "none", "each": np.ones(3)})
    assert "only the best is saved, by val_loss, and the logs do not have it: loss" in caplog.text
    callback.on_train_end()
    assert [each.step for each in manifests(tmp_path)] == [1]


def test_the_best_of_all_that_is_left_counts(tmp_path: Path) -> None:
    """At a restart, the best of all checkpoints counts, not the newest; those without the metric do not. Guards against
    a run whose epochs were all saved first."""
    callback = begun(made(tmp_path, max_to_keep=None))
    epochs(callback, 0.75, 0.5, 0.6)
    callback.on_epoch_end(3, {"loss": 0.1})
    callback.manager.close()
    assert begun(made(tmp_path, save_best_only=True)).best == 0.5
    assert begun(made(tmp_path, save_best_only=True, initial_value_threshold=0.4)).best == 0.4
    assert begun(made(tmp_path, save_best_only=True, mode="max")).best == 0.75


def test_a_run_that_cannot_be_read_ends_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the best is not known, training does not begin. Guards against a worse model in its place."""
    epochs(begun(made(tmp_path)), 0.5)

    def refuse(store: Any) -> Any:
        raise StorageError("no answer")

    monkeypatch.setattr("holdfast.keras.model_checkpoint.read_run", refuse)
    with pytest.raises(StorageError, match="could not read what is the best"):
        begun(made(tmp_path, save_best_only=True))


@pytest.mark.parametrize("executed", [1, pytest.param(2, marks=needs_last_batch)], ids=["each batch", "two at a time"])
def test_batches_are_counted_over_epochs(tmp_path: Path, executed: int) -> None:
    """With a number as `save_freq`, a save comes after so many batches, across the ends of epochs. Guards against a
    count that begins anew each epoch, and against one of calls, where Keras calls once for several batches."""
    model = a_model()
    model.compile("sgd", "mse", steps_per_execution=executed)
    model.fit(X, Y, batch_size=8, epochs=3, callbacks=[made(tmp_path, save_freq=6, max_to_keep=None)], verbose=0)
    found = manifests(tmp_path)
    assert [each.step for each in found] == [6, 12]  # of 3 x 4
    assert [(each.metadata["epoch"], each.metadata["batch"]) for each in found] == [(2, 2), (3, 4)]


def test_another_fit_is_counted_as_well(tmp_path: Path) -> None:
    """The count goes over the ends of `fit` too. Guards against a second `fit` of the same epochs that counts back."""
    callback = made(tmp_path, save_freq=3, max_to_keep=None)
    model = a_model()
    for _ in range(3):
        model.fit(X, Y, batch_size=16, epochs=1, callbacks=[callback], verbose=0)
    assert [each.step for each in manifests(tmp_path)] == [3, 6]


def test_the_count_goes_on_after_a_restart(tmp_path: Path) -> None:
    """With BackupAndRestore beside it, the saves after a restart come where they would have come. Guards against a
    count that begins anew."""

    class Fails(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations.numpy() == 5:
                raise ArithmeticError

    for restarted in (False, True):
        # The last backup is at the last batch of the first epoch.
        keeper = made(tmp_path / "kept", save_freq=3, max_to_keep=None)
        backup = BackupAndRestore(tmp_path / "backup", save_freq=2)
        others = [] if restarted else [Fails()]
        with nullcontext() if restarted else pytest.raises(ArithmeticError):
            a_model().fit(X, Y, batch_size=8, epochs=3, callbacks=[keeper, backup, *others], verbose=0)
    assert [each.step for each in manifests(tmp_path / "kept")] == [3, 6, 9, 12]


def test_a_fit_does_not_go_on_behind_what_may_be_lost(tmp_path: Path) -> None:
    """When BackupAndRestore saves, what this callback has saved is committed. Guards against a kill after which the fit
    goes on behind the best epoch, and nobody has that epoch's model."""
    callback = begun(made(tmp_path, save_best_only=True))
    callback.on_epoch_end(0, {"val_loss": 0.5})
    callback.get_state()
    assert [each.metrics["val_loss"] for each in manifests(tmp_path)] == [0.5]


def test_a_time_is_looked_at_after_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a time as `save_freq`, the first batch that ends so much later than the last save is followed by one. Guards
    against saves by the epoch alone, however long it takes."""
    now = [0.0]
    monkeypatch.setattr("holdfast.keras.model_checkpoint.time.monotonic", lambda: now[0])
    callback = made(tmp_path, save_freq=timedelta(seconds=10), max_to_keep=None)
    begun(callback)
    for batch, seconds in enumerate((4.0, 9.9, 10.0, 15.0, 21.0)):
        now[0] = seconds
        callback.on_train_batch_end(batch, {"loss": 1.0})
    callback.on_train_end()
    assert [each.metadata["batch"] for each in manifests(tmp_path)] == [3, 5]


def test_what_is_decided_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verbose=1` prints a line for each decision. Guards against silence about what was kept."""
    epochs(begun(made(tmp_path, save_best_only=True, verbose=1)), 0.5, 0.75)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith(f"Epoch 1: val_loss improved from None to 0.50000, saving model to {tmp_path}/ckpt-1.")
    assert lines[1] == "Epoch 2: val_loss did not improve from 0.5"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"filepath": "runs/{epoch}/model.keras"}, "placeholder in its folder"),
        ({"filepath": "runs/model-{epoch"}, "expected '}'"),
        ({"save_freq": 0}, "save_freq is 0"),
        ({"save_freq": True}, "save_freq is True"),
        ({"save_freq": timedelta(0)}, "save_freq is datetime"),
        ({"save_every": timedelta(minutes=1)}, "give save_every to BackupAndRestore"),
        ({"mode": "least"}, "mode is 'least'"),
        ({"monitor": "val_score", "save_best_only": True}, "does not say which values are better"),
    ],
)
def test_what_cannot_work_is_refused(arguments: Any, told: str) -> None:
    """At once, and not at the first save. Guards against a night of training without a checkpoint."""
    with pytest.raises(InvalidRequest, match=told):
        ModelCheckpoint(**{"filepath": "run", **arguments})


def test_arguments_that_nobody_knows_are_refused() -> None:
    """Guards against a misspelled argument, and against one of tf_keras that has no meaning here."""
    with pytest.raises(TypeError, match="period"):
        ModelCheckpoint("run", period=2)


def test_a_placeholder_that_no_log_fills_in_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoint does not depend on it, so it is saved. Guards against a worker that ends alone, and against
    silence."""
    epochs(begun(made(tmp_path / "{epoch}-{val_auc:.2f}.keras")), 0.5)
    assert "cannot be filled in with epoch, loss, val_loss: KeyError('val_auc')" in caplog.text
    assert [each.step for each in manifests(tmp_path)] == [1]
