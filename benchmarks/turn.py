"""One contestant's turn: every figure once, in one directory, in the contestant's own process.

The figures, in seconds but for the last:

blocking     how long the loop stands still in one `save()`, called as users call it.
durable      from calling a save until all of it would survive a power failure (tmpfs: until it is written and named).
restore      from an empty hand to restored variables: a new manager on the directory, its newest checkpoint found,
             read, and in the variables. All read what was just written, from the page cache.
lost         what a save costs a training loop: a loop of steps with saves, waiting for the last one included, less the
             same loop without saves, per save. Copy-on-write, stolen processor time and deletion of old checkpoints
             are in it. TensorFlow's files are not fsynced here; Holdfast's are.
extra_bytes  the most memory that the process takes for its first save, beside what it had before. No training
             meanwhile: the contestant's own buffers, without copy-on-write. Once per process, see `PeakMemory`.
extra_training_bytes
             the same when training goes on, right after `save()` and after its end: buffers, copy-on-write, and any
             copy of the state that is kept between saves.

For the record only: first_durable, the same as durable for the first save in a directory; loop and loop_with_saves, the
two times that lost is made of.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contestants.base import Contestant
from benchmarks.memory import PeakMemory
from benchmarks.training import digest

# What a job keeps; the timed saves outside the loop keep all, so that no deletion is in their time.
_KEPT_IN_LOOP = 2


class Turn:
    """Takes turns for one contestant."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._training = contestant.training
        self._fresh = True
        # Past tracing, graph optimisation and the allocator's first growth, all of which belong to training.
        self._training.run(3)

    def take(self, medium: Path, number: int) -> dict[str, float]:
        """All figures, from a fresh directory below `medium` that is gone at the end.

        Raises:
            RuntimeError: what was restored is not what was saved.
        """
        with _directory(medium) as directory:
            figures = self._saves_and_restore(directory)
        # With and without saves take turns in going first, so that drift within a turn cancels out over the rounds.
        for saving in (False, True) if number % 2 else (True, False):
            with _directory(medium) as directory:
                figures["loop_with_saves" if saving else "loop"] = self._loop(directory, saving)
        figures["lost"] = (figures["loop_with_saves"] - figures["loop"]) / self._training.case.saves
        return figures

    def _saves_and_restore(self, directory: Path) -> dict[str, float]:
        contestant = self._contestant
        figures: dict[str, float] = {}
        contestant.open(directory, max_to_keep=None)

        # The first save in a directory also sets things up there (Holdfast takes the lead of the run). A job does that
        # once, so this one is not in the figures, but on record.
        self._training.run(1)
        if self._fresh:
            figures |= self._memory()
            self._fresh = False
        else:
            figures["first_durable"] = _time(contestant.save_durably)

        self._training.run(1)
        figures["blocking"] = _time(contestant.save)
        contestant.settle()

        self._training.run(1)
        figures["durable"] = _time(contestant.save_durably)
        saved = digest(self._training.buffers())
        contestant.close()

        self._training.run(1)
        figures["restore"] = _time(lambda: contestant.restore(directory))
        if digest(contestant.restored()) != saved:
            raise RuntimeError("what was restored is not what was saved")
        contestant.close()
        return figures

    def _memory(self) -> dict[str, float]:
        memory = PeakMemory()
        memory.restart()
        self._training.run(1)
        step_alone = memory.extra()

        memory.restart()
        self._contestant.save_durably()
        saving = memory.extra()
        self._contestant.save()
        self._training.run(1)
        self._contestant.settle()
        self._training.run(1)
        return {"extra_bytes": float(saving), "extra_training_bytes": float(memory.extra() - step_alone)}

    def _loop(self, directory: Path, saving: bool) -> float:
        case = self._training.case
        self._contestant.open(directory, max_to_keep=_KEPT_IN_LOOP)
        self._training.run(1)
        # The first save of a manager sets things up (Holdfast learns which variable is behind which key); a job does
        # that once, as in `_saves_and_restore`.
        self._contestant.save_durably()
        self._training.run(1)
        begin = time.perf_counter()
        for _ in range(case.saves):
            self._training.run(case.steps_per_save)
            if saving:
                self._contestant.save()
        # As many steps after the last save as between two, so that it has the same chance to end behind them. Only then
        # is it waited for, inside the time: no background work is left out.
        self._training.run(case.steps_per_save)
        self._contestant.settle()
        elapsed = time.perf_counter() - begin
        self._contestant.close()
        return elapsed


@contextmanager
def _directory(medium: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="turn-", dir=medium))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
        os.sync()  # deleted files are not written back; what remains must not be anybody else's burden


def _time(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
