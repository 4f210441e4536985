"""Training that is told in the middle of a step that its host goes away."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import holdfast
from training import Training


def train(world: Any, *, directory: str, steps: int, notice_at: int = 0) -> dict[str, Any]:
    """Train up to `steps`, and save only if that is asked for.

    notice_at: the step in which the last worker gets SIGTERM; 0: nobody does.
    """
    training = Training(world, directory, preemption=holdfast.Preemption(grace=60.0))
    code, positions = 0, []
    try:
        with training.manager as manager:
            manager.restore_or_initialize()
            first, losses = training.steps_done, []
            while training.steps_done < steps:
                if world.index == world.size - 1 and training.steps_done + 1 == notice_at:
                    # In the step itself, where the main thread is in TensorFlow.
                    threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGTERM)).start()
                losses.append(training.step())
                done = training.steps_done
                manager.save_if_requested(done, before=lambda at=done: positions.append(at))
    except holdfast.Preempted as end:
        code = end.code
    return {"code": code, "first": first, "saved": positions, "losses": losses, "state": training.state()}
