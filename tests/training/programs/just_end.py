"""A training program that saves as its last act, and closes nothing. Arguments: run directory, steps."""

from __future__ import annotations

import sys

from world import enter

from training import Training

if __name__ == "__main__":
    training = Training(enter(), sys.argv[1])
    for _ in range(int(sys.argv[2])):
        training.step()
    training.manager.save(checkpoint_number=training.steps_done)
