"""One `fit` that is saved and gone on with: the last callback in its list, behind all others."""

from __future__ import annotations

import math
import os
import random
from typing import Any

import holdfast
from holdfast.fit_internals import running_fit
from holdfast.keras.callback_states import CallbackStates, as_plain
from holdfast.keras.fit_state import FitState, Place
from holdfast.keras.hooks import Hooks
from holdfast.trackables import local_components, variable_of
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.logger import logger

_log = logger("holdfast")


class Fitting(Hooks):
    """Saves one `fit` of a model, after all other callbacks have seen a batch or an epoch, and has it go on.

    It is made, and its `begin` called, while `fit` calls `on_train_begin` of its callbacks.
    """

    def __init__(self, model: Any, save_freq: Any, delete_checkpoint: bool) -> None:
        self.model = model
        self._every = 0 if save_freq == "epoch" else int(save_freq)  # batches
        self._by_epoch = save_freq == "epoch"
        self._delete_checkpoint = delete_checkpoint
        self._fit = running_fit(model)
        self._place = Place(self._fit.first_epoch)
        self._resumed: Place | None = None
        self._manager: Any = None
        self._last_save = 0
        self._first_of_execution = 0
        self._logs: Any = None

    def begin(self, directory: str | os.PathLike[str], **options: Any) -> None:
        """Restore what is there, and have `fit` begin at its place. This call is collective."""
        fit, model = self._fit, self.model
        fit.build()
        self._callbacks = CallbackStates(fit.callbacks, model)
        self._state = FitState(model, self._callbacks.best_weights)
        self._manager = holdfast.CheckpointManager(self._state, directory, **options)
        restored = self._manager.restore_or_initialize()
        place = self._state.place
        if restored and place is None:
            raise InvalidRequest(
                f"{restored} was saved by another program than BackupAndRestore: give it a backup_dir of its own",
                object=restored,
            )
        fit.callbacks.append(self)  # in the list that `fit` is going through: its `on_train_begin` is called as well
        if place is None or place.finished:
            return
        if place.epoch < fit.first_epoch:
            raise InvalidRequest(
                f"initial_epoch is {fit.first_epoch}, and the fit that was saved goes on in epoch {place.epoch}: leave "
                "initial_epoch as it was, or give the callback another backup_dir",
                object="initial_epoch",
            )
        self._fit_to(place, fit.steps)
        self._place = self._resumed = place
        self._last_save = place.count
        self._metrics = _read_all(_metric_variables(model))
        self._rates = _read_all(_learning_rates(model))
        if place.stopped and not place.batch:
            _log.warning("a callback had ended the training of %s: it does not go on", restored)
            fit.begin_at(fit.epochs, 0, trained=False, steps=place.steps, logs={})
            return
        _log.info("fit goes on in epoch %d, after %d batches of it", place.epoch, place.batch)
        fit.begin_at(place.epoch, place.batch, trained=place.trained, steps=place.steps, logs=place.logs)

    @staticmethod
    def _fit_to(place: Place, steps: int | None) -> None:
        """Warn if epochs now have another number of batches, and go back to the last one if there are fewer."""
        if not place.batch or steps is None or place.steps in (None, steps):
            return
        _log.warning(
            "epoch %d had %s batches when %d of them were trained, and has %d now: some of its examples are trained "
            "twice, or not at all. The next epoch is a whole one",
            place.epoch,
            place.steps,
            place.batch,
            steps,
        )
        place.steps, place.batch = steps, min(place.batch, steps)
        place.trained = place.trained or place.batch == steps

    def abandon(self) -> None:
        """Close what an exception in `fit` has left open."""
        try:
            if self._manager is not None:
                self._manager.close()
        except HoldfastError as error:
            _log.warning("%s", error)

    # -- while `fit` goes on --

    def on_train_begin(self, logs: Any = None) -> None:
        if self._resumed is not None:
            self._callbacks.set(self._resumed.callbacks)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._place.epoch = epoch
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            self._place.random = random.getstate()
            return
        # Keras shuffles a PyDataset or Sequence by Python's own generator, when an epoch reads its first batch.
        version, state, gauss = self._place.random
        random.setstate((version, tuple(state), gauss))
        self._fit.has_begun()
        if resumed.batch:
            # Within an epoch: `fit` and the callbacks have just begun it anew.
            _write_all(_metric_variables(self.model), self._metrics)
            _write_all(_learning_rates(self.model), self._rates)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first_of_execution = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._fit.has_passed_by():
            self.model.stop_training = self._place.stopped
            return
        # Not by `batch`: before Keras 3.11, this is the first one of an execution, too.
        place, steps = self._place, self._fit.steps
        done = self._first_of_execution + self._fit.per_execution
        done = done if steps is None else min(done, steps)
        place.count += done - place.batch
        place.stopped = bool(self.model.stop_training)  # then `fit` takes no more batches of this epoch
        place.batch, place.trained = done, done == steps or place.stopped
        self._logs = logs
        if self._every and place.count - self._last_save >= self._every:
            self._save(logs)
        self._manager.save_if_requested(place.count, before=self._note)

    def on_test_begin(self, logs: Any = None) -> None:
        self._place.trained = True
        self._metrics = _read_all(_metric_variables(self.model))  # before validation begins them anew

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        variables, now = _metric_variables(self.model), list[Any]()

        def note() -> None:
            now.extend(_read_all(variables))
            _write_all(variables, self._metrics)
            self._note()

        if self._manager.save_if_requested(self._place.count, before=note):
            _write_all(variables, now)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._place.epoch, self._place.batch, self._place.trained, self._logs = epoch + 1, 0, False, None
        self._place.stopped = bool(self.model.stop_training)
        self._place.random = random.getstate()
        if self._by_epoch:
            self._save(logs)
        self._manager.save_if_requested(self._place.count, before=self._note)

    def on_train_end(self, logs: Any = None) -> None:
        self._fit.callbacks.remove(self)
        self._fit.end()
        if self._delete_checkpoint:
            self._state.finish()
            self._manager.save(self._place.count, blocking=True)
        self._manager.close()

    # -- saving --

    def _save(self, logs: Any) -> None:
        self._note()
        self._manager.save(
            self._place.count,
            metadata={"epoch": self._place.epoch, "batch": self._place.batch},
            metrics=_numbers(logs),
        )
        self._last_save = self._place.count

    def _note(self) -> None:
        place = self._place
        place.steps = self._fit.steps
        if place.trained:
            place.random = random.getstate()  # the epoch's first batch is not read again
        place.logs = as_plain("the logs of a batch", self._logs or {})
        place.callbacks = self._callbacks.get()
        self._state.place = place


def _metric_variables(model: Any) -> list[Any]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _learning_rates(model: Any) -> list[Any]:
    """Return the learning rates that are variables, and no schedules."""
    optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
    rates = [getattr(each, "learning_rate", None) for each in optimizers]
    return [each for each in rates if hasattr(each, "assign")]


def _read_all(variables: list[Any]) -> list[list[Any]]:
    """Return the values of all local replicas."""
    return [[each.numpy() for each in local_components(variable_of(variable))] for variable in variables]


def _write_all(variables: list[Any], values: list[list[Any]]) -> None:
    for variable, of_replicas in zip(variables, values, strict=True):
        for component, value in zip(local_components(variable_of(variable)), of_replicas, strict=True):
            component.assign(value)


def _numbers(logs: Any) -> dict[str, float]:
    """Return the logs that a manifest can hold."""
    plain = as_plain("the logs", logs or {})
    return {name: each for name, each in plain.items() if isinstance(each, int | float) and math.isfinite(each)}
