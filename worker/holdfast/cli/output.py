"""The output of the commands: tables for people, JSON for programs, both on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from typing import Any

import click
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table

from holdfast_storage.cluster import Task

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


def console(stderr: bool = False) -> Console:
    """Return a console without markup, which names of variables contain. In a pipe, lines are as long as necessary."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100_000
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def print_json(document: Any) -> None:
    """Print one JSON document. Sizes are bytes, times are seconds since the epoch."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


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


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a table. Columns whose names begin with `>` are aligned to the right."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with very many rows. Cells are not folded, and a row takes microseconds."""
    heads = [column.removeprefix(">") for column in columns]
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)]
    sides = [">" if column.startswith(">") else "<" for column in columns]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    yield form.format(*heads).rstrip()
    yield "─" * (sum(widths) + 2 * (len(widths) - 1))
    for row in rows:
        yield form.format(*row).rstrip()


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
