"""What has started this process, if it is one of several of its kind: launchers say so in the environment.

A number above 0 is the sign that counts. Sizes alone mislead: a shell in a Slurm allocation, a batch script and rank 0
of a program that saves on rank 0 alone all see the size of a job, and are right to save alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from holdfast_storage.logger import logger

log = logger("holdfast")

_LAUNCHERS = (
    ("a Slurm job step", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("an MPI launcher", "PMI_RANK", "PMI_SIZE"),
    ("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("an indexed Job of Kubernetes", "JOB_COMPLETION_INDEX", ""),  # which does not tell how many there are
)
"""Launchers, and their variables for the number of a process and for how many there are."""


def launched_by(environment: Mapping[str, str]) -> str:
    """Return in words which of several processes this is; empty if it is the first one or the only one."""
    for launcher, rank, size in _LAUNCHERS:
        number = _number(environment, rank)
        if number > 0 and (not size or number < _number(environment, size)):
            return f"process {number} of {launcher} ({rank})"
    return ""


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def warn_of_launcher() -> None:
    """Log a warning if this process, which is about to save alone, is one of several."""
    launched = launched_by(os.environ)
    if launched:
        log.warning(
            "this is %s, counted from 0, and nothing names its cluster: it saves and restores alone. If these "
            "processes train together, pass cluster_resolver to the CheckpointManager, such as "
            "strategy.cluster_resolver or tf.distribute.cluster_resolver.SlurmClusterResolver(), or set TF_CONFIG. If "
            "each trains for itself, give each a directory of its own",
            launched,
        )
