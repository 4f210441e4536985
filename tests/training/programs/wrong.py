"""Jobs that were set up wrongly."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from refusals import failure_of

import holdfast
from holdfast_storage import lag
from holdfast_storage.store import open_store

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def job(world: Any, *, directory: str | list[str], join_timeout: float = 3.0, **options: Any) -> dict[str, Any] | None:
    """The first call of a job that fails, and how; None if it could save. A list of directories has one a worker."""
    directory = directory if isinstance(directory, str) else directory[world.index]
    checkpoint = tf.train.Checkpoint(v=tf.Variable(tf.ones(1000)))
    managers: list[Any] = []
    options |= {"join_timeout": join_timeout, "save_timeout": 30.0}
    calls: dict[str, Callable[[], Any]] = {
        "construct": lambda: managers.append(holdfast.CheckpointManager(checkpoint, directory, **options)),
        "restore": lambda: managers[0].restore_or_initialize(),  # noqa: PLW0108 - there is none yet
        "save": lambda: managers[0].save(blocking=True),
        "close": lambda: managers[0].close(),  # noqa: PLW0108
    }
    for name, call in calls.items():
        failure = failure_of(call)
        if failure is not None:
            failure_of(lambda: [manager.close() for manager in managers])
            return {"call": name, **failure}
    return None


def another_cluster(world: Any, **arguments: Any) -> dict[str, Any] | None:
    """The last worker has been told of one host more."""
    correct = os.environ["TF_CONFIG"]
    config = json.loads(correct)
    if world.index == world.size - 1:
        config["cluster"]["worker"].append("127.0.0.1:9")
    os.environ["TF_CONFIG"] = json.dumps(config)
    try:
        return job(world, **arguments)
    finally:
        os.environ["TF_CONFIG"] = correct


@contextmanager
def impatient() -> Iterator[None]:
    """What is not visible yet will not be so after a second."""
    patience, lag.LAG = lag.LAG, 1.0
    try:
        yield
    finally:
        lag.LAG = patience


def another_storage(world: Any, *, directory: str, **arguments: Any) -> dict[str, Any]:
    """With a `memory://` directory, of which every process has its own."""
    with impatient():
        failure = job(world, directory=directory, **arguments)
    return {"failure": failure, "written": open_store(directory).list()}


def another_mount(world: Any, *, directory: str, **arguments: Any) -> dict[str, Any] | None:
    """The last worker has another file system mounted at the directory; "not permitted" if it may not mount any."""
    if world.index == world.size - 1:
        libc = ctypes.CDLL(None, use_errno=True)
        # Of this thread, and those that it starts; all that is different there is this directory.
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            return {"call": "not permitted"}
        if libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, None):
            return {"call": "not permitted"}
    with impatient():
        return job(world, directory=directory, **arguments)


def restore(world: Any, *, directory: str, wanted: list[str | int]) -> list[dict[str, Any] | None]:
    """Save once, then restore what is not there; how each failed. In the end the variable must be as it was."""
    variable = tf.Variable(tf.ones(10))
    with holdfast.CheckpointManager(tf.train.Checkpoint(v=variable), directory, join_timeout=30.0) as manager:
        manager.save(blocking=True)
        variable.assign(tf.zeros(10))
        failures = [failure_of(lambda what=what: manager.restore(what)) for what in wanted]
        assert not variable.numpy().any()
        manager.restore().assert_consumed()
        assert variable.numpy().all()
    return failures
