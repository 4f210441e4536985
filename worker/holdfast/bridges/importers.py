"""Reads the formats that people save and load into the state of a model, or of a whole checkpoint."""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from holdfast.bridges import formats
from holdfast.bridges.model import Held, weights_of
from holdfast.bridges.source import Source
from holdfast.keras.training_state import training_state
from holdfast.restoring.staging import Staged, stage
from holdfast.saving.capture import capture, numeric
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.trackables import few
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.index import Index
from holdfast_storage.bundle.slices import encode_name
from holdfast_storage.checkpoint.architecture import check
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import OBJECT_GRAPH_KEY, data_object, index_object
from holdfast_storage.spec import Unexpected

_GIVE = "give --model module:function, a function that returns the model"
_STEP = "global_step"
_EXPORTED = "variables/{}/.ATTRIBUTES/VARIABLE_VALUE"
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read."""

    snapshot: Snapshot
    step: int = 0  # what the source says, if it says any
    left_out: Sequence[str] = ()  # names of the source's values that the model has no weight for


def read(source: Source, held: Held | None, progress: Callable[[int], None]) -> Imported:
    """Read a source.

    held: the model whose weights it has; None if the source is to say what it has.

    Raises InvalidRequest, by name, if it is not what its name says, or does not fit the model.
    """
    if source.format in (formats.CHECKPOINT, formats.SAVED_MODEL):
        model = _needed(held, source) if source.format is formats.SAVED_MODEL else None
        store, record = source.variables() if model else source.checkpoint()
        with stage(store, record, task=Task("worker", 0), world=(), progress=progress) as staged:
            return _saved_model(staged, model, source.url) if model else _checkpoint(staged, held, source.url)
    with source.file(progress) as path:
        if source.format is formats.SAFETENSORS:
            held = _needed(held, source)
            left_out = _by_safetensors(held, path, source.url)
            return Imported(_taken(held), left_out=left_out)
        if source.format is formats.WEIGHTS or held is not None:
            held = _needed(held, source)
            with _told(source.url):
                held.model.load_weights(path)
            return Imported(_taken(held))
        return Imported(_taken(_loaded(path, source)))


def _needed(held: Held | None, source: Source) -> Held:
    if held is None:
        raise InvalidRequest(f"{source.url} has weights and no model: {_GIVE}", object=source.url)
    return held


def _taken(held: Held) -> Snapshot:
    assert held.checkpoint.save_counter is not None  # it is made when it is first asked for
    return capture(held.checkpoint)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Let a library's error say what could not be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InvalidRequest:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise InvalidRequest(f"{url} could not be read: {why}", object=url) from error


# -- TensorFlow's checkpoints --


def _checkpoint(staged: Staged, held: Held | None, url: str) -> Imported:
    index = Index.parse(Path(index_object(staged.prefix)).read_bytes())
    if OBJECT_GRAPH_KEY in index.tensors:
        if held is not None:
            raise InvalidRequest(f"{url} is taken whole, and no model is asked: leave --model out", object=url)
        return Imported(_whole(staged.prefix, index), staged.record.step)
    if held is None:
        raise InvalidRequest(f"{url} is a checkpoint of TensorFlow 1, by names of variables: {_GIVE}", object=url)
    reader = tf.train.load_checkpoint(staged.prefix)
    values = {key: reader.get_tensor(key) for key in index.tensors if dtypes.itemsize(index.tensors[key].dtype)}
    step = values.pop(_STEP, None)
    left_out = _assign(held, values, url)
    return Imported(_taken(held), staged.record.step if step is None else int(step), left_out)


def _whole(prefix: str, index: Index) -> Snapshot:
    """Return everything in a checkpoint, as its program had it."""
    reader = tf.train.load_checkpoint(prefix)
    tensors = []
    for key, entry in index.tensors.items():
        if dtypes.itemsize(entry.dtype) is not None:
            tensors.append(numeric(key, tf.constant(reader.get_tensor(key))))
            continue
        if entry.slices:
            raise InvalidRequest(f"{key} is of text, in slices, which cannot be imported", object=key)
        with open(data_object(prefix, entry.shard, index.num_shards), "rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        tensors.append(SnapshotTensor(key, entry.dtype, entry.shape, data, encoded_crc32c=entry.crc32c))
    graph = next(each for each in tensors if each.key == OBJECT_GRAPH_KEY)
    tensors.remove(graph)
    return Snapshot(tuple(sorted(tensors, key=lambda each: encode_name(each.key))), graph)


def _saved_model(staged: Staged, held: Held, url: str) -> Imported:
    """Take values of what `export` has written, which are in order, or of what tf_keras's `save` has, by objects."""
    reader = tf.train.load_checkpoint(staged.prefix)
    keys = set(reader.get_variable_to_dtype_map())
    variables = held.model.variables
    if _EXPORTED.format(0) in keys:
        count = sum(_EXPORTED.format(number) in keys for number in range(len(keys)))
        if count != len(variables):
            raise InvalidRequest(f"{url} has {count} variables, and the model {len(variables)}", object=url)
        for number, variable in enumerate(variables):
            _give(variable, reader.get_tensor(_EXPORTED.format(number)), f"variable {number} of {url}")
        return Imported(_taken(held))
    status = tf.train.Checkpoint(held.model).read(staged.prefix)
    try:
        status.assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        raise InvalidRequest(f"{url} does not fit the model: {error}"[:500], object=url) from error
    return Imported(_taken(held))


