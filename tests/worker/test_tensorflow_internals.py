"""The doors to TensorFlow's and Keras's internals: what a release takes away is refused before anything is changed."""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.checkpoint import checkpoint, functional_saver
from tensorflow.python.checkpoint import restore as tf_restore
from tensorflow.python.checkpoint.checkpoint import _CheckpointRestoreCoordinator
from tensorflow.python.checkpoint.restore import CheckpointPosition
from tensorflow.python.ops import io_ops

import holdfast
from holdfast import fit_internals
from holdfast import tensorflow_internals as door
from holdfast_storage import internals
from holdfast_storage.errors import InvalidRequest, SaveFailed
from support.internals import ROOT, defined_names, foreign_names, leaf, rename

pytestmark = pytest.mark.tensorflow

WORKER = ROOT / "worker" / "holdfast"
DOORS = {WORKER / f"{name}_internals.py" for name in ("tensorflow", "keras", "fit")}
NAMES = [name for table in door.TABLES for name in table.names]
NAMES_OF_FIT = [name for table in fit_internals.TABLES for name in table.names]
LOCALS_OF_FIT = (*fit_internals.LOCALS_OF_KERAS, *fit_internals.LOCALS_OF_TF_KERAS)


class Program:
    """A program that is about to restore ones, and has zeros."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variable = tf.Variable(tf.zeros([3]))
        self.manager = holdfast.CheckpointManager(tf.train.Checkpoint(v=self.variable), directory)

    def assert_refused(self, why: str) -> None:
        """A restore is refused, for this reason, and so is a save: nothing changes, and this worker does not join."""
        before = sorted(self.directory.rglob("*"))
        for call in (self.manager.restore, self.manager.restore_or_initialize, self.manager.save):
            with pytest.raises(InvalidRequest, match=rf"(?s){why}.*Versions that work: pip install '\w+>=[\d.]+,<"):
                call()
        assert not self.manager._session.has_joined
        assert sorted(self.directory.rglob("*")) == before
        assert self.variable.numpy().tolist() == [0, 0, 0]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """In a process in which nothing has been looked for yet."""
    with holdfast.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(tf.ones([3]))), tmp_path / "run") as manager:
        manager.save(blocking=True)
    program = Program(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(internals, "_sound", set())
        patched.setattr(door, "_is_tried", threading.Event())
        patched.setattr(door, "_called", set())
        for name, original in door._originals.items():
            patched.setattr(CheckpointPosition, name, original)
        patched.setattr(door, "_originals", {})
        yield program
    program.manager.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_gone_is_refused(program: Program, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing name is refused before anything changes. Guards against replicas that silently come back with their
    mean, and random weights, after an upgrade."""
    assert tf_keras.__version__, "names of it are looked for where it is imported"
    program.assert_refused(rf"\b{rename(monkeypatch, name)}\b")


