"""Keras's ModelCheckpoint: each epoch's state, or the best one's, in a run of Holdfast."""

from __future__ import annotations

import inspect
import math
import os
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import tensorflow as tf

import holdfast
from holdfast.arguments import value_of
from holdfast.keras.hooks import Hooks
from holdfast.keras.outside import outside_of_strategies
from holdfast.keras.training_state import training_state
from holdfast.keras.weights import WeightsState
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.errors import CheckpointDamaged, HoldfastError, InvalidRequest, StorageError
from holdfast_storage.logger import logger
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

_log = logger("holdfast")

# In the names of metrics of which larger, or smaller, values are better.
_UP = (
    "acc",
    "auc",
    "precision",
    "recall",
    "fmeasure",
    "f1",
    "beta",
    "iou",
    "io_u",
    "r2",
    "similarity",
    "ficity",
    "tivity",
)
_DOWN = (
    "loss",
    "error",
    "mse",
    "mae",
    "mape",
    "msle",
    "entropy",
    "hinge",
    "poisson",
    "divergence",
    "cosh",
    "perplexity",
)


class ModelCheckpoint(Hooks):
    """A callback that saves the model each epoch, each so many batches or so often, or if it is better than before.

    It takes the arguments of Keras's own, in their order, for models of Keras 3 and of tf_keras. On several workers,
    each has this callback, with the same arguments; what is decided by a metric or by the time, the chief decides.

    The logs are the `metrics` of the checkpoint's manifest, and the epoch (from 1) is in its `metadata`. With
    `save_best_only`, what was the best before a restart is read from there, so that a worse one does not replace it.

    Args:
        filepath: without placeholders, the run directory, for this callback alone, which keeps the last checkpoint.
            With placeholders, such as "runs/7/model-{epoch:02d}-{val_loss:.2f}.keras", the folder is the run directory,
            which keeps all, and what stands before the first placeholder names the checkpoints: "model-2" of the second
            epoch. What Keras would have called the file is in the manifest.
        monitor: the name of the metric that tells which is the best.
        verbose: 1 prints a line for each decision.
        save_best_only: whether to save only what is better than all before. If `monitor` is not in the logs, or is NaN,
            nothing is saved.
        save_weights_only: whether to leave out what `compile` made, such as the optimizer.
        mode: "min" or "max", or "auto", which judges by the metric's name.
        save_freq: "epoch", a number of batches, or a `datetime.timedelta`, which is looked at after each batch.
        initial_value_threshold: what the first one has to be better than.
        manager: keyword arguments of `holdfast.CheckpointManager`, such as `keep` or `coordinator`.

    Attributes:
        best: the best value of `monitor` so far; None if there is none.
        manager: the `holdfast.CheckpointManager`, once training has begun.

    Raises InvalidRequest for arguments that cannot work. Whatever `CheckpointManager` raises ends the `fit`.
    """

    def __init__(  # noqa: PLR0917 - the order of arguments is Keras's
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
        initial_value_threshold: float | None = None,
        **manager: Any,
    ) -> None:
        self.filepath = os.fspath(filepath)
        directory, name, keeps_all = _run_of(self.filepath)
        self.monitor, self.verbose = monitor, verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.mode = _check_mode(mode, monitor, save_best_only)
        self.save_freq = _check_frequency(save_freq)
        self.best = initial_value_threshold
        self.manager: Any = None
        kept = {} if {"max_to_keep", "keep"} & manager.keys() else {"max_to_keep": None if keeps_all else 1}
        self._options = {"directory": directory, "checkpoint_name": name, **kept, **manager}
        inspect.signature(holdfast.CheckpointManager).bind(None, **self._options)
        for each in {"preemption", "save_every"} & manager.keys():
            raise InvalidRequest(
                f"ModelCheckpoint saves by its save_freq: give {each} to BackupAndRestore", object=each
            )
        self._saves: Any = None  # the model that the manager saves
        self._epoch = 0
        self._batches = 0  # since the last save
        self._last: Sequence[int] = (-1, -1)  # the last batch, and before it its epoch
        self._saved_at = 0.0

    def get_state(self) -> dict[str, Any]:
        """Return what BackupAndRestore saves of this callback, beside what its own run knows.

        This waits for the save in flight. A fit that goes on behind an epoch does not save the best of it once more.
        """
        if self.manager is not None:
            self.manager.wait()
        return {"batches": self._batches, "last": self._last}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on counting where a `get_state` was."""
        self._batches, self._last = state["batches"], state["last"]

    # -- what Keras calls --

    def _implements_train_batch_hooks(self) -> bool:
        return bool(self.save_freq != "epoch")

    def on_train_begin(self, logs: Any = None) -> None:
        self._saved_at, self._last = time.monotonic(), (-1, -1)
        if self._saves is not self.model:
            if self.manager is not None:
                self.manager.close()
            self._saves = self.model
            state = (WeightsState if self.save_weights_only else training_state)(self.model)
            outside_of_strategies(lambda: state.save_counter)
            self.manager = holdfast.CheckpointManager(state, **self._options)
            if self.save_best_only:
                self._recall()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.save_freq == "epoch":
            self._consider(logs, number=epoch + 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras tells of every batch, or of the last of several.
        epoch, last = self._last
        self._batches += batch - last if epoch == self._epoch else batch + 1
        self._last = (self._epoch, batch)
        if self._is_due():
            self._batches, self._saved_at = 0, time.monotonic()
            iterations = getattr(self.model.optimizer, "iterations", None)
            self._consider(logs, None if iterations is None else value_of(iterations), batch)

    def on_train_end(self, logs: Any = None) -> None:
        self.manager.wait()

    # -- decisions --

    def _is_due(self) -> bool:
        if not isinstance(self.save_freq, timedelta):
            return bool(self.save_freq != "epoch" and self._batches >= self.save_freq)
        every = self.save_freq.total_seconds()
        (due,) = self._ask_chief(lambda: [time.monotonic() - self._saved_at >= every])
        return bool(due)

    def _consider(self, logs: Any, number: int | None, batch: int | None = None) -> None:
        """Save, if this is worth it. `number` is the checkpoint's."""
        metrics = dict(_numbers(logs or {}))
        why = ""
        if self.save_best_only:
            if self.monitor not in metrics:
                known = ", ".join(metrics)
                _log.warning("only the best is saved, by %s, and the logs do not have it: %s", self.monitor, known)
            before = self.best
            better, value = self._ask_chief(lambda: self._judge(metrics), 2)
            if not better:
                self._tell(f"{self.monitor} did not improve from {before}")
                return
            self.best = value
            why = f"{self.monitor} improved from {before} to {value:.5f}, "
        place = {"epoch": self._epoch + 1} if batch is None else {"epoch": self._epoch + 1, "batch": batch + 1}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        metadata = {**place, "filepath": self._formatted({**place, **metrics})}
        path = self.manager.save(number, metadata=metadata, metrics=finite)
        self._tell(f"{why}saving model to {path}")

    def _judge(self, metrics: Mapping[str, float]) -> tuple[bool, float]:
        value = metrics.get(self.monitor, math.nan)
        if self.best is None:
            return not math.isnan(value), value
        return (value > self.best if self.mode == "max" else value < self.best), value

    def _formatted(self, values: Mapping[str, float]) -> str:
        try:
            return self.filepath.format(**values)
        except (KeyError, ValueError, IndexError) as error:
            # No error, which this worker might raise alone: the name is for people.
            _log.warning("filepath %r cannot be filled in with %s: %r", self.filepath, ", ".join(values), error)
            return self.filepath

    def _tell(self, what: str) -> None:
        if self.verbose > 0:
            print(f"\nEpoch {self._epoch + 1}: {what}")

    def _recall(self) -> None:
        """Take up what was the best before a restart. All workers learn it from the chief."""
        failed, value = self._ask_chief(self._best_of_run, 2)
        if failed:
            raise StorageError(f"the chief could not read what is the best in {self.manager.directory}: see its log")
        better, value = self._judge({self.monitor: value})
        if better:
            self.best = value

    def _best_of_run(self) -> tuple[bool, float]:
        """Return whether the run cannot be read, and the best value of `monitor` in it, or NaN."""
        found = []
        try:
            store = open_store(self.manager.directory, self._options.get("storage_options"))
            state = read_run(store)
            for record in state.restorable if state else ():
                with suppress(CheckpointDamaged):  # which a restore would tell
                    value = None if record.stock else read_manifest(store, record).metrics.get(self.monitor)
                    if isinstance(value, int | float):
                        found.append(float(value))
        except HoldfastError as error:
            _log.warning("%s", error)
            return True, math.nan
        return False, (max if self.mode == "max" else min)(found, default=math.nan)

    def _ask_chief(self, ask: Callable[[], Sequence[float]], count: int = 1) -> Sequence[float]:
        """Return so many numbers that `ask` returns on the chief. This call is collective.

        Logs are the same on all workers if Keras computed them, but a callback before this one may have added its own.
        If one worker saved alone, all would wait for ever.
        """
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return ask()

        def value(context: Any) -> Any:
            numbers = ask() if context.replica_id_in_sync_group == 0 else [0.0] * count
            return tf.constant([float(each) for each in numbers], tf.float64)

        values = strategy.experimental_distribute_values_from_function(value)
        told: list[float] = strategy.reduce("SUM", values, axis=None).numpy().tolist()
        return told


