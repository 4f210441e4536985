"""Waiting for what a mount shows late."""

from __future__ import annotations

import logging

import pytest

from holdfast_storage.lag import LAG, Wait
from support.lagging import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.installed(monkeypatch)


def test_it_ends(clock: Clock) -> None:
    """A wait ends at its time, after one last look. Guards against a wait without an end, and one that gives up before
    the last look that it promised."""
    wait = Wait()
    while wait.again("it is not there"):
        pass
    assert clock.now == pytest.approx(1000.0 + LAG)
    assert clock.pauses < 50


def test_none(clock: Clock) -> None:
    """With no patience there is no wait. Guards against a pause where nothing should be waited for."""
    assert not Wait(0.0).again("it is not there")
    assert not Wait(-5.0).again("it is not there")
    assert clock.pauses == 0


def test_what_is_as_old_is_waited_for_once(clock: Clock) -> None:
    """Objects of the same age share one wait. Guards against a minute of waiting for each of a hundred objects."""
    wait = Wait(10.0)
    while wait.again("one is not there"):
        pass
    assert not wait.again("the other is not there")
    assert clock.now == pytest.approx(1010.0)
    assert Wait(since=clock.now - LAG + 7.0).left == pytest.approx(7.0)
    assert not Wait(since=clock.now - LAG).again("it has been there for that long")


def test_what_nobody_waits_for_ends(clock: Clock) -> None:
    """A wait ends when nobody is interested any more. Guards against a thread that waits for the objects of a save that
    was given up, while its program wants to end."""
    wait = Wait(over=lambda: clock.pauses >= 3)
    while wait.again("it is not there"):
        pass
    assert clock.pauses == 3


def test_a_long_one_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A long wait is logged once. Guards against a minute of silence, and a line for each look."""
    with caplog.at_level(logging.WARNING):
        short = Wait(3.0)
        while short.again("soon"):
            pass
        assert not caplog.records
        wait = Wait()
        while wait.again("/mnt/run/manifest.json is not there"):
            pass
    (record,) = caplog.records
    assert record.getMessage().startswith("/mnt/run/manifest.json is not there; waiting up to 5")
