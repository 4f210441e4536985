"""A training program that ends without closing its manager, while a save is in flight. Without TensorFlow.

Arguments: run directory; how it ends: "falls off", "exits", "raises" or "forks" before.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable

from holdfast_storage.store.base import Buffer
from holdfast_storage.store.posix import PosixStore
from support import light_manager

light_manager.install()


class SlowStore(PosixStore):
    """So slow that the interpreter exits before anything is written."""

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        time.sleep(1.0)
        return super().write(name, chunks)


def main(directory: str, how: str) -> None:
    manager, _ = light_manager.make(directory)
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
