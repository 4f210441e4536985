"""Training that goes on whatever is killed around it, and notes how far it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from refusals import failure_of

from holdfast.saving import save as product
from training import Training


class Diary:
    """What a worker does, as lines of JSON: the time in seconds since the epoch, and what there is to say."""

    def __init__(self, folder: str, index: int) -> None:
        self._path = Path(folder) / f"{index}.jsonl"

    def note(self, **what: Any) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps({"time": time.time(), **what}) + "\n")


def train(
    world: Any, *, directory: str, diary: str, steps: int, save_every: int, coordinator: str | None = None
) -> dict[str, Any]:
    """Train up to `steps`, from the newest checkpoint if there is one; a save that fails does not end it.

    Noted are that the model is `built`, TensorFlow's work alone, what was `restored`, each `step`, each call of
    `save`, how it `failed` if it did, and the `outcome` of each save as soon as this worker has heard of it.
    """
    notes = Diary(diary, world.index)
    original, product.Save.run = product.Save.run, _noting(product.Save.run, notes)
    try:
        training = Training(world, directory, coordinator=coordinator, max_to_keep=None)
        notes.note(built=True)
        with training.manager as manager:
            notes.note(restored=manager.restore_or_initialize())
            while training.steps_done < steps:
                training.step()
                notes.note(step=(done := training.steps_done))
                if done % save_every == 0:
                    notes.note(save=done)
                    failure = failure_of(lambda done=done: manager.save(checkpoint_number=done))
                    if failure:
                        notes.note(failed=done, how=failure["message"])
    finally:
        product.Save.run = original
    return training.state()


def _noting(run: Any, notes: Diary) -> Any:
    def run_and_note(save: Any) -> None:
        run(save)
        notes.note(outcome=save.step, error=str(save.error or ""))

    return run_and_note
