"""A light worker whose training steps are barriers, and that saves if that is asked for.

Arguments: run directory, index, number of workers, port of the barrier, options in JSON: of the manager; and `grace`,
`pause` (mean seconds of a step), `sync_every` (steps between barriers), `save_at` (steps that it saves by itself),
`slow` (seconds for each object), `steps`.

Prints "training", "saves BOUNDARY STEP", "began STEP" and "done". Ends with 77 if another worker is gone, as a
collective would have it.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from holdfast.preemption import Preemption
from holdfast_storage.store.posix import PosixStore
from support import light_manager


class Slow(PosixStore):
    """Each large object takes a while."""

    seconds = 0.0

    def write(self, name: str, chunks: Iterable[Any]) -> int:
        time.sleep(self.seconds)
        return super().write(name, chunks)


def say(text: str) -> None:
    print(text + "\n", end="", flush=True)


def pass_barrier(barrier: socket.socket) -> None:
    with suppress(OSError):
        barrier.sendall(b"x")
        if barrier.recv(1) == b"g":
            return
    os._exit(77)


def main(directory: str, index: str, size: str, port: str, text: str) -> None:
    options = json.loads(text)
    cluster = {"worker": [f"127.0.0.1:{9000 + each}" for each in range(int(size))]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
    light_manager.install()
    random.seed(int(index))
    barrier = socket.create_connection(("127.0.0.1", int(port)))
    barrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    preemption = Preemption(grace=options.pop("grace", 30.0))
    pause, every, own = options.pop("pause", 0.01), options.pop("sync_every", 1), options.pop("save_at", [])
    Slow.seconds, steps = options.pop("slow", 0.0), options.pop("steps", 1_000_000)
    if seconds := options.pop("save_every", 0.0):
        options["save_every"] = timedelta(seconds=seconds)
    manager, state = light_manager.make(directory, preemption=preemption, max_to_keep=None, **options)
    if Slow.seconds:
        manager._store.__class__ = Slow
    with manager:
        manager.restore_or_initialize()
        for step in range(state.step + 1, steps + 1):
            if step % every == 0:
                pass_barrier(barrier)
            time.sleep(pause * 2 * random.random())
            state.step = step
            if step == 3:
                say("training")
            manager.save_if_requested(step, before=lambda at=step: say(f"saves {manager._gate.count} {at}"))
            if step in own:
                manager.save(step)
                say(f"began {step}")
    say("done")


main(*sys.argv[1:])
