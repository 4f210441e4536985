"""Trains a model that tensorflow-model-optimization prunes; started again, it goes on, strips it and saves it apart."""

from __future__ import annotations

import sys

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

import holdfast
from holdfast.keras import training_state

X = np.random.RandomState(0).randn(64, 8).astype(np.float32)
EPOCHS = 4


def main(directory: str) -> None:
    sparsity = tfmot.sparsity.keras
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((8,)), layers.Dense(32, "relu", name="a"), layers.Dense(1, name="b")])
    pruned = sparsity.prune_low_magnitude(model, sparsity.ConstantSparsity(0.75, 0, frequency=1))
    pruned.compile("adam", "mse")
    with holdfast.CheckpointManager(training_state(pruned), f"{directory}/training") as manager:
        prefix = manager.restore_or_initialize()
        begun = int(prefix.rpartition("-")[2]) if prefix else 0
        print(f"starts at {begun}\n", end="", flush=True)
        for epoch in range(begun + 1, EPOCHS + 1):
            pruned.fit(X, X.sum(1, keepdims=True), verbose=0, callbacks=[sparsity.UpdatePruningStep()])
            manager.save(epoch, blocking=True)
            print(f"saved {epoch}\n", end="", flush=True)
            if epoch == EPOCHS // 2 and not begun:
                sys.stdin.read()  # until it is killed
    stripped = sparsity.strip_pruning(pruned)
    with holdfast.CheckpointManager(training_state(stripped), f"{directory}/stripped") as manager:
        manager.save(EPOCHS, blocking=True)


if __name__ == "__main__":
    main(sys.argv[1])
