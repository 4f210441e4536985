"""The architecture of the Keras models in a `tf.train.Checkpoint`, for their checkpoints to carry."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from holdfast.trackables import children
from holdfast_storage.checkpoint.architecture import Model, encode
from holdfast_storage.layout import ARCHITECTURE

Path = tuple[str, ...]


def architecture(checkpoint: Any) -> dict[str, bytes]:
    """Return the file with the architecture of a checkpoint's models, by its name; nothing if there is none.

    The models are attributes of the checkpoint, or of a checkpoint that is one, such as `training_state(model)`.
    """
    if not any(map(sys.modules.get, ("keras", "tf_keras"))):
        return {}
    from holdfast.keras_internals import has_own_functions, is_model, is_of_tf_keras, layers_in

    models = []
    for path, model in _models(checkpoint):
        keras = sys.modules["tf_keras" if is_of_tf_keras(model) else "keras"]
        try:
            if any(has_own_functions(layer) for layer in layers_in(model) if not is_model(layer)):  # these have losses
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of lambdas, which are not kept
                config = _without_training(keras.saving.serialize_keras_object(model))
            config = json.loads(json.dumps(config, allow_nan=False))
        except Exception:  # in a `get_config` of the program, or because there is none
            continue
        models.append(Model(path, keras.__name__, keras.__version__, config))
    data = encode(models)
    return {ARCHITECTURE: data} if data else {}


def _models(checkpoint: Any) -> Iterator[tuple[Path, Any]]:
    import tensorflow as tf

    from holdfast.keras_internals import is_model

    for name, child in children(checkpoint).items():
        if is_model(child):
            yield (name,), child
        elif isinstance(child, tf.train.Checkpoint):
            yield from (((name, below), model) for below, model in children(child).items() if is_model(model))


def _without_training(config: Any) -> Any:
    """Leave out losses, metrics and optimizers: they may be of the program's own, and a prediction needs none."""
    if isinstance(config, dict):
        return {key: _without_training(value) for key, value in config.items() if key != "compile_config"}
    if isinstance(config, (list, tuple)):
        return [_without_training(each) for each in config]
    return config
