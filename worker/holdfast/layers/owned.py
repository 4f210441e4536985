"""What a layer owns itself, under names that are the same in every equal model.

A name has a hyphen, which no attribute can have: `layer-2`, `weight-0`, `state-0`, `seed_generator-0`, `metric-0-1`,
`vocabulary-0`. Names count within the owner, in order of creation, which does not change when more is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from holdfast import keras_internals as internals
from holdfast.layers.adapted import Boundaries, Vocabulary
from holdfast.layers.own import Own

DRAWN = re.compile(r"(seed_generator|random_generator)-\d+")
METRIC = re.compile(r"(compiled_)?metric-\d+-\d+")
OURS = re.compile(
    r"(weight|state|layer|seed_generator|random_generator|(compiled_)?metric|vocabulary|boundaries|own)-\d+(-\d+)?"
)
_HELD = {"vocabulary-0": Vocabulary, "boundaries-0": Boundaries, "own-0": Own}


def owned(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield all of it, as far as it exists."""
    for kind, values in internals.owned_by(layer).items():
        if kind == "metric":
            for i, metric in enumerate(values):
                yield from ((f"metric-{i}-{j}", variable) for j, variable in enumerate(metric.variables))
        else:
            # When it is built, a Sequential model gets an input layer, without state, in front of the others.
            counted = [each for each in values if type(each).__name__ != "InputLayer"]
            yield from ((f"{kind}-{i}", value) for i, value in enumerate(counted))
    yield from compiled(layer)
    present = None
    for name, kind_of_held in _HELD.items():
        held = kind_of_held.of(layer)
        if held is not None:
            present = present or tf.train.TrackableView.children(layer)
            yield name, present.get(name, held)


def compiled(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of `compile` that exist: in tf_keras the metrics, in Keras 3 their variables."""
    for i, metrics in enumerate(internals.metrics_by_container(model)):
        of_variables = [variable for metric in metrics for variable in metric.variables]
        values = metrics if internals.is_of_tf_keras(model) else of_variables
        yield from ((f"compiled_metric-{i}-{j}", value) for j, value in enumerate(values))
