"""The model of a checkpoint, as Keras has it: rebuilt from what the checkpoint carries, or by a function."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from holdfast.keras.training_state import training_state
from holdfast.keras_internals import is_model, is_of_tf_keras
from holdfast.restoring.apply import apply
from holdfast.restoring.staging import stage
from holdfast.tensorflow_internals import Load
from holdfast.trackables import few, variable_of
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.architecture import LARGEST, decode
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, InvalidRequest
from holdfast_storage.layout import ARCHITECTURE
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.spec import Unexpected
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole

_GIVE = "give --model module:function, a function that returns the model"


@dataclass(frozen=True, slots=True)
class Held:
    """A model and the `tf.train.Checkpoint` that holds it."""

    model: Any
    checkpoint: Any

    @property
    def of_tf_keras(self) -> bool:
        return is_of_tf_keras(self.model)


def function(name: str) -> Callable[[], Any]:
    """Return the function that is given as module:function. The working directory is searched first.

    Raises InvalidRequest if there is none.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InvalidRequest(f"{name} is not module:function, such as train:make_model")
    sys.path.insert(0, os.getcwd())
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InvalidRequest(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    return found


def by_function(name: str) -> Held:
    """Return the model that a function returns: itself, or a `tf.train.Checkpoint` whose attribute `model` it is.

    Raises InvalidRequest if it returns anything else, or a model that is not built.
    """
    make = function(name)
    try:
        made = make()
    except Exception as error:
        raise InvalidRequest(f"{name} failed: {type(error).__name__}: {error}") from error
    checkpoint = training_state(made) if is_model(made) else made
    model: Any = getattr(checkpoint, "model", None)
    if not isinstance(checkpoint, tf.train.Checkpoint) or not is_model(model):
        raise InvalidRequest(f"{name} returned {made!r:.200}, not a Keras model, nor a tf.train.Checkpoint(model=...)")
    if not model.built or not model.variables:
        raise InvalidRequest(f"{name} returned a model without variables: let it call the model once, or build it")
    return Held(model, checkpoint)


def by_architecture(store: Store, record: CheckpointRecord) -> Held:
    """Return a model that is rebuilt from what a checkpoint carries. No code of the checkpoint's is run.

    Raises InvalidRequest if it carries nothing that Keras can rebuild, and what `read_manifest` raises.
    """
    told = f"step {record.step} of {store.url}"
    manifest = None if record.stock else read_manifest(store, record)
    asset = next((each for each in manifest.objects if each.name == ARCHITECTURE), None) if manifest else None
    if asset is None:
        raise InvalidRequest(
            f"{told} carries no architecture of a model, as when it is subclassed, or has layers or functions of the "
            f"program's own: {_GIVE}"
        )
    name = f"{record.folder}/{asset.name}"
    try:
        data = read_whole(store, name, LARGEST)
    except FileNotFoundError as error:
        raise CheckpointAbsent(f"{store.url}/{name} is missing", object=name) from error
    if crc32c(data) != asset.crc32c:
        raise CheckpointDamaged(f"{store.url}/{name} is not what was committed", object=name)
    try:
        models = decode(data)
    except Unexpected as error:
        raise InvalidRequest(f"{store.url}/{name} is no architecture that can be used: {error}; {_GIVE}") from error
    if len(models) != 1:
        paths = ", ".join(".".join(each.path) for each in models)
        raise InvalidRequest(f"{told} holds {len(models)} models ({paths}): {_GIVE} that is to be exported")
    (found,) = models
    try:
        keras = importlib.import_module(found.keras)
    except ImportError as error:
        raise InvalidRequest(f"{told} has a model of {found.keras}: pip install {found.keras}") from error
    try:
        model = keras.saving.deserialize_keras_object(found.config, safe_mode=True)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[:500]
        raise InvalidRequest(
            f"{found.keras} {keras.__version__} cannot rebuild the model of {told}, which {found.version} has saved: "
            f"{why}; {_GIVE}"
        ) from error
    if not is_model(model):
        raise InvalidRequest(f"{store.url}/{name} makes a {type(model).__name__}, and no model; {_GIVE}")
    root = training_state(model)
    if found.path == ("model",):
        return Held(model, root)
    root.before_it_is_looked_at()
    inner: Any = model
    for attribute in reversed(found.path):
        inner = tf.train.Checkpoint(**{attribute: inner})
    return Held(model, inner)


def restore(held: Held, store: Store, record: CheckpointRecord, progress: Callable[[int], None]) -> None:
    """Give a model the values of a checkpoint, all of which are verified.

    Raises InvalidRequest if a weight of the model has none, and what `stage` raises.
    """
    with stage(store, record, task=Task("worker", 0), world=(), progress=progress) as staged:
        try:
            status = apply(held.checkpoint, None, staged)
        except (ValueError, tf.errors.OpError) as error:  # such as a weight of another shape
            why = " ".join(str(error).split())[:500]
            raise InvalidRequest(f"step {record.step} of {store.url} does not fit the model: {why}") from error
        status.expect_partial()
        load = Load.of(status)
        named = weights_of(held.model)
        lacking = [name for name, weight in named if load is None or not load.has_reached(weight)]
    if lacking:
        of = f"{len(lacking)} of the {len(named)} weights of the model ({few(lacking)})"
        raise InvalidRequest(
            f"step {record.step} of {store.url} has no value for {of}: is this another model, or under another name?"
        )


def weights_of(model: Any) -> list[tuple[str, Any]]:
    """Return a model's weights, each with the name by which it goes in other formats.

    The names are Keras's paths below the model, such as `dense/kernel`.
    """
    weights = [each for each in model.weights if variable_of(each) is not None]  # tf_keras lists vocabularies, too
    paths = [str(getattr(each, "path", None) or each.name.removesuffix(":0")) for each in weights]
    own = f"{model.name}/"
    if all(path.startswith(own) for path in paths):
        paths = [path.removeprefix(own) for path in paths]
    return list(zip(paths, weights, strict=True))
