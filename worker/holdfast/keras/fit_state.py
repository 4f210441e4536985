"""The checkpoint of a `fit`: its model, its place, and what its callbacks remember."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from holdfast.keras.callback_states import States
from holdfast.keras.outside import outside_of_strategies
from holdfast.keras.training_state import TrainingState
from holdfast_storage.errors import InvalidRequest

_SIZE = 1 << 16  # bytes: thousands of epochs' logs. All workers' must have one size, and may remember different things


@dataclass
class Place:
    """Where a `fit` is, and what no variable holds.

    Attributes:
        epoch: the one to go on in.
        batch: how many batches of it have been trained.
        trained: whether no more of them will be, so that only validation and the epoch's end are left.
        steps: how many batches an epoch has, if Keras knows.
        count: how many batches have been trained in all epochs.
        logs: those of the last batch, in mid-epoch.
        random: the state of Python's `random` when the epoch began, or after it if it is `trained`.
        stopped: whether a callback has ended the training.
        finished: whether `fit` has come to its end, and wants the next one to begin anew.
        callbacks: the states of the callbacks.
    """

    epoch: int = 0
    batch: int = 0
    trained: bool = False
    steps: int | None = None
    count: int = 0
    logs: dict[str, Any] = field(default_factory=dict)
    random: Any = None
    stopped: bool = False
    finished: bool = False
    callbacks: States = field(default_factory=dict)


class FitState(TrainingState):
    """A `training_state` with a place, which is one more variable: a compressed text, padded."""

    def __init__(self, model: Any, best_weights: dict[str, list[Any]]) -> None:
        super().__init__(model)
        self.fit = outside_of_strategies(
            lambda: tf.Variable(np.zeros(_SIZE, np.uint8), shape=[None], trainable=False, name="fit")
        )
        self.best_weights = best_weights

    @property
    def place(self) -> Place | None:
        """What was set or restored last; None if nothing was.

        Raises InvalidRequest if what was restored is something else.
        """
        data = self.fit.numpy().tobytes()
        if not data.strip(b"\0"):
            return None
        try:
            return Place(**json.loads(zlib.decompressobj().decompress(data)))
        except (zlib.error, ValueError, TypeError) as error:
            raise InvalidRequest(
                f"the checkpoint's value `fit` was not saved by this BackupAndRestore: {error}"
            ) from None

    @place.setter
    def place(self, place: Place) -> None:
        data = zlib.compress(json.dumps(asdict(place)).encode())
        size = _SIZE
        while size < len(data):
            size *= 2
        self.fit.assign(np.frombuffer(data.ljust(size, b"\0"), np.uint8))

    def finish(self) -> None:
        """Leave nothing here but a place that says that `fit` has come to its end."""
        del self.model, self.best_weights
        self.place = Place(finished=True)

    def before_it_is_looked_at(self) -> None:
        if hasattr(self, "model"):
            super().before_it_is_looked_at()

    def read(self, save_path: Any, options: Any = None) -> Any:
        status = super().read(save_path, options)
        place = self.place
        if place is not None and place.finished:
            status.expect_partial()  # the model is to stay as it is
        return status
