"""What the tasks of a cluster with parameter servers run beside the chief, and the faults that a server meets.

A test arranges a fault in a file `ps-<index>.<phase>` that names it. Phases: `vote`, `write`, `report` of a save, and
`read` of a restore. The server removes the file when it comes there, and

die: kills itself.
freeze: stops itself, as by SIGSTOP.
refuse: is refused by the storage.
hold: makes a file of that name with `.held`, and waits until that is removed.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

import holdfast
from holdfast.session.session import Session
from holdfast_storage.store.folder import Folder
from holdfast_storage.store.posix import PosixStore

PATIENCE = 60.0


def work(world: Any) -> None:
    """A worker: TensorFlow's own server, and nothing of Holdfast."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    task = {"job_name": resolver.task_type, "task_index": resolver.task_id}
    tf.distribute.Server(resolver.cluster_spec(), protocol="grpc", **task).join()


def serve(world: Any, *, faults: str) -> None:
    """A parameter server."""
    folder = Path(faults)
    Session.vote = _meeting(Session.vote, folder / f"ps-{world.index}.vote")
    Session.report = _meeting(Session.report, folder / f"ps-{world.index}.report")
    Folder.write = _meeting(Folder.write, folder / f"ps-{world.index}.write", ".data-")
    PosixStore.read_into = _meeting(PosixStore.read_into, folder / f"ps-{world.index}.read", ".data-")
    holdfast.serve_parameter_server()


def _meeting(method: Callable[..., Any], where: Path, part: str = "") -> Callable[..., Any]:
    """A method that meets a fault first; part: of what it is called for."""

    def meet_and_call(self: Any, what: Any, *args: Any, **options: Any) -> Any:
        if not part or part in what:
            _meet(where)
        return method(self, what, *args, **options)

    return meet_and_call


def _meet(where: Path) -> None:
    try:
        fault = where.read_text()
        where.unlink()
    except FileNotFoundError:  # none, or another thread has met it
        return
    match fault:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "refuse":
            raise OSError(errno.ENOSPC, "the test has filled the disk")
        case "hold":
            held = where.with_name(f"{where.name}.held")
            held.touch()
            end = time.monotonic() + PATIENCE
            while held.exists() and time.monotonic() < end:
                time.sleep(0.01)
        case _:
            raise AssertionError(fault)
