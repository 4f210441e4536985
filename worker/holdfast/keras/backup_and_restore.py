"""Keras's BackupAndRestore, which goes on at the next batch. See docs/design/027-keras-fit.md."""

from __future__ import annotations

import inspect
import os
from typing import Any

import holdfast
from holdfast.keras.fitting import Fitting
from holdfast.keras.hooks import Hooks
from holdfast_storage.errors import InvalidRequest


class BackupAndRestore(Hooks):
    """A callback that saves all that `fit` needs to go on, and has it go on at the next batch of the same epoch.

    After a restart, the same program calls the same `fit` on the same input. It then ends with the same weights,
    metrics, history and states of the other callbacks as if it had never stopped, bit for bit where the computation
    itself is deterministic. Input that is shuffled needs seeds: see docs/keras.md.

    The model is one of Keras 3 or of tf_keras, without a strategy, under MirroredStrategy, or on several workers: then
    every worker has this callback, with the same arguments.

    Args:
        backup_dir: a run directory of Holdfast, for this callback alone. It is the same storage for all workers.
        save_freq: "epoch" saves at each epoch's end, a number after so many batches, and False only on request.
        double_checkpoint: whether to keep the last two checkpoints, not only the last one.
        delete_checkpoint: whether the next `fit` begins anew after one that came to its end. The checkpoints are then
            removed, and one of a few bytes says that the run is finished.
        preemption: what counts as notice that this host is to go away, such as SIGTERM. All workers then save after the
            same batch, in validation too, and end. `holdfast save-now` and `save_every` have them save there as well.
        manager: other keyword arguments of `holdfast.CheckpointManager`, such as `coordinator` or `save_timeout`.

    Raises InvalidRequest for arguments that cannot work, and at the start of `fit` for what it cannot resume. Whatever
    `CheckpointManager` raises ends the `fit`.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: Any = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        preemption: holdfast.Preemption | None = None,
        **manager: Any,
    ) -> None:
        if not backup_dir:
            raise InvalidRequest("backup_dir is empty: it must be a path or a URL", object="backup_dir")
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 0):
            raise InvalidRequest(
                f"save_freq is {save_freq!r}: it must be 'epoch', a number of batches, or False", object="save_freq"
            )
        known = inspect.signature(holdfast.CheckpointManager).parameters.values()
        unknown = manager.keys() - {each.name for each in known if each.kind is each.KEYWORD_ONLY}
        if unknown:
            raise TypeError(f"BackupAndRestore has no arguments {', '.join(sorted(unknown))}")
        self.backup_dir, self.save_freq = backup_dir, save_freq
        self.double_checkpoint, self.delete_checkpoint = double_checkpoint, delete_checkpoint
        self._options = {"preemption": preemption, **manager}
        self._fitting: Fitting | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        if self._fitting is not None:
            self._fitting.abandon()
        self._fitting = Fitting(self.model, self.save_freq, self.delete_checkpoint)
        self._fitting.begin(self.backup_dir, max_to_keep=2 if self.double_checkpoint else 1, **self._options)
