"""The door to what the `fit` of Keras 3 and of tf_keras does not document.

A callback is told the numbers of epochs and batches, and nothing else. It sees neither the input nor the other
callbacks, and cannot have `fit` begin within an epoch. All of this is in local variables of `fit`, and in the objects
to which they refer. Every name is listed here, and looked for before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import tensorflow as tf

from holdfast.keras_internals import containers_of, is_of_tf_keras
from holdfast.tensorflow_internals import KERAS, TF_KERAS
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.internals import Internals

FIT_OF_KERAS = Internals(
    KERAS.library,
    KERAS.works_with,
    """
    keras.callbacks:CSVLogger append csv_file filename
    keras.callbacks:CallbackList _progbar callbacks
    keras.callbacks:EarlyStopping best best_epoch best_weights restore_best_weights stopped_epoch wait
    keras.callbacks:History epoch history
    keras.callbacks:ModelCheckpoint best _batches_seen_since_last_saving _last_batch_seen
    keras.callbacks:ReduceLROnPlateau best cooldown_counter wait
    keras.callbacks:SwapEMAWeights _ema_weights_in_model
    keras.src.backend.tensorflow.trainer:TFEpochIterator _distributed_dataset _enumerate_iterator()
    keras.src.backend.tensorflow.trainer:TFEpochIterator _num_batches data_adapter num_batches
    keras.src.backend.tensorflow.trainer:TFEpochIterator steps_per_epoch steps_per_execution
    keras.src.backend.tensorflow.trainer:TensorFlowTrainer _initial_epoch fit train_function
    keras.src.trainers.data_adapters.data_adapter:DataAdapter on_epoch_end()
    keras.src.trainers.data_adapters.py_dataset_adapter:PyDatasetAdapter enqueuer
    keras.src.trainers.trainer:Trainer _symbolic_build(data_batch)
    """,
)
FIT_OF_TF_KERAS = Internals(
    TF_KERAS.library,
    TF_KERAS.works_with,
    """
    tf_keras.callbacks:CSVLogger append csv_file filename
    tf_keras.callbacks:CallbackList _progbar callbacks
    tf_keras.callbacks:EarlyStopping best best_epoch best_weights restore_best_weights stopped_epoch wait
    tf_keras.callbacks:History epoch history
    tf_keras.callbacks:ModelCheckpoint best _batches_seen_since_last_saving _last_batch_seen epochs_since_last_save
    tf_keras.callbacks:ReduceLROnPlateau best cooldown_counter wait
    tf_keras.src.distribute.worker_training_state:WorkerTrainingState maybe_load_initial_counters_from_ckpt
    tf_keras.src.engine.compile_utils:LossesContainer build built
    tf_keras.src.engine.compile_utils:MetricsContainer build built
    tf_keras.src.engine.data_adapter:DataAdapter get_dataset() on_epoch_end() should_recreate_iterator()
    tf_keras.src.engine.data_adapter:DataHandler _adapter _current_step _dataset _inferred_steps inferred_steps
    tf_keras.src.engine.training:Model _steps_per_execution _training_state fit train_function
    """,
)
TABLES = (FIT_OF_KERAS, FIT_OF_TF_KERAS)

LOCALS_OF_KERAS = ("callbacks", "epoch_iterator", "epochs", "initial_epoch", "self")
LOCALS_OF_TF_KERAS = ("callbacks", "data_handler", "epochs", "initial_epoch", "iterator", "self")
"""Local variables of `fit`."""

STATE_OF_CALLBACKS = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch"),
    "History": ("history", "epoch"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen", "epochs_since_last_save"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}
"""What callbacks of either Keras keep from one hook to the next, by class.

