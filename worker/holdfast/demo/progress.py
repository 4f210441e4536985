"""The progress files that the workers write while they train: one line for each start and for each step."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    """A training step that was done."""

    number: int  # number of the step
    loss: float
    time: float  # when it was done, seconds since the epoch


@dataclass(slots=True)
class Life:
    """The progress of one process of a worker, from its start to its end."""

    restored: int  # the step from which it went on; 0 for a fresh start
    began: float  # when it was ready to train, seconds since the epoch
    steps: list[Step] = field(default_factory=list)

    @property
    def reached(self) -> int:
        """The number of steps done when it ended, or so far."""
        return self.steps[-1].number if self.steps else self.restored


def read_lives(path: Path) -> list[Life]:
    """Read the lives of a worker, in order. An unfinished last line is left out."""
    lives: list[Life] = []
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        if "restored" in record:
            lives.append(Life(record["step"], record["time"]))
        else:
            lives[-1].steps.append(Step(record["step"], record["loss"], record["time"]))
    return lives


def final_losses(lives: list[Life]) -> dict[int, float]:
    """Return the loss of every step. If a step was done again, the last time counts."""
    return {step.number: step.loss for life in lives for step in life.steps}
