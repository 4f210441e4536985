"""`holdfast pin`: keeps a checkpoint from retention."""

from __future__ import annotations

import time

import click

from holdfast.cli.holds import PINNED, change_holds
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.records import MOST_PINS, CheckpointRecord, LogState, Pin


@click.command(name="pin")
@PINNED
@click.option("--reason", default="", metavar="TEXT", help="What it is kept for: shown by ls and show.")
def command(target: str, reason: str) -> None:
    """Keep a checkpoint until it is unpinned.

    It is the latest checkpoint of that step. Retention does not remove it, and it does not count among those that
    max_to_keep says. The training job may be running or not. Pinning again replaces the reason.
    """
    if len(reason) > 256 or not reason.isprintable():
        raise InvalidRequest("--reason is not one line of at most 256 printable characters")

    def pin(state: LogState, record: CheckpointRecord) -> LogState | None:
        if record.stock:
            raise InvalidRequest(f"{record.prefix} was written by TensorFlow itself: Holdfast never removes it")
        pinned = {pin.prefix: pin.reason for pin in state.pinned}
        if pinned.get(record.prefix) == reason:
            return None
        if len(pinned) >= MOST_PINS and record.prefix not in pinned:
            raise InvalidRequest(f"{MOST_PINS:,} checkpoints are pinned, which is the most: unpin some")
        return state.pin(Pin(record.prefix, time.time(), reason))

    change_holds(target, "pin", pin, reason, done="is pinned", same="is pinned already")
