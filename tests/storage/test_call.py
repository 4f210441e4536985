"""Coroutines on an event loop, as other threads see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from holdfast_storage.store.objects.call import Call, results, stop_all
from support.jumping_loop import JumpingLoop, running


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with running(JumpingLoop()) as loop:
        yield loop


def test_what_it_returns_and_raises(loop: asyncio.AbstractEventLoop) -> None:
    """A call returns or raises what its coroutine does, and gives memory back once. Guards against a failed request
    that counts as done, and memory that is given back twice or never."""
    ended: list[int] = []

    async def work(answer: int) -> int:
        await asyncio.sleep(1.0)
        if not answer:
            raise OSError("cut")
        return answer

    good, bad = (Call(work(answer), loop, lambda answer=answer: ended.append(answer)) for answer in (1, 0))
    assert good.result() == good.result() == 1
    with pytest.raises(OSError, match="cut"):
        bad.result()
    assert (good.failed, bad.failed) == (False, True)
    assert ended == [1, 0]


def test_it_is_over_when_it_has_let_go(loop: asyncio.AbstractEventLoop) -> None:
    """A call is over only when its thread no longer uses the memory. Guards against a thread that still writes to
    memory that somebody else has by now."""
    begun, let_go = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5.0)
            let_go.set()

    call = Call(work(), loop)
    begun.wait()
    stop_all([call])
    assert let_go.is_set()
    with pytest.raises(CancelledError):
        call.result()


def test_the_first_error_is_told_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """The first error of several calls is raised at once. Guards against a save that fails only when the slowest of its
    parts has been given up."""

    async def fail() -> None:
        raise OSError("cut")

    endless = Call(asyncio.Event().wait(), loop)
    with pytest.raises(OSError, match="cut"):
        results([endless, Call(fail(), loop)])
    stop_all([endless])


def test_what_is_stopped_at_once_never_begins(loop: asyncio.AbstractEventLoop) -> None:
    """A call that is stopped before it starts never begins, and gives its memory back. Guards against a part that is
    sent although its upload has failed."""
    begun, ended = threading.Event(), threading.Event()
    held = threading.Event()

    async def work() -> None:
        begun.set()

    loop.call_soon_threadsafe(held.wait)
    call = Call(work(), loop, ended.set)
    loop.call_soon_threadsafe(call._cancel)
    held.set()
    with pytest.raises(CancelledError):
        call.result()
    assert (begun.is_set(), ended.is_set()) == (False, True)
