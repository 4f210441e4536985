"""A training program that ends without closing its manager, while a save is in flight. Without TensorFlow.

Arguments: run directory; how it ends: "falls off", "exits", "raises" or "forks" before.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import holdfast.manager
from holdfast_storage.store.base import Buffer
from holdfast_storage.store.posix import PosixStore
from support.light_worker import state

sys.modules["holdfast.capture"] = SimpleNamespace(  # type: ignore[assignment]
    Snapshotter=lambda _: SimpleNamespace(capture=state)
)
holdfast.manager.strategy_name = lambda _: ""  # type: ignore[attr-defined]


class SlowStore(PosixStore):
    """So slow that the interpreter exits before anything is written."""

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        time.sleep(1.0)
        return super().write(name, chunks)


class Counter:
    def assign_add(self, _: int) -> None:
        pass


def main(directory: str, how: str) -> None:
    checkpoint: Any = SimpleNamespace(save_counter=Counter())
    manager = holdfast.manager.CheckpointManager(checkpoint, directory)
    manager._store.__class__ = SlowStore
    print(manager.save(3), flush=True)
    if how == "forks":
        child = multiprocessing.get_context("fork").Process(target=manager.close, daemon=True)
        child.start()
        child.join(10.0)
        sys.exit(0 if child.exitcode == 0 else 1)
    if how == "exits":
        sys.exit(7)
    if how == "raises":
        raise RuntimeError("a mistake in the training program")


main(*sys.argv[1:])
