"""Interrupts its own saves, restores and closes at random instants by a real signal, and tells what became of them.

Arguments: the directory, how many times, a seed, and "tensorflow" for real variables instead of a state made by hand.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from types import FrameType
from typing import Any

directory, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
real = sys.argv[4:] == ["tensorflow"]
logging.disable(logging.CRITICAL)

import holdfast  # noqa: E402
from holdfast_storage.errors import HoldfastError  # noqa: E402
from support import light_manager  # noqa: E402

os.environ["TF_CONFIG"] = light_manager.ALONE

if real:
    import tensorflow as tf

    class State:
        def __init__(self) -> None:
            self.module = tf.Module()
            self.module.v = [tf.Variable(tf.zeros([3000])) for _ in range(60)]
            self.number = tf.Variable(0, dtype=tf.int64)
            self.checkpoint = tf.train.Checkpoint(module=self.module, number=self.number)

        @property
        def step(self) -> int:
            return int(self.number.numpy())

        @step.setter
        def step(self, value: int) -> None:
            self.number.assign(value)

    def make(folder: str) -> tuple[Any, Any]:
        made = State()
        return holdfast.CheckpointManager(made.checkpoint, folder, max_to_keep=None, save_timeout=20.0), made

else:
    light_manager.install()

    def make(folder: str) -> tuple[Any, Any]:
        return light_manager.make(folder, max_to_keep=None)


def interrupt(_: int, frame: FrameType | None) -> None:
    """Raises, but not amid TensorFlow's own code, which ends by a segmentation fault now and then."""
    while frame is not None and "/holdfast/" not in frame.f_code.co_filename:
        if "/tensorflow/" in frame.f_code.co_filename:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 1.0)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(seed)
found: Counter[str] = Counter()
wrong: list[str] = []


def one(number: int) -> None:
    folder, what = f"{directory}/{number}", chance.choice(["save", "save", "restore", "close"])
    returned: list[str] = []
    manager, state = make(folder)
    manager.restore_or_initialize()
    state.step = 1
    returned.append(manager.save(1, blocking=True))
    try:
        # Again, if it comes amid a finalizer: what that raises, Python ignores.
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.05), 1.0)
        try:
            while what == "save":
                state.step += 1
                returned.append(manager.save(state.step))
            while what == "restore":
                manager.restore_or_initialize()
            while True:
                state.step += 1
                returned.append(manager.save(state.step))
                manager.close()
                manager, state = make(folder)
                manager.restore_or_initialize()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        found[f"interrupted: {what}"] += 1
    begun = time.monotonic()
    try:
        if what == "close":
            manager.close()
            manager, state = make(folder)
            manager.restore_or_initialize()
        state.step = 1000
        returned.append(manager.save(1000, blocking=True))
        found["final saves"] += manager.latest_checkpoint == returned[-1]
        manager.close()
    except HoldfastError as error:
        wrong.append(f"{number}: {what}: {error!r}")
    lost = set(returned) - set(manager.checkpoints)
    if lost:
        wrong.append(f"{number}: {what}: returned, not committed and not told: {sorted(lost)}")
    if time.monotonic() - begun > 20.0:
        wrong.append(f"{number}: {what}: took {time.monotonic() - begun:.0f} s")
    found["returned"] += len(returned)


for number in range(rounds):
    one(number)
print("told", json.dumps({"found": found, "wrong": wrong}), flush=True)
