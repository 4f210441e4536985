"""`holdfast unpin`: gives a checkpoint back to retention."""

from __future__ import annotations

import click

from holdfast.cli.holds import PINNED, change_holds
from holdfast_storage.records import CheckpointRecord, LogState


@click.command(name="unpin")
@PINNED
def command(target: str) -> None:
    """Take back what `holdfast pin` did, for all checkpoints of that step.

    What retention would have removed before, it removes after the next save.
    """

    def unpin(state: LogState, record: CheckpointRecord) -> LogState | None:
        after = state
        for each in state.checkpoints:
            after = after.unpin(each.prefix) if each.step == record.step else after
        return None if after == state else after

    change_holds(target, "unpin", unpin, done="is not pinned any more", same="is not pinned")
