"""The product with a rule of deltas broken: for the searches that must notice it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from holdfast_coordinator.core.retention import Sweep
from holdfast_coordinator.core.run import RunState
from holdfast_storage.log import entries
from holdfast_storage.records import LogState


@contextmanager
def keeps_no_base() -> Iterator[None]:
    """Retention keeps what the rules keep, and not what that needs, and the log takes it."""
    sweep_now = RunState.sweep

    def careless(self: RunState, state: LogState, verified: str) -> Sweep:
        bare = tuple(replace(record, base="") for record in state.checkpoints)
        return sweep_now(self, replace(state, checkpoints=bare), verified)

    # An entry that lists a delta without its base is not even written otherwise.
    with mock.patch.object(RunState, "sweep", careless), mock.patch.object(entries, "_check_bases"):
        yield
