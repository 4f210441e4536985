"""Waiting for what a mount shows late."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.lag import LAG, Wait, holds
from support.lagging import Clock, LaggingStore


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


def test_whether_an_object_holds_these_bytes(clock: Clock, tmp_path: Path) -> None:
    """An object holds exactly these bytes, or others, or more of them; a late one is waited for. Guards against memory
    for whatever stands in the place of an index, and an index of others that is taken for ours."""
    store = LaggingStore(str(tmp_path), clock, {"index": clock.now + 10.0})
    store.create("index", b"ours")
    assert holds(store, "index", b"ours")
    assert clock.now >= 1010.0
    assert not holds(store, "index", b"outs")
    assert not holds(store, "index", b"our")
    with pytest.raises(StorageError, match="exists and is not seen here"):
        holds(store, "manifest", b"ours")
