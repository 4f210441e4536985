"""What layers have learnt by `adapt` and keep in no variable, as tensors of a checkpoint.

The tensors are the thing itself: tokens in their order, numbers. Anybody can read them with `tf.train.load_variable`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from holdfast import keras_internals as internals
from holdfast.tensorflow_internals import Held


class Vocabulary(Held):
    """The tokens of a layer that looks them up, and their weights if it has such."""

    def __init__(self, layer: Any) -> None:
        super().__init__(f"the vocabulary of layer {layer.name}")
        self._layer = layer
        self._has_weights = layer.output_mode == "tf_idf"
        self._read: tuple[Any, Any, dict[str, Any]] | None = None  # from which table and weights, and what

    @classmethod
    def of(cls, layer: Any) -> Vocabulary | None:
        return cls(layer) if internals.looks_up(layer) else None

    @property
    def is_empty(self) -> bool:
        return not int(self._layer.lookup_table.size())

    def tensors(self) -> dict[str, Any]:
        layer = self._layer
        table, weights = layer.lookup_table, getattr(layer, "idf_weights_const", None)
        if self._read is None or self._read[0] is not table or self._read[1] is not weights:
            # Large vocabularies take seconds. A layer that learns others makes another table.
            self._read = (table, weights, self._tensors(weights))
        return self._read[2]

    def _tensors(self, weights: Any) -> dict[str, Any]:
        tokens = [] if self.is_empty else self._layer.get_vocabulary(include_special_tokens=True)
        with tf.device("CPU:0"):
            found = {"tokens": tf.constant(tokens, self._layer.vocabulary_dtype, (len(tokens),))}
            if self._has_weights:  # those of padding are left out
                found["weights"] = tf.zeros([0]) if weights is None else tf.cast(weights[: len(tokens)], tf.float32)
        return found

    def settle(self) -> None:
        restored, self.restored = self.restored, None
        if restored is None or not restored["tokens"].shape[0]:
            return
        # To make the same table again would cost time, and leave the old one in functions that are traced already.
        if not self.is_empty and all(map(_equal, restored.values(), self.tensors().values())):
            return
        tokens = restored["tokens"].numpy()
        vocabulary = [token.decode() for token in tokens] if tokens.dtype == object else tokens.tolist()
        if self._has_weights:
            self._layer.set_vocabulary(vocabulary, idf_weights=restored["weights"].numpy())
        else:
            self._layer.set_vocabulary(vocabulary)


class Boundaries(Held):
    """The boundaries of a Discretization layer of Keras 3, and the summary of the data from which they come."""

    def __init__(self, layer: Any) -> None:
        super().__init__(f"the boundaries of layer {layer.name}")
        self._layer = layer

    @classmethod
    def of(cls, layer: Any) -> Boundaries | None:
        """Return None for other layers, and for one whose boundaries are an argument."""
        return cls(layer) if internals.discretizes(layer) and layer.num_bins is not None else None

    @property
    def is_empty(self) -> bool:
        return self._layer.bin_boundaries is None

    def tensors(self) -> dict[str, Any]:
        boundaries = [] if self.is_empty else list(self._layer.bin_boundaries)
        with tf.device("CPU:0"):
            return {
                "boundaries": tf.constant(boundaries, tf.float64, (len(boundaries),)),
                "summary": tf.constant(self._layer.summary, tf.float32),
            }

    def settle(self) -> None:
        restored, self.restored = self.restored, None
        if restored is not None and restored["boundaries"].shape[0]:
            self._layer.bin_boundaries = restored["boundaries"].numpy().tolist()
            self._layer.summary = restored["summary"].numpy()


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a.numpy(), b.numpy())
