"""Protocol histories, played on the state machine: `support.transcripts.script` says how they are written.

`REWRITE=1` writes anew what they expect.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.transcripts.script import Scenario, read
from support.transcripts.stage import Stage
from support.transcripts.words import Unknown

FILES = sorted((Path(__file__).parent / "transcripts").iterdir())

if os.environ.get("REWRITE"):
    for file in FILES:
        file.write_text(read(file).play())

SCENARIOS = [scenario for file in FILES for scenario in read(file).scenarios]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(scenario: Scenario) -> None:
    """Each command has all the effects that are written there, and no others. Guards against a change of the machine
    that nobody has decided on."""
    scenario.check()


def test_every_file_is_used() -> None:
    """All that lies in the folder is played, and no scenario hides another one. Guards against a transcript that nobody
    plays because of its name."""
    assert len(FILES) >= 8
    assert all(read(file).scenarios for file in FILES)
    assert len({str(scenario) for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_rewrite_changes_nothing(file: Path) -> None:
    """What is played is written as it stands, comments and blank lines included. Guards against a rewrite in which the
    change of behaviour that made it necessary is hard to find."""
    assert read(file).play() == read(file).text == file.read_text()


SMALL = """\
# A file.

== a vote
# Holds. Guards.
> job a 1
  Joined generation=a members=worker-0:a0.1 fork_point=/

# Among them.
> a0 vote 1
  ReadLog
"""


@pytest.mark.parametrize(
    ("expected", "instead"),
    [
        ("  ReadLog\n", ""),
        ("  ReadLog\n", "  ReadLog\n  ReadLog\n"),
        ("  ReadLog\n", "  Probe\n"),
        ("fork_point=/", "fork_point=x"),
    ],
)
def test_another_expectation_fails(expected: str, instead: str, tmp_path: Path) -> None:
    """An effect that is missing, one too many, another one, or another field; a rewrite mends it. Guards against a
    runner that compares less than all."""
    file = tmp_path / "small.txt"
    file.write_text(SMALL)
    (scenario,) = read(file).scenarios
    scenario.check()
    file.write_text(SMALL.replace(expected, instead))
    (scenario,) = read(file).scenarios
    with pytest.raises(AssertionError, match=r"small.txt:3: a vote"):
        scenario.check()
    assert read(file).play() == SMALL


@pytest.mark.parametrize(
    "command",
    [
        "dance",
        "a dance",
        "b vote 1",
        "a7 vote 1",
        "a vote 1 loudly",
        "a vote 1 keeps=1",
        "a vote",
        "a vote one",
        "run c7",
        "run until=Nothing",
        "run until=Probe",
        "run Append=perhaps",
        "run ReadLog=good Nothing=good",
        "step Append",
        "step ReadLog perhaps",
        "deliver",
        "coordinator c5",
        "job c 1",
        "job a 1",
    ],
)
def test_what_means_nothing_is_an_error(command: str) -> None:
    """An unknown command, worker, option, effect or fate, and a word too many or too few. Guards against a script that
    tests nothing because of a slip of the pen."""
    stage = Stage()
    stage.do("job a 1")
    stage.do("a vote 1")
    with pytest.raises((Unknown, ValueError)):
        stage.do(command)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("> job a 1\n", 1),
        ("== no comment\n> job a 1\n", 1),
        ("== no command\n# Holds.\n", 1),
        ("== printed by none\n# Holds.\n  ReadLog\n", 3),
        ("== after a blank line\n# Holds.\n> job a 1\n\n  ReadLog\n", 5),
    ],
)
def test_what_is_no_transcript_is_an_error(text: str, line: int, tmp_path: Path) -> None:
    """It is named with its line. Guards against lines that are passed over."""
    file = tmp_path / "wrong.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"wrong.txt:{line}: "):
        read(file)
