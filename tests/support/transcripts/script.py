"""Transcripts: readable scripts of what happens and of all that must come of it.

A file holds scenarios. Each has a title, a comment that says what holds and which failure it guards against, and
commands, each with the lines that it must print:

    == two workers save
    # All of them are told of the same commit. Guards against a worker that is told before the log says so.
    > a saves 1
      Append 2 commit ...

What is printed says everything that the state machine did, so what is not there did not happen. The expected lines are
written by the program and read by people: after a change of behaviour,

    REWRITE=1 pytest tests/core/test_transcripts.py

writes them anew, and the difference is what is to be reviewed. `stage` describes the language.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from .stage import Stage

TITLE, COMMENT, COMMAND = "== ", "#", "> "


@dataclass
class Command:
    line: int
    text: str
    expected: list[str] = field(default_factory=list)


@dataclass
class Scenario:
    """One history, from an empty directory on."""

    file: Path
    line: int
    title: str
    comment: list[str] = field(default_factory=list)
    body: list[Command | str] = field(default_factory=list)  # commands, and the comments and blank lines among them

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.title}"

    @property
    def commands(self) -> list[Command]:
        return [part for part in self.body if isinstance(part, Command)]

    def play(self) -> str:
        """The text of this scenario as it should read: with what the commands have printed."""
        stage = Stage()
        lines = [TITLE + self.title, *self.comment]
        for part in self.body:
            if isinstance(part, str):
                lines.append(part)
                continue
            try:
                printed = stage.do(part.text)
            except Exception as error:
                raise RuntimeError(f"{self.file}:{part.line}: {part.text}: {error!r}") from error
            lines += [COMMAND + part.text, *printed]
        return "\n".join(lines) + "\n"

    @property
    def text(self) -> str:
        """As it stands in the file."""
        lines = [TITLE + self.title, *self.comment]
        for part in self.body:
            lines += [part] if isinstance(part, str) else [COMMAND + part.text, *part.expected]
        return "\n".join(lines) + "\n"

    def check(self) -> None:
        """Raises AssertionError, with the difference, unless all is printed as expected."""
        played = self.play()
        if played != self.text:
            lines = difflib.unified_diff(
                self.text.splitlines(), played.splitlines(), "expected", "printed", lineterm="", n=6
            )
            raise AssertionError("\n".join([f"{self.file}:{self.line}: {self.title}", *lines]))


@dataclass
class Transcript:
    """One file."""

    head: list[str]  # what stands before the first scenario
    scenarios: list[Scenario]

    def play(self) -> str:
        """The text of the whole file as it should read."""
        return self._join([scenario.play() for scenario in self.scenarios])

    @property
    def text(self) -> str:
        return self._join([scenario.text for scenario in self.scenarios])

    def _join(self, scenarios: list[str]) -> str:
        return "".join([*(line + "\n" for line in self.head), *scenarios])


def read(file: Path) -> Transcript:
    """Parse a file. Raises ValueError, with the line, where it is not as above."""
    transcript = Transcript([], [])
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            _take(transcript, file, number, line)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None
    for scenario in transcript.scenarios:
        if not scenario.comment or not scenario.commands:
            raise ValueError(f"{file}:{scenario.line}: a scenario needs a comment and commands")
    return transcript


def _take(transcript: Transcript, file: Path, number: int, line: str) -> None:
    scenario = transcript.scenarios[-1] if transcript.scenarios else None
    body = scenario.body if scenario else []
    if line.startswith(TITLE):
        transcript.scenarios.append(Scenario(file, number, line.removeprefix(TITLE)))
    elif scenario is None:
        if line and not line.startswith(COMMENT):
            raise ValueError(f"{line!r} stands before the first scenario")
        transcript.head.append(line)
    elif line.startswith(COMMENT) and not body:
        scenario.comment.append(line)
    elif line.startswith(COMMAND):
        body.append(Command(number, line.removeprefix(COMMAND)))
    elif line.startswith(COMMENT) or not line:
        body.append(line)
    elif body and isinstance(body[-1], Command):
        body[-1].expected.append(line)
    else:
        raise ValueError(f"{line!r} is printed by no command")
