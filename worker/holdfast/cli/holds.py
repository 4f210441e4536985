"""What keeps checkpoints from retention: pins and tags, which people set, and leases of readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import click

from holdfast.cli.target import Run, given, open_directory
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.log.holding import hold
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Holding, LogState

PINNED = click.argument("target", metavar="RUN@STEP")

NO_HOLDS: Mapping[str, Any] = {"pinned": None, "tags": [], "leases": 0}


def holds(state: LogState) -> dict[str, dict[str, Any]]:
    """Return, by prefix, who keeps a checkpoint, as JSON. It is `NO_HOLDS` for the others."""
    leases = Counter(lease.prefix for lease in state.leases)
    pins = {pin.prefix: {"time": pin.time, "reason": pin.reason} for pin in state.pinned}
    tags: dict[str, list[str]] = {}
    for tag in sorted(state.tags, key=lambda tag: tag.name):
        tags.setdefault(tag.prefix, []).append(tag.name)
    return {
        prefix: {"pinned": pins.get(prefix), "tags": tags.get(prefix, []), "leases": leases[prefix]}
        for prefix in {*pins, *tags, *leases}
    }


def holds_in_words(document: Mapping[str, Any]) -> list[str]:
    """Return who keeps a checkpoint, for people."""
    from holdfast.cli.output import count

    words = []
    if document["tags"]:
        words.append(f"tagged {', '.join(document['tags'])}")
    if pinned := document["pinned"]:
        words.append(f"pinned: {pinned['reason']}" if pinned["reason"] else "pinned")
    if document["leases"]:
        words.append(f"leased by {count(document['leases'], 'reader')}")
    return words


def change_holds(
    target: str,
    kind: Holding,
    change: Callable[[LogState, CheckpointRecord], LogState | None],
    note: str = "",
    *,
    done: str,
    same: str,
) -> None:
    """Let the log record what `change` makes of its state and of the checkpoint RUN@STEP, and print what is true now.

    done, same: what is said of it if there was something to record, and if there was not.
    """
    from holdfast.cli.output import Output

    url, step = given(target)
    store = open_directory(url)
    found: CheckpointRecord | None = None
    said = done

    def changed(state: LogState, _: int) -> LogState | None:
        nonlocal found, said
        found = Run(store, state).select(step)
        after = change(state, found)
        said = same if after is None else done
        return after

    hold(Log(store), kind, changed, note)
    if found is None:
        raise InvalidRequest(f"{store.url} has no log of Holdfast's: nothing is removed there, and nothing is kept")
    Output().say(f"{store.url}@{step} {said}")
