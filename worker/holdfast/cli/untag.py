"""`holdfast untag`: takes a name from a checkpoint."""

from __future__ import annotations

import click

from holdfast.cli.holds import change_holds
from holdfast.cli.target import given
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.records import CheckpointRecord, LogState


@click.command(name="untag")
@click.argument("target", metavar="RUN@TAG")
def command(target: str) -> None:
    """Take a name that `holdfast tag` has given.

    If nothing else keeps the checkpoint, retention removes it after the next save.
    """
    _, name = given(target)
    if isinstance(name, int):
        raise InvalidRequest(f"{target} names a step: give RUN@TAG, such as {target.rpartition('@')[0]}@production")

    def untag(state: LogState, _: CheckpointRecord) -> LogState:
        return state.untag(name)

    change_holds(target, "untag", untag, name, done="is no tag any more", same="is no tag")
