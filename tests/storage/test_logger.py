"""What Holdfast logs."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
import holdfast_coordinator
import holdfast_storage
from holdfast_storage.errors import StorageError
from holdfast_storage.logger import log_to_stderr, logger
from support.evil import EVIL, faults

HUSH = "password=hush"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler of the user writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger("holdfast").addHandler(handler)
    yield written
    logging.getLogger("holdfast").removeHandler(handler)


def raised(text: str) -> Exception:
    """An error whose cause has a text of others."""
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise StorageError("Could not read a") from error
    except StorageError as error:
        return error


def test_a_record_is_one_line(lines: io.StringIO) -> None:
    """A record with a name of others is one visible line, without secrets. Guards against forged lines."""
    logger("holdfast.storage").warning("%s: %s", EVIL, HUSH)
    assert lines.getvalue().count("\n") == 1
    assert not faults(lines.getvalue())
    assert "hush" not in lines.getvalue()


@pytest.mark.parametrize("text", [EVIL, HUSH, "two\nBAD  forged"])
def test_a_traceback_holds_nothing_of_the_kind(lines: io.StringIO, text: str) -> None:
    """A traceback says type, text and place of every cause, and begins no line that others wrote. Guards against a
    cause of another library, which repeats what it was asked."""
    error = raised(text)
    logger("holdfast").error("it broke", exc_info=error)
    told = lines.getvalue()
    assert not faults(told)
    assert "hush" not in told
    for part in ("StorageError: Could not read a", "RuntimeError: ", "in raised", "direct cause"):
        assert part in told


def test_what_is_fit_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A record that is fit keeps its arguments and its exception. Guards against tools that group records by these."""
    error = raised("plain")
    with caplog.at_level(logging.INFO, "holdfast"):
        logger("holdfast").info("%s: %d", "a", 1, exc_info=error)
    (record,) = caplog.records
    assert (record.msg, record.args) == ("%s: %d", ("a", 1))
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_process_of_our_own_shows_all_libraries_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of Holdfast's own, the lines of other libraries are made fit, too, and none is lost. Guards against
    asyncio, which logs exceptions of ours."""
    handler = logging.StreamHandler(written := io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    log_to_stderr()
    logging.getLogger("other").error("%s", EVIL)
    logging.getLogger("other").error("%d", EVIL)
    logging.getLogger("other").error("odd", exc_info=(None, None, None))
    assert written.getvalue().count("\n") == 3 + written.getvalue().count("NoneType: None")
    assert not faults(written.getvalue())


def test_every_logger_is_one_of_these() -> None:
    """All loggers are made in one place. Guards against a module whose lines are not made fit."""
    for package in (holdfast, holdfast_coordinator, holdfast_storage):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            if path.name != "logger.py":
                assert not re.search(r"getLogger|logging\.(warning|error|info)\(", path.read_text()), path
