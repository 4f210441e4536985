"""`holdfast unpin`: gives a checkpoint back to retention."""

from __future__ import annotations

import click

from holdfast.cli.holds import PINNED, change_pins
from holdfast_storage.records import CheckpointRecord, LogState


@click.command(name="unpin")
@PINNED
def command(target: str) -> None:
    """Take back what `holdfast pin` did.

    If retention would have removed the checkpoint before, it does so after the next save.
    """

    def unpin(state: LogState, record: CheckpointRecord) -> LogState | None:
        after = state.unpin(record.prefix)
        return None if after == state else after

    change_pins(target, "unpin", unpin, done="is not pinned any more", same="is not pinned")