`epochs_since_last_save` is tf_keras's alone, `SwapEMAWeights` Keras 3's.
"""


def running_fit(model: Any) -> RunningFit:
    """Return the call of `fit` of this model within which this is called, as from a callback.

    Raises InvalidRequest if there is none, or if this version of Keras has another `fit` than those known.
    """
    kind: type[RunningFit] = FitOfTfKeras if is_of_tf_keras(model) else FitOfKeras
    return kind(model)


def _code_of_fit(table: Internals, fit: Any, names: tuple[str, ...]) -> Any:
    table.check()
    code = inspect.unwrap(fit).__code__
    missing = set(names) - {*code.co_varnames, *code.co_cellvars}
    if missing:
        raise table.refusal(f"Model.fit has no local variables {', '.join(sorted(missing))}")
    return code


class RunningFit:
    """A call of `fit` that has not begun its first epoch yet.

    Attributes:
        model: the model that is fitted.
        callbacks: the list of its callbacks, which may be appended to.
        first_epoch: the number that `fit` was told to begin with. Its input begins there.
        epochs: the number before which `fit` ends.
    """

    code: Any

    def __init__(self, model: Any) -> None:
        self.model = model
        found = self._locals()
        self._told = found["callbacks"]
        self.callbacks: list[Any] = self._told.callbacks
        self.first_epoch, self.epochs = int(found["initial_epoch"]), int(found["epochs"])
        self._passed_by = False

    def _locals(self) -> Mapping[str, Any]:
        found = self._locals_if_running()
        if found is None:
            raise InvalidRequest(
                f"this callback works within Keras's own Model.fit, which {type(self.model).__name__} has replaced: "
                "save with holdfast.CheckpointManager and holdfast.keras.training_state instead"
            )
        return found

    def _locals_if_running(self) -> Mapping[str, Any] | None:
        frame = inspect.currentframe()
        while frame is not None:
            if frame.f_code is self.code and frame.f_locals.get("self") is self.model:
                return frame.f_locals
            frame = frame.f_back
        return None

    @property
    def steps(self) -> int | None:
        """How many batches an epoch has, as far as Keras knows."""
        raise NotImplementedError

    @property
    def per_execution(self) -> int:
        """How many batches pass between two hooks."""
        raise NotImplementedError

    def build(self) -> None:
        """Make the variables that the first batch would make, so that they can be restored before it."""
        raise NotImplementedError

    def begin_at(self, epoch: int, batch: int, *, trained: bool, steps: int | None, logs: Mapping[str, Any]) -> None:
        """Have `fit` begin with this batch of this epoch.

        trained: whether `batch` was the last one, so that only validation and the epoch's end are left. `fit` then goes
            through that batch again, without input and without training: it takes the epoch's logs from there.
        steps: what `steps` was.
        logs: those of the batch before.
        """
        raise NotImplementedError

    def has_begun(self) -> None:
        """Call this in the `on_epoch_begin` with which `fit` begins there."""
        self.end()

    def end(self) -> None:
        """Take back what would have the next `fit` begin there, too."""
        raise NotImplementedError

    def _repeat_end(self) -> None:
        """Have Keras come to the end of its input with the next batch, and count none until then."""
        raise NotImplementedError

    def has_passed_by(self) -> bool:
        """Return whether the batch that `fit` has just gone through was none: see `begin_at`.

        Of such a batch, only the progress bar and the last callback are told.
        """
        passed_by, self._passed_by = self._passed_by, False
        self._told.callbacks = self.callbacks
        return passed_by

    def _pass_by(self, logs: Mapping[str, Any], once_more: bool) -> None:
        """Replace the next call that trains.

        once_more: try whether there is another batch: that the last one was the last may not have been known.
        """
        train = self.model.train_function

        def train_or_pass(iterator: Any) -> Any:
            self.model.train_function = train
            running = self._locals_if_running()
            if running is None or running["callbacks"] is not self._told:
                return train(iterator)  # this `fit` was interrupted before its first batch, and is not this one
            if once_more:
                try:
                    return train(iterator)
                except (StopIteration, tf.errors.OutOfRangeError) as error:
                    # Not tried a second time: a step that finds no input moves counters and seeds on all the same.
                    self.model.train_function = partial(end, error)
                    self._repeat_end()
            self._passed_by = True
            # The others have seen the end of this batch, and may count. A progress bar fails if it has seen none.
            told = self._told._progbar, self.callbacks[-1]
            self._told.callbacks = [each for each in self.callbacks if each in told]
            return dict(logs)

        def end(error: Exception, iterator: Any) -> Any:
            self.model.train_function = train
            raise error

        self.model.train_function = train_or_pass


class FitOfKeras(RunningFit):
    """A call of Keras 3's `fit`."""

    def __init__(self, model: Any) -> None:
        from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

        self.code = _code_of_fit(FIT_OF_KERAS, TensorFlowTrainer.fit, LOCALS_OF_KERAS)
        super().__init__(model)
        self._input = self._locals()["epoch_iterator"]
        self._at_end = False

    @property
    def steps(self) -> int | None:
        steps: int | None = self._input.num_batches
        return steps

    @property
    def per_execution(self) -> int:
        return int(self._input.steps_per_execution)

    def build(self) -> None:
        if self._is_built():
            return  # under a strategy, `fit` has done it
        try:
            self.model._symbolic_build(data_batch=self._input._distributed_dataset.element_spec)
        except Exception as error:
            # As with models that have no `call`, but a `train_step` of their own. Their layers, and metrics that are no
            # metrics of `compile`, are restored when they are made.
            if not self._metrics_are_built():
                raise _unbuilt(self.model) from error

    def _is_built(self) -> bool:
        optimizer = self.model.optimizer
        return bool(self.model.built and (optimizer is None or optimizer.built) and self._metrics_are_built())

    def _metrics_are_built(self) -> bool:
        return all(each is None or each.built for each in containers_of(self.model))

    def begin_at(self, epoch: int, batch: int, *, trained: bool, steps: int | None, logs: Mapping[str, Any]) -> None:
        self.model._initial_epoch = epoch
        last, read = self._go_past(epoch - self.first_epoch, trained, steps)
        self._input._enumerate_iterator = partial(self._enumerate, batch, trained, last, read)
        if batch:
            self._pass_by(logs, once_more=not trained)

    def end(self) -> None:
        self.model._initial_epoch = None

    def _go_past(self, past: int, trained: bool, steps: int | None) -> tuple[tuple[Any, ...], int]:
        """Go through the epochs that are past, and through this one if it is trained, without reading.

        Keras's own generator makes their iterators, sometimes two for an epoch, and each moves the shuffling on.
        Returns its last item, and how many batches are to be read past because one iterator serves all epochs.
        """
        source = self._input
        adapter = source.data_adapter
        if source.steps_per_epoch is None and getattr(adapter, "enqueuer", None) is not None:
            # The threads of a PyDataset: what they read ahead in these epochs would be taken for the next one's.
            enqueuer, adapter.enqueuer = adapter.enqueuer, None
            try:
                return self._go_past(past, trained, steps)
            finally:
                adapter.enqueuer = enqueuer
        read = 0
        item: tuple[Any, ...] = ()
        if source._num_batches is None and source.steps_per_epoch is None and (past or trained):
            # Keras found out how many there are when its first epoch ended, and made one iterator until then.
            first = source._enumerate_iterator()
            item = next(first)
            first.close()
            source.data_adapter.on_epoch_end()
            source._num_batches = steps
            past -= 1
        for _ in range(past + trained):
            for each in source._enumerate_iterator():
                item = each
                read += source.steps_per_execution
        return item, 0 if source.steps_per_epoch is None else read

    def _enumerate(self, batch: int, trained: bool, item: tuple[Any, ...], read: int) -> Iterator[tuple[Any, ...]]:
        """Do once what Keras's own generator of this name does: see `_go_past` for the last two arguments."""
        source = self._input
        del source._enumerate_iterator
        left = source._enumerate_iterator()
        for _ in range(0, 0 if trained else batch, source.steps_per_execution):
            item = next(left)
            read += source.steps_per_execution
        if read:
            skip(item[-1], read)
        if trained:
            # The number of the first batch, since Keras 3.11 that of the last one, and the input.
            numbers = (batch - source.steps_per_execution, batch - 1)
            yield (*numbers[: len(item) - 1], item[-1])
            return
        for item in left:
            yield item
            if self._at_end:
                yield item  # to be met by StopIteration

    def _repeat_end(self) -> None:
        self._at_end = True