# -- by names --


def _by_safetensors(held: Held, path: str, url: str) -> list[str]:
    from safetensors.tensorflow import load_file

    with _told(url):
        values = load_file(path)
    return _assign(held, values, url)


def _assign(held: Held, values: Mapping[str, Any], url: str) -> list[str]:
    """Give each weight of a model the value of its name. Return the names of the values that are left over."""
    model, left = held.model, dict(values)
    named = dict(weights_of(model))
    lacking = [name for name in named if name not in left and f"{model.name}/{name}" not in left]
    if lacking:
        raise InvalidRequest(
            f"{url} has no value for {len(lacking)} of the {len(named)} weights of the model ({few(lacking)}); it has "
            f"{few(sorted(left))}: give the model's layers the names that they had",
            object=url,
        )
    for name, weight in named.items():
        key = name if name in left else f"{model.name}/{name}"
        _give(weight, left.pop(key), f"{key} in {url}")
    return sorted(left)


def _give(weight: Any, value: Any, name: str) -> None:
    if tuple(weight.shape) != tuple(value.shape):
        raise InvalidRequest(f"{name} has the shape {tuple(value.shape)}, and the model has {tuple(weight.shape)}")
    weight.assign(tf.cast(value, weight.dtype))


# -- Keras's files of whole models --


def _loaded(path: str, source: Source) -> Held:
    """Load a model with what it has been compiled with. No code in the file is run."""
    with _told(source.url):
        version, config, training = _config_of(path, source)
        try:
            check(config, whole=source.format is formats.KERAS)
        except Unexpected as error:
            raise InvalidRequest(f"{source.url} {error}: {_GIVE}", object=source.url) from error
        keras = importlib.import_module("tf_keras" if version.startswith("2.") else "keras")
        model = None
        if training:
            # With a loss or metric of the program's own, and in some that are Keras's, the weights are all that is
            # taken.
            with suppress(Exception):
                check(training, whole=False)
                model = keras.models.load_model(path, safe_mode=True)
        if model is None:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    return Held(model, training_state(model))


def _config_of(path: str, source: Source) -> tuple[str, Any, Any]:
    """Return the version of the Keras that has written a file, its model's configuration, and that of its training."""
    if source.format is formats.KERAS:
        with zipfile.ZipFile(path) as file:
            parts = []
            for name in ("metadata.json", "config.json"):
                if file.getinfo(name).file_size > _LARGEST:
                    raise InvalidRequest(f"{name} in {source.url} has more than {_LARGEST:,} bytes")
                parts.append(json.loads(file.read(name)))
        metadata, config = parts
        return str(metadata["keras_version"]), config, config.pop("compile_config", None)
    import h5py

    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise InvalidRequest(f"{source.url} has weights and no model: {_GIVE}", object=source.url)
        config, training = json.loads(file.attrs["model_config"]), json.loads(file.attrs.get("training_config", "null"))
        return str(file.attrs.get("keras_version", "2.")), config, training
