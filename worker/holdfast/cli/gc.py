"""`holdfast gc`: lists what a run directory holds that belongs to no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from holdfast.cli.output import JSON
from holdfast.cli.target import RUN, open_directory
from holdfast_storage.errors import InvalidRequest

if TYPE_CHECKING:
    from holdfast_storage.records import Entry
    from holdfast_storage.store import Store

RETIRED, ORPHAN, OPEN = "retired", "orphan", "open"
_TOLD = {
    RETIRED: "its checkpoint was removed from the list; its deletion goes on, or is taken up by the next job",
    ORPHAN: "left by a save that can never be committed; the next job removes it, or the same mv",
    OPEN: "a save that is going on, or was left by a job that has ended",
}


@click.command(name="gc")
@RUN
@click.option("--dry-run", is_flag=True, help="List only. Nothing else is possible at the moment.")
@JSON
def command(run: str, dry_run: bool, as_json: bool) -> None:
    """List the folders of RUN that hold no live checkpoint, with their sizes.

    Nothing is deleted: who leads the run removes what can never be committed, after an entry in the log that says so.
    The next job does it at its first save. So --dry-run has to be given. Folders of generations that never led here are
    not listed: they may be copies. Exit status 0, whether or not there is anything.
    """
    from holdfast.cli.output import Output, count, human_size, print_json, table
    from holdfast_storage.log.log import Log

    if not dry_run:
        raise InvalidRequest("gc deletes nothing, the next job that saves in RUN does: give --dry-run to see what")
    store = open_directory(run)
    folders = store.list()  # before the log, or what is committed meanwhile would be listed
    entry = Log(store).tail()
    left = _left(store, entry, folders) if entry else {}
    found = [(folder, kind, _size(store, folder)) for folder, kind in left.items()]
    total = sum(size for _, _, size in found)
    if as_json:
        described = [{"folder": folder, "kind": kind, "size": size} for folder, kind, size in found]
        print_json({"run": store.url, "size": total, "folders": described})
        return
    out = Output()
    if found:
        columns = (">size", "folder", "kind", "")
        out.print(table(columns, ((human_size(size), folder, kind, _TOLD[kind]) for folder, kind, size in found)))
    out.say(f"{count(len(found), 'folder')} of {human_size(total)} without a live checkpoint in {store.url}")


def _left(store: Store, entry: Entry, folders: list[str]) -> dict[str, str]:
    """Return the folders of attempts that hold no live checkpoint, and why, as of an entry of the log."""
    from holdfast_storage.layout import parse_folder
    from holdfast_storage.run_directory import orphans

    state = entry.state
    lost = set(orphans(store, entry))
    live = {record.folder for record in state.checkpoints}
    left: dict[str, str] = {}
    for attempt in (parse_folder(name) for name in folders if name.endswith("/")):
        if attempt is None or attempt.folder in live:
            continue
        if attempt.folder in state.retired:
            left[attempt.folder] = RETIRED
        elif attempt.folder in lost:
            left[attempt.folder] = ORPHAN
        elif state.generation is not None and attempt.generation == state.generation.id:
            left[attempt.folder] = OPEN
    return left


def _size(store: Store, folder: str) -> int:
    """Return the bytes in a folder. What vanishes meanwhile counts nothing."""
    from holdfast_storage.parallel import in_parallel

    return sum(in_parallel(lambda name: store.size(name) or 0, _objects(store, folder), store.parallel))


def _objects(store: Store, folder: str) -> Iterator[str]:
    for name in store.list(folder):
        path = f"{folder}/{name}"
        if name.endswith("/"):
            yield from _objects(store, path.removesuffix("/"))
        else:
            yield path
