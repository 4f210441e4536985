"""`holdfast tag`: gives a checkpoint a name."""

from __future__ import annotations

import time

import click

from holdfast.cli.holds import PINNED, change_holds
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import is_tag
from holdfast_storage.records import MOST_TAGS, CheckpointRecord, LogState, Tag


@click.command(name="tag")
@PINNED
@click.argument("name")
def command(target: str, name: str) -> None:
    """Give a checkpoint a name, such as production, or move the name to it.

    The name can be used wherever a step can: RUN@production, manager.restore("production"). Each name is given once in
    a run, and a checkpoint may have several. Retention does not remove it, and it does not count among those that
    max_to_keep says. The training job may be running or not.
    """
    if not is_tag(name):
        told = "begins with a letter, and has letters, digits, '.', '_' and '-' only, at most 64"
        raise InvalidRequest(f"{name!r:.80} is no tag: it {told}")

    def tag(state: LogState, record: CheckpointRecord) -> LogState | None:
        if record.stock:
            raise InvalidRequest(f"{record.prefix} was written by TensorFlow itself: only Holdfast's are tagged")
        if record not in state.restorable:
            raise InvalidRequest(f"{record.prefix} is marked as damaged, or needs what is: it is not tagged")
        before = state.tagged(name)
        if before == record:
            return None
        if before is None and len(state.tags) >= MOST_TAGS:
            raise InvalidRequest(f"there are {MOST_TAGS:,} tags, which is the most: take some away")
        return state.tag(Tag(name, record.prefix, time.time()))

    change_holds(target, "tag", tag, name, done=f"is tagged {name}", same=f"is tagged {name} already")
