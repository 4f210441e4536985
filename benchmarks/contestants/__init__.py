"""The contestants, by name. The order here is the order of turns and of columns."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from benchmarks.contestants.base import Contestant
    from benchmarks.training import Training

LABELS = {
    "tensorflow": "TensorFlow sync",
    "tensorflow_async": "TensorFlow async",
    "holdfast": "Holdfast",
    "raw": "raw write (limit)",
}

# What the ratios are relative to.
REFERENCE = "tensorflow"

_CLASSES = {
    "tensorflow": ("benchmarks.contestants.tensorflow_manager", "TensorFlowManager"),
    "tensorflow_async": ("benchmarks.contestants.tensorflow_manager", "TensorFlowAsyncManager"),
    "holdfast": ("benchmarks.contestants.holdfast_manager", "HoldfastManager"),
    "raw": ("benchmarks.contestants.raw", "RawWriter"),
}


def create(name: str, training: Training) -> Contestant:
    """Make a contestant. Imports its library here, so that the report and the parent process need none of them."""
    module, cls = _CLASSES[name]
    return cast("Contestant", getattr(import_module(module), cls)(training))
