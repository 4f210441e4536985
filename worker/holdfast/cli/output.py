"""The output of the commands: tables for people, JSON for programs, both on stdout.

Every command prints by this module alone. Much of what it prints was chosen by others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from typing import Any

import click
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table

from holdfast_storage.cluster import Task
from holdfast_storage.printable import printable, printable_json

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


class Output(Console):
    """A console without markup, which names of variables contain. In a pipe, lines are as long as necessary."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else 100_000
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)

    def say(self, text: str = "") -> None:
        """Print one line: what in the text would begin another one is shown as an escape."""
        self.print(printable(text))


def print_json(document: Any) -> None:
    """Print one JSON document. Sizes are bytes, times are seconds since the epoch."""
    click.echo(printable_json(json.dumps(document, indent=2, ensure_ascii=False)))


def as_document(value: Any) -> Any:
    """Return a message of the protocol or a dataclass as JSON: each field by its name, null where it is absent."""
    if isinstance(value, Message):
        there = {f.name: not f.has_presence or value.HasField(f.name) for f in value.DESCRIPTOR.fields}
        return {name.rstrip("_"): as_document(getattr(value, name)) if there[name] else None for name in there}
    if isinstance(value, Task):
        return str(value)
    if is_dataclass(value):
        return {field.name: as_document(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_document(each) for key, each in value.items()}
    return [as_document(each) for each in value] if isinstance(value, MutableSequence | tuple) else value


def table(columns: Iterable[str], rows: Iterable[Iterable[str | Sequence[str]]]) -> Table:
    """Return a table. Columns whose names begin with `>` are aligned to the right. A cell is a line, or several."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        result.add_row(*("\n".join(map(printable, [cell] if isinstance(cell, str) else cell)) for cell in row))
    return result


def print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with very many rows. Cells are not folded, and a row takes microseconds."""
    click.echo("\n".join(_lines(columns, rows)))


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    rows = [[printable(cell) for cell in row] for row in rows]
    heads = [column.removeprefix(">") for column in columns]
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)]
    sides = [">" if column.startswith(">") else "<" for column in columns]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    yield form.format(*heads).rstrip()
    yield "─" * (sum(widths) + 2 * (len(widths) - 1))
    for row in rows:
        yield form.format(*row).rstrip()


@contextmanager
def progress(what: str, total: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the bytes done since its last call and, on a terminal, moves a bar on stderr.

    total: returns all bytes, if there is a bar.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    out = Output(stderr=True)
    if not out.is_terminal:
        yield lambda _: None
        return
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(what, total=total())
        yield lambda size: bar.advance(task, size)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal, on stderr, that something is going on whose end is not known."""
    with Output(stderr=True).status(printable(what)):  # shows nothing elsewhere
        yield


def human_size(size: int) -> str:
    """Return bytes as people read them: `512 B`, `1.50 MiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.2f} {unit}"


def human_time(time: float) -> str:
    """Return a time in the reader's own time zone."""
    return datetime.fromtimestamp(time, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def human_duration(seconds: float) -> str:
    """Return a duration as people read it: `42 s`, `12 min`, `3.5 h`, `4 days`."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 object`, `2 objects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
