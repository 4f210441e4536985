"""Ends at a moment that it is told: SIGTERM in a call, or the main thread before the one that trains."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast_storage.store.posix import PosixStore
from support import light_manager

directory, moment = sys.argv[1:]
os.environ["TF_CONFIG"] = light_manager.ALONE
light_manager.install()


class Slow(PosixStore):
    """Each object takes a while."""

    def write(self, name: str, chunks: Iterable[Any]) -> int:
        time.sleep(0.7)
        return super().write(name, chunks)


def train(saves: int, made: Any = None) -> None:
    manager, state = made or light_manager.make(directory)
    if made is None:
        manager.restore_or_initialize()
    main_ended.wait(10.0)
    for step in range(1, saves + 1):
        state.step = step
        time.sleep(0.1)
        manager.save(step)


main_ended = threading.Event()
if moment in ("thread", "pool", "late thread"):
    print("expected [1, 2, 3, 4]", flush=True)
    threading.Timer(0.3, main_ended.set).start()
    if moment == "thread":
        threading.Thread(target=train, args=(4,)).start()
    elif moment == "late thread":  # which has not called anything when the main one ends
        made = light_manager.make(directory)
        made[0].restore_or_initialize()
        threading.Thread(target=train, args=(4, made)).start()
    else:
        pool = ThreadPoolExecutor(1)
        pool.submit(train, 4)
    sys.exit(0)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
manager, state = light_manager.make(directory)
manager._store.__class__ = Slow
manager.restore_or_initialize()
state.step = 1
manager.save(1)
print("expected [1]", flush=True)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
state.step = 2
if moment == "save":
    manager.save(2)
elif moment == "wait":
    manager.wait()
elif moment == "close":
    manager.close()
time.sleep(10.0)