def _numbers(logs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in logs.items():
        with suppress(TypeError, ValueError):
            if np.ndim(value) == 0:
                yield name, float(value)


def _run_of(filepath: str) -> tuple[str, str, bool]:
    """Return the run directory, the checkpoints' name, and whether each is to be kept."""
    folder, _, last = filepath.rpartition("/")
    try:
        parts = list(string.Formatter().parse(last))
        inside = any(field is not None for _, field, _, _ in string.Formatter().parse(folder))
    except ValueError as error:
        raise InvalidRequest(
            f"filepath {filepath!r} has a placeholder that is none: {error}", object="filepath"
        ) from None
    if inside:
        raise InvalidRequest(
            f"filepath {filepath!r} has a placeholder in its folder, which is the run directory of all checkpoints: "
            "placeholders may stand in the last part",
            object="filepath",
        )
    if all(field is None for _, field, _, _ in parts):
        return filepath, "ckpt", False
    return folder or ".", parts[0][0].rstrip("-_. ") or "ckpt", True


def _check_mode(mode: str, monitor: str, is_needed: bool) -> str:
    if mode not in ("auto", "min", "max"):
        raise InvalidRequest(f"mode is {mode!r}: it must be 'auto', 'min' or 'max'", object="mode")
    name = monitor.lower()
    up, down = (any(word in name for word in words) for words in (_UP, _DOWN))
    if mode == "auto" and is_needed and up == down:
        raise InvalidRequest(
            f"mode is 'auto', and the name of the metric {monitor!r} does not say which values are better: pass 'min' "
            "or 'max'",
            object="mode",
        )
    return ("max" if up else "min") if mode == "auto" else mode


def _check_frequency(save_freq: Any) -> Any:
    if save_freq == "epoch" or (isinstance(save_freq, timedelta) and save_freq > timedelta(0)):
        return save_freq
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq
    raise InvalidRequest(
        f"save_freq is {save_freq!r}: it must be 'epoch', a number of batches or a datetime.timedelta",
        object="save_freq",
    )
