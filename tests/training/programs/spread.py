"""One state under every strategy: on parameter servers in parts or whole, mirrored, in one process or in several."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
from refusals import failure_of

import holdfast
from holdfast.saving import shares

OPTIONS = {"join_timeout": 120.0, "save_timeout": 120.0}
ROWS = 13
"""Of each table: what no number of servers divides."""


def values() -> dict[str, Any]:
    """The state, by name. `half` is of a dtype whose slices TensorFlow cannot join, and so is never cut there."""
    table = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
    return {
        "table": table,
        "numbers": (table * 3).astype(np.int64),
        "flags": table % 3 == 0,
        "narrow": table.astype(tf.bfloat16.as_numpy_dtype),
        "half": table.astype(np.float16),
        "scalar": np.float64(2.5),
        "word": np.array(b"a word", object),
    }


class State:
    """Variables of these names and dtypes, all of them zero."""

    def __init__(self, strategy: Any, names: Any = None) -> None:
        self.expected = {name: value for name, value in values().items() if names is None or name in names}
        self.variables: dict[str, Any] = {}
        for name in self.expected:
            self.make(strategy, name)

    def make(self, strategy: Any, name: str) -> Any:
        value = values()[name]
        dtype = tf.as_dtype(value.dtype)
        served = isinstance(strategy, tf.distribute.ParameterServerStrategy)
        within = strategy and name != "word" and (served or name != "narrow")  # which TensorFlow does not broadcast
        with strategy.scope() if within else nullcontext():
            self.variables[name] = tf.Variable(lambda: tf.zeros(value.shape, dtype), name=name)
        self.expected[name] = value
        return self.variables[name]

    def fill(self) -> None:
        for name, variable in self.variables.items():
            variable.assign(tf.constant(self.expected[name]))

    def wrong(self) -> list[str]:
        """The names of variables that do not have their values."""
        return [name for name, variable in self.variables.items() if not same(whole(variable), self.expected[name])]


def whole(variable: Any) -> Any:
    if hasattr(variable, "variables"):
        return np.concatenate([part.numpy() for part in variable.variables])
    return variable.numpy()


def same(found: Any, expected: Any) -> bool:
    found = np.asarray(found, expected.dtype)
    return bool(found.shape == expected.shape and np.array_equal(found, expected))


def strategy_of(world: Any, kind: str) -> Any:
    """kind: "parts" or "whole" on parameter servers, "mirrored", or "given", which is this world's or none."""
    if kind == "given":
        return world.strategy
    shares._RECORD = 40  # of the table, two rows each
    if kind == "mirrored":
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    servers = len(resolver.cluster_spec().as_dict()["ps"])
    partitioner = tf.distribute.experimental.partitioners.FixedShardsPartitioner(servers) if kind == "parts" else None
    return tf.distribute.ParameterServerStrategy(resolver, partitioner)


def pass_on(world: Any, *, directory: str, kind: str) -> dict[str, Any]:
    """Restore the newest checkpoint, unless this is the first of all, and save: what was wrong, and what was saved."""
    state = State(strategy_of(world, kind))
    checkpoint = tf.train.Checkpoint(**state.variables)
    with holdfast.CheckpointManager(checkpoint, directory, **OPTIONS) as manager:
        wrong = None
        if manager.checkpoints:
            manager.restore().assert_consumed()
            wrong = state.wrong()
        else:
            state.fill()
        return {"wrong": wrong, "saved": manager.save(blocking=True)}


def read(world: Any, *, path: str) -> list[str]:
    """What stock TensorFlow reads wrong of a checkpoint, in this process, whole and by its own restore."""
    reader, wrong = tf.train.load_checkpoint(path), []
    state = State(None)
    shapes = reader.get_variable_to_shape_map()
    for name, value in values().items():
        key = f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
        assert tuple(shapes[key]) == value.shape
        if name != "half":
            wrong += [] if same(reader.get_tensor(key), value) else [f"{name}, read"]
    del state.variables["half"]
    tf.train.Checkpoint(**state.variables).restore(path).expect_partial()
    return wrong + state.wrong()


def restore_what_is_odd(world: Any, *, directory: str, damaged: str, named: str) -> dict[str, Any]:
    """Restores onto servers of what others wrote, of what is damaged, of what comes later, and of what does not fit.

    damaged: a checkpoint of which `half` is damaged, in a run of its own.
    named: a partitioned checkpoint of TensorFlow 1.
    """
    strategy, told = strategy_of(world, "parts"), dict[str, Any]()
    logging.getLogger("holdfast").addHandler(handler := _Lines())

    def manager_of(state: Any, where: str) -> Any:
        return holdfast.CheckpointManager(tf.train.Checkpoint(**state), where, **OPTIONS)

    # All but two are there, one of which comes later.
    state = State(strategy, ("table", "numbers", "flags", "scalar"))
    with manager_of(state.variables, directory) as manager:
        status = manager.restore()
        manager.checkpoint.narrow = state.make(strategy, "narrow")
        told["late"] = state.wrong()
        status.expect_partial()
    # Nobody here wants what is damaged.
    state = State(strategy, ("table",))
    with manager_of(state.variables, damaged) as manager:
        told["damaged"] = failure_of(manager.restore)
        told["untouched"] = bool(np.any(whole(state.variables["table"])))
    # Nothing fits.
    state = State(strategy, ("table",))
    with manager_of({"renamed": state.variables["table"]}, directory) as manager:
        told["misfit"] = failure_of(manager.restore_or_initialize)
    # By their names.
    state = State(None, ("table", "half"))
    with manager_of(state.variables, directory) as manager:
        manager.restore(named)
        told["named"] = state.wrong()
    told["log"] = handler.lines
    return told


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def write_named(world: Any, *, path: str) -> None:
    """Write a partitioned checkpoint with TensorFlow 1's saver."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name in ("table", "half"):
            value = values()[name]
            parts = iter(np.array_split(value, 3))
            tf.compat.v1.get_variable(
                name,
                value.shape,
                value.dtype,
                initializer=lambda *_, parts=parts, **__: tf.constant(next(parts)),
                partitioner=tf.compat.v1.fixed_size_partitioner(3),
            )
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, path)