class FitOfTfKeras(RunningFit):
    """A call of tf_keras's `fit`."""

    def __init__(self, model: Any) -> None:
        from tf_keras.src.engine.training import Model

        self.code = _code_of_fit(FIT_OF_TF_KERAS, Model.fit, LOCALS_OF_TF_KERAS)
        super().__init__(model)
        self._input = self._locals()["data_handler"]
        self._to_read = 0

    @property
    def steps(self) -> int | None:
        steps: int | None = self._input.inferred_steps
        return steps

    @property
    def per_execution(self) -> int:
        return int(self.model._steps_per_execution.numpy())

    def build(self) -> None:
        model = self.model
        losses, metrics = model.compiled_loss, model.compiled_metrics
        if any(each is not None and not each.built for each in (losses, metrics)):
            try:
                batch = tf.nest.map_structure(_example, self._input._adapter.get_dataset().element_spec)
                x, y, *_ = (*batch, None) if isinstance(batch, tuple) else (batch, None)
                predicted = model(x, training=False)
                if losses is not None and not losses.built:
                    losses.build(predicted)
                if metrics is not None and not metrics.built:
                    metrics.build(predicted, y)
            except Exception as error:
                if any(each is not None and not each.built for each in containers_of(model)):
                    raise _unbuilt(model) from error
        if model.built and hasattr(model.optimizer, "build"):  # no legacy one
            model.optimizer.build(model.trainable_variables)

    def begin_at(self, epoch: int, batch: int, *, trained: bool, steps: int | None, logs: Mapping[str, Any]) -> None:
        source, past = self._input, epoch - self.first_epoch
        if source.inferred_steps is None:
            source._inferred_steps = steps  # found out at the end of the first epoch
        first = batch - 1 if trained else batch
        self.model._training_state = _Counters(epoch, first)
        if batch:
            self._pass_by(logs, once_more=not trained)
        if source._adapter.should_recreate_iterator():
            for _ in range(past):  # each moves the shuffling on; nothing is read
                iter(source._dataset)
                source._adapter.on_epoch_end()
            self._to_read = 0 if trained else batch
        else:
            self._to_read = past * (steps or 0) + batch

    def has_begun(self) -> None:
        super().has_begun()
        if self._to_read:
            skip(self._locals()["iterator"], self._to_read)

    def end(self) -> None:
        self.model._training_state = None

    def _repeat_end(self) -> None:
        self._input._current_step -= self.per_execution


class _Counters:
    """What tf_keras's `fit` asks for its first epoch and batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self._place = epoch, batch

    def maybe_load_initial_counters_from_ckpt(self, *_: Any, **__: Any) -> tuple[int, int]:
        return self._place


def skip(iterator: Any, count: int) -> None:
    """Read past so many batches, in a graph: between several workers one by one takes ten times as long."""

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def read(batches: Any) -> None:
        for _ in tf.range(batches):
            iterator.get_next()

    read(tf.constant(count))


def _example(spec: Any) -> Any:
    """Return a batch of one example. Raises ValueError if its shape is not known, by which metrics are chosen."""
    shape = [1, *spec.shape[1:]]
    if None in shape:
        raise ValueError(f"{spec} says not all of its shape")
    return tf.zeros(shape, spec.dtype)


def _unbuilt(model: Any) -> InvalidRequest:
    return InvalidRequest(
        f"the metrics of {type(model).__name__} cannot be made before its first batch, so they could not be restored: "
        "call model.evaluate on one batch before fit"
    )
