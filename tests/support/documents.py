"""Follows a page of the documents as a reader would: its programs are files, its commands are run.

A block of Python that begins with `# name.py` is that file. In a `console` block, a line that begins with `$` is a
command, of `holdfast` or `python`; what stands below is what it prints. There, `...` is any number of lines, and one
number is as good as another.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from click.testing import CliRunner

from holdfast.cli import main
from holdfast.session import open_sessions
from support.child import TESTS

DOCUMENTS = TESTS.parent / "docs"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code of a page."""

    language: str
    text: str


def sections(page: str) -> dict[str, list[Block]]:
    """The blocks of a page of docs/, by the titles of its sections. Those before the first section have none."""
    found: dict[str, list[Block]] = {}
    for part in f"\n{(DOCUMENTS / page).read_text()}".split("\n## "):
        title = part.partition("\n")[0]
        found[title] = [Block(*each) for each in re.findall(r"^```(\w+)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)]
    return found


def follow(blocks: Sequence[Block], directory: Path, names: Mapping[str, str] | None = None) -> str:
    """Do in a directory, which is the working directory, what blocks show. What the last command prints.

    names: what is called otherwise here, by what it is called in the page. AssertionError if a command fails, or prints
    something else.
    """
    said = ""
    for block in blocks:
        text = block.text
        for theirs, ours in (names or {}).items():
            text = text.replace(theirs, ours)
        if block.language == "console":
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                said = _run(shlex.split(command, comments=True), directory)
                assert not expected or alike(expected, said), f"$ {command}\n{said}"
        elif name := re.match(r"# (\w+\.py)\n", text):
            (directory / name[1]).write_text(text)
    return said


def alike(expected: str, said: str) -> bool:
    """Whether a text is what a page shows, but for numbers, and lines for which there is `...`."""
    lines = _plain(expected).splitlines(keepends=True)
    pattern = "".join("(?:.*\n)*?" if line == "...\n" else re.escape(line) for line in lines)
    return re.fullmatch(pattern, _plain(said)) is not None


def _run(command: Sequence[str], directory: Path) -> str:
    """What a command prints."""
    program, *arguments = command
    with _own_modules(directory):
        if program == "holdfast":
            done = CliRunner().invoke(main, arguments, prog_name="holdfast", catch_exceptions=False)
            assert done.exit_code == 0, f"{shlex.join(command)}: {done.output}"
            return done.stdout
        assert program == "python", shlex.join(command)
        with redirect_stdout(StringIO()) as said:
            runpy.run_path(str(directory / arguments[0]), run_name="__main__")
        return said.getvalue()


@contextmanager
def _own_modules(directory: Path) -> Iterator[None]:
    """A process of its own, as far as the modules of a directory and the managers that it leaves open go."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        open_sessions._close_all(last=True)  # as when a program ends
        sys.path.remove(str(directory))
        for name in set(sys.modules) - before:
            if str(directory) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def _plain(text: str) -> str:
    """A text without its numbers, and without spaces and lines that depend on them."""
    text = re.sub(r"-?\d+([.,]\d+)*(e[-+]\d+)?", "0", re.sub(r"\b[0-9a-f]{8}\b", "0", text))
    return "".join(f"{' '.join(re.sub('─+', '─', line).split())}\n" for line in text.strip().splitlines())
