"""What holds for all tests of the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from holdfast.session import open_sessions


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """End the managers that a test leaves open, as a program's end does. Their coordinators would go on beside the
    tests that follow, and some versions of gRPC log errors where two event loops of a process use it."""
    yield
    for session in list(open_sessions._open):
        open_sessions.hurry(session, time.monotonic() + 5.0)
        open_sessions.await_end(session, open_sessions.leave(session))