@pytest.mark.parametrize("module", [functional_saver, tf_restore], ids=["what is there", "what comes later"])
def test_a_function_that_is_not_called_any_more_is_refused(
    program: Program, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is not called any more is refused. Guards against large values of a checkpoint that TensorFlow
    reads from holes in a file."""
    monkeypatch.setattr(module, "io_ops", SimpleNamespace(**vars(io_ops)))
    program.assert_refused("values by io_ops.restore_v2: ")


def test_methods_that_are_not_called_any_more_are_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that are not called any more are refused. Guards against random weights in a Keras model that is built
    after the restore, and lost replicas."""
    restore = CheckpointPosition._restore_descendants

    def restore_another_way(position: Any, trackable: Any, reader: Any = None) -> None:
        with tf.init_scope():
            if position.bind_object(trackable):
                restore(position, reader)

    monkeypatch.setattr(CheckpointPosition, "restore", restore_another_way)
    program.assert_refused("methods of CheckpointPosition that were called: ")


@pytest.mark.parametrize("alias", [tf_keras, ModuleType("keras"), None], ids=["tf_keras", "empty", "None"])
def test_another_module_that_is_called_keras(program: Program, alias: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that only goes by Keras's name is none of it. Guards against old programs that cannot save any more."""
    monkeypatch.setitem(sys.modules, "keras", alias)
    program.manager.restore()
    assert program.variable.numpy().tolist() == [1, 1, 1]


def test_asynchronous_execution(program: Program) -> None:
    """The restore that is tried out waits for its own files. Guards against TensorFlow refused for its speed."""
    tf.config.experimental.set_synchronous_execution(False)
    try:
        program.manager.restore()
        assert program.variable.numpy().tolist() == [1, 1, 1]
    finally:
        tf.config.experimental.set_synchronous_execution(True)


def test_who_replaces_restore_v2_after_us_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program puts in place of `restore_v2` stays. Guards against a patch that a `close()` takes away."""
    monkeypatch.setattr(io_ops, "restore_v2", io_ops.restore_v2)
    monkeypatch.setattr(door, "_originals", {})
    door.serve({"prefix": {}})
    theirs = partial(io_ops.restore_v2)
    io_ops.restore_v2 = theirs
    door.stop_serving(["prefix"])
    door.serve({"prefix": {}})
    door.stop_serving(["prefix"])
    assert io_ops.restore_v2 is theirs


def test_a_keras_that_comes_after_the_join_fails_the_save_of_all(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the join, a refusal is the outcome of a save. Guards against others that wait for this worker's vote."""
    program.manager.save(blocking=True)
    rename(monkeypatch, "tensorflow.python.trackable.base:Trackable._update_uid")
    monkeypatch.setattr(internals, "_sound", set())
    with pytest.raises(SaveFailed, match=r"step 2 failed and nothing of it is visible.*_update_uid"):
        program.manager.save(blocking=True)


def test_what_does_not_end_where_it_did_is_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restoration that does not end where it did is refused. Guards against replicas of late variables that keep the
    common value."""
    coordinator = type("Coordinator", (_CheckpointRestoreCoordinator,), {"__setattr__": _forget_restore_saveables})
    monkeypatch.setattr(checkpoint, "_CheckpointRestoreCoordinator", coordinator)
    program.assert_refused("what restore_saveables was called for: ")


def _forget_restore_saveables(load: Any, name: str, value: Any) -> None:
    if name != "restore_saveables":
        object.__setattr__(load, name, value)


def test_memory_that_is_a_copy_is_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check refuses a TensorFlow whose tensors cannot be written to. Guards against large values that are read to
    nowhere: variables get whatever was in the memory."""
    monkeypatch.setattr(door, "memory_of", lambda tensor: np.zeros(4, np.uint8))
    program.assert_refused("values by io_ops.restore_v2: ")


def test_what_is_there_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check runs once. Guards against saves that pay for it, or fail because of what it has replaced."""
    door.check()
    monkeypatch.setattr(door, "_try_restore", lambda: pytest.fail("tried out twice"))
    door.check()


@pytest.mark.usefixtures("program")
def test_a_check_leaves_nothing_behind() -> None:
    """The check leaves nothing behind, and works in a strategy's scope. Guards against files in TensorFlow's memory,
    and a replaced function."""
    restore_v2 = io_ops.restore_v2
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        door.check()
    assert (door._served, io_ops.restore_v2) == ({}, restore_v2)
    assert not tf.io.gfile.glob("ram://holdfast-*/*")


def test_no_private_name_is_used_elsewhere() -> None:
    """No private name is used outside of the doors. Guards against a name that nobody checks, found missing in the
    middle of a restore."""
    ours = defined_names(WORKER)
    for path in set(WORKER.rglob("*.py")) - DOORS:
        found = [
            (line, name) for line, name in foreign_names(path, ours, set(map(leaf, NAMES))) if name not in OF_PYTHON
        ]
        assert not found, f"{path} uses {found}: that is for {', '.join(each.name for each in DOORS)}"
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not any(module.startswith(INNER_MODULES) for module in modules), f"{path} imports {modules}"


OF_PYTHON = ("_exit", "_register_atexit", "_threads_queues")  # whose versions are few, and all tested
INNER_MODULES = ("tensorflow.", "keras.src", "tf_keras.src")


PUBLIC = {
    *(
        "Checkpoint",
        "Layer",
        "Discretization",
        "IntegerLookup",
        "Model",
        "Module",
        "Normalization",
        "PyFunc",
        "RNN",
        "RestoreV2",
        "SaveV2",
        "Strategy",
        "StringLookup",
        "TrackableView",
        "Variable",
        "as_dtype",
        "autograph",
        "base_dtype",
    ),
    *(
        "constant",
        "descendants",
        "device",
        "do_not_convert",
        "executing_eagerly",
        "experimental",
        "flatten",
        "DeviceSpec",
        "from_string",
        "get_static_value",
        "gfile",
        "io",
        "no_op",
    ),
    *("init_scope", "nest", "numpy", "raw_ops", "rmtree", "slice", "string"),
    *("Empty", "array", "c_uint8", "ctypes", "from_address", "frombuffer", "int32", "uint8"),
    *("OutOfRangeError", "element_spec", "errors", "function", "get_next", "map_structure", "nest", "range", "zeros"),
    *("evaluate", "trainable_variables", "unwrap", "currentframe", "f_back", "f_code", "f_locals", "works_with"),
    *("__code__", "co_cellvars", "co_varnames"),
    *("FromString", "SerializeToString", "attributes", "checkpoint_key"),
    *("add", "append", "asarray", "clear", "extend", "fromkeys", "fsdecode", "get", "getLogger", "items", "modules"),
    *(
        "partition",
        "pop",
        "setdefault",
        "split",
        "update",
        "Event",
        "RLock",
        "is_set",
        "token_hex",
        "library",
        "refusal",
        "identity",
        "get_config",
        "TensorShape",
        "PlaceholderWithDefault",
        "getpid",
        "stateful",
        "states",
        "__module__",
        "__mro__",
        "__name__",
    ),
}
"""What others document, and so promise to keep."""


def test_every_name_that_is_used_is_looked_for() -> None:
    """Every name that the doors use is in the tables. Guards against a new name that nobody checks."""
    listed = {part for name in (*NAMES, *NAMES_OF_FIT, *LOCALS_OF_FIT) for part in re.findall(r"\w+", name)}
    known = listed | defined_names(WORKER) | PUBLIC
    for path in DOORS:
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert used <= known, f"list {used - known} in one of the tables, or here, if it is documented"
        assert {name for _, name in foreign_names(path, defined_names(WORKER), set())} <= listed


def test_each_name_is_used() -> None:
    """Each checked name is used. Guards against a version that is refused because of something that nobody needs any
    more."""
    callbacks = WORKER / "keras" / "callback_states.py"  # whose names are not private, and not documented either
    uses = "".join(path.read_text().rpartition("TABLES = ")[2] for path in (*DOORS, callbacks))
    assert [name for name in (*NAMES, *NAMES_OF_FIT) if leaf(name) not in uses] == []


def test_versions_are_those_that_pip_installs() -> None:
    """The versions in the error are those that pip installs. Guards against pip installing a version that an error then
    rejects."""
    project = (ROOT / "pyproject.toml").read_text()
    assert f'tensorflow = ["{door.TENSORFLOW.works_with}", "{door.KERAS.works_with}"]' in project
    assert f'"{door.TF_KERAS.works_with}"' in project
