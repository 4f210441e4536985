"""Long waits, and what is said of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import holdfast.session.waiting
from holdfast.session.lane import Pending
from holdfast.session.this_task import ALONE
from holdfast.session.waiting import wait_for


class Slow(Pending[int]):
    """Is known after 50 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds += timeout
        return self.seconds > 50.0


def test_waits_are_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A long wait is reported with whom it waits for, also where that cannot be asked. Guards against ten silent
    minutes for a worker that never came."""
    slow = Slow()
    monkeypatch.setattr(holdfast.session.waiting, "time", SimpleNamespace(monotonic=lambda: slow.seconds))
    asked = iter(["worker-1", "worker-2"])
    session: Any = SimpleNamespace(this_task=ALONE, waits_for=lambda: next(asked))
    assert wait_for(session, slow, "all to join")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert [record.getMessage() for record in caplog.records] == [
        "worker-0 has been waiting 5 s for all to join: worker-1",
        "worker-0 has been waiting 10 s for all to join: worker-2",
        "worker-0 has been waiting 20 s for all to join: StopIteration()",
        "worker-0 has been waiting 40 s for all to join: StopIteration()",
    ]
    slow.seconds = 0.0
    assert not wait_for(session, slow, "all to join", lambda seconds: seconds >= 7.0)
    assert len(caplog.records) == 5
