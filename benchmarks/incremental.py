"""What incremental saves save: `python -m benchmarks.incremental [--rows N] [--tmpfs FOLDER]`.

A table of embeddings is trained by Keras 3, with SGD, and with Adagrad and its slot. Each save is measured after steps
that have looked up a part of the rows: 1, 5 and 20 percent, drawn evenly, and what 100 steps of Zipf-distributed ids
touch. The first report is of bytes and of times beside a full save of the same state; the second of finding the rows
that have changed, without TensorFlow: processor seconds a GiB, beside the obvious way to do without digests, which is
to keep a copy of everything; the third of a restore from one full checkpoint and 20 deltas, whose values must be those
that were saved, bit by bit.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 32  # floats of a row
BATCH = 2048
GIB = 1 << 30
CHECKED = 128 << 20
"""Bytes that are digested for the second report."""

DELTAS = 20


class Model:
    """A table of embeddings, and what trains it."""

    def __init__(self, rows: int, optimizer: str) -> None:
        import keras
        import tensorflow as tf

        self.rows = rows
        self.table = keras.layers.Embedding(rows, WIDTH)
        self.table.build()
        self.optimizer = getattr(keras.optimizers, optimizer)(0.1)
        self.optimizer.build(self.table.trainable_variables)
        self.checkpoint = tf.train.Checkpoint(table=self.table, optimizer=self.optimizer)
        self._random = np.random.default_rng(3)
        self._step = tf.function(self._train, input_signature=[tf.TensorSpec([None], tf.int64)])

    def _train(self, ids: Any) -> None:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((self.table(ids) - 1.0) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.table.trainable_variables), self.table.trainable_variables)

    def evenly(self, share: float) -> None:
        """Look up so large a share of the rows, in batches."""
        ids = self._random.choice(self.rows, int(share * self.rows), replace=False)
        for begin in range(0, len(ids), BATCH):
            self._step(ids[begin : begin + BATCH])

    def zipf(self, steps: int = 100, exponent: float = 1.05) -> None:
        """Look up as users do: a few items all the time, and most hardly ever."""
        weights = np.arange(1, self.rows + 1) ** -exponent
        weights = np.cumsum(weights / weights.sum())
        for _ in range(steps):
            self._step(np.minimum(np.searchsorted(weights, self._random.random(BATCH)), self.rows - 1))

    def values(self) -> list[bytes]:
        return [v.numpy().tobytes() for v in (*self.table.variables, *self.optimizer.variables)]


def save(manager: Any) -> tuple[int, float, float, float]:
    """Save, and return the bytes, and the seconds: blocked, to durable, and of processors."""
    cpu, begun = time.process_time(), time.monotonic()
    path = Path(manager.save())
    blocked = time.monotonic() - begun
    manager.wait()
    durable, cpu = time.monotonic() - begun, time.process_time() - cpu
    return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file()), blocked, durable, cpu


def report_saves(rows: int, folder: Path) -> None:
    import holdfast

    print("| optimizer | rows looked up since the last save | bytes | of full | blocked | durable | CPU |")
    print("| --- | --- | --- | --- | --- | --- | --- |")

    def show(what: str, whole: int, figures: tuple[int, float, float, float]) -> None:
        size, blocked, durable, cpu = figures
        part = f"{size / whole:.1%}, 1 : {whole / size:.1f}" if whole else ""
        times = f"{1e3 * blocked:.0f} ms | {durable:.2f} s | {cpu:.2f} s"
        print(f"| {optimizer} | {what} | {size / 1e6:.1f} MB | {part} | {times} |", flush=True)

    for optimizer in ("SGD", "Adagrad"):
        model = Model(rows, optimizer)
        policies = {"plain": None, "incremental": holdfast.Incremental(full_every=1000)}
        for name, policy in policies.items():
            with holdfast.CheckpointManager(
                model.checkpoint, folder / optimizer / name, max_to_keep=1, incremental=policy
            ) as manager:
                save(manager)  # the first has memory to get, and threads to start
                model.evenly(0.01)
                if policy is None:
                    figures = save(manager)
                    whole = figures[0]
                    show("a full save, not incremental", 0, figures)
                    continue
                save(manager)
                for share in (0.01, 0.05, 0.2):
                    model.evenly(share)
                    show(f"{share:.0%}", whole, save(manager))
                model.zipf()
                show(f"100 steps of {BATCH:,} ids, Zipf 1.05", whole, save(manager))
        shutil.rmtree(folder / optimizer)


def report_digests() -> None:
    from holdfast.saving.rows import digests, table

    def seconds(look: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            look()
            best = min(best, time.process_time() - begun)
        return best * GIB / CHECKED

    data = np.random.default_rng(1).integers(0, 256, CHECKED, np.uint8)
    copy = data.copy()
    print("\n| bytes of a row | digests: CPU s a GiB | memory | compared with a copy: CPU s a GiB | memory |")
    print("| --- | --- | --- | --- | --- |")
    for row in (64, 128, 256, 512, 1024):
        now, before = table(data.data, row), table(copy.data, row)

        found = seconds(partial(digests, now))
        print(
            f"| {row} | {found:.2f} | {8 / row:.1%} | {seconds(partial(_compare, now, before)):.2f} | 100% |",
            flush=True,
        )


def _compare(now: Any, before: Any) -> None:
    step = max(1, (256 << 10) // now.shape[1])
    for begin in range(0, len(now), step):
        one, other = (each[begin : begin + step].view(np.uint64) for each in (now, before))
        (one != other).any(axis=1)


def report_restore(rows: int, folder: Path) -> None:
    import holdfast

    model = Model(rows, "Adagrad")
    policy = holdfast.Incremental(full_every=1000)
    with holdfast.CheckpointManager(
        model.checkpoint, folder / "chain", max_to_keep=None, incremental=policy
    ) as manager:
        save(manager)
        for _ in range(DELTAS):
            model.evenly(0.01)
            save(manager)
    wanted = model.values()
    print(f"\n| restore, Adagrad, {2 * rows * WIDTH * 4 / 1e6:.0f} MB | seconds |")
    print("| --- | --- |")
    for what, step in (("the full one alone", 1), (f"full and {DELTAS} deltas of 1%", DELTAS + 1)):
        other = Model(rows, "Adagrad")
        with holdfast.CheckpointManager(other.checkpoint, folder / "chain", max_to_keep=None) as manager:
            begun = time.monotonic()
            manager.restore(step)
            print(f"| {what} | {time.monotonic() - begun:.2f} |", flush=True)
    if other.values() != wanted:
        raise SystemExit("what was restored is not what was saved")
    shutil.rmtree(folder / "chain")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.incremental", description="What incremental saves save."
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="where to save (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.tmpfs) as folder:
        report_saves(options.rows, Path(folder))
        report_digests()
        report_restore(options.rows, Path(folder))


if __name__ == "__main__":
    main()
