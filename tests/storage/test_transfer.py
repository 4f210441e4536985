"""Data that threads send and take in."""

from __future__ import annotations

import asyncio
import io
import threading

import pytest

from holdfast_storage.store.objects import transfer as module
from holdfast_storage.store.objects.client import Body
from holdfast_storage.store.objects.transfer import Stopped, Transfer


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 4)


def test_a_body_in_pieces() -> None:
    """A body is sent in pieces without gaps. Guards against bytes that are lost or doubled between two buffers."""
    assert [bytes(piece) for piece in Transfer(Body([b"abcdef", b"", b"ghij", b"k"])).pieces()] == [
        b"abcd",
        b"ef",
        b"ghij",
        b"k",
    ]


@pytest.mark.parametrize("size", [0, 3, 4, 10, 11])
def test_a_buffer_is_filled_as_far_as_there_is_something(size: int) -> None:
    """A buffer is filled as far as there are bytes. Guards against a buffer that is written beyond its end, or called
    full when it is not."""
    buffer = memoryview(bytearray(b"." * 12))
    transfer = Transfer(buffer=buffer[:10])
    transfer.fill(io.BytesIO(b"x" * size).readinto, lambda: None)
    assert transfer.count == min(size, 10)
    assert bytes(buffer) == (b"x" * min(size, 10)).ljust(12, b".")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("error", [None, OSError, ValueError, RuntimeError])
def test_nobody_writes_into_a_buffer_that_was_given_up(error: type[Exception] | None, times: int) -> None:
    """Nobody writes to a buffer that was given up. Guards against late bytes in memory that has been verified since,
    and a wait for an endless stream."""
    buffer = memoryview(bytearray(12))
    begun, let_go = threading.Event(), threading.Event()

    def interrupt() -> None:
        if times == 1:
            let_go.set()
        if error is not None:
            raise error

    def read_into(rest: memoryview) -> int:
        begun.set()
        let_go.wait()
        rest[:4] = b"x" * 4
        return 4

    async def give_up() -> bytes:
        transfer = Transfer(buffer=buffer)
        task = asyncio.ensure_future(transfer.carried_out(lambda: transfer.fill(read_into, interrupt)))
        while not begun.is_set():
            await asyncio.sleep(0)
        for _ in range(times):  # a time limit, and then somebody who waits no longer
            task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        if times > 1:
            assert not task.done()
            let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return bytes(buffer)

    assert asyncio.run(give_up()) == b"x" * 4 + bytes(8)


@pytest.mark.parametrize("sends", [True, False])
def test_nobody_waits_for_a_thread_that_has_let_go(sends: bool) -> None:
    """Nobody waits for a thread that has let go of the buffer. Guards against a request that is repeated or given up
    only when a silent server has spoken."""
    buffer = memoryview(bytearray(4))
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        try:
            if sends:
                assert list(transfer.pieces()) == [bytes(4)]
            begun.set()
            go_on.wait()
            if not sends:
                transfer.fill(io.BytesIO(b"late").readinto, lambda: None)
        finally:
            ended.set()

    transfer = Transfer(Body([bytes(4)])) if sends else Transfer(buffer=buffer)

    async def give_up() -> None:
        task = asyncio.ensure_future(transfer.carried_out(work))
        while not begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert (transfer.body, transfer.buffer) == (None, None)
    go_on.set()
    ended.wait()
    assert bytes(buffer) == bytes(4)


@pytest.mark.parametrize("sent", [1, 2])
def test_a_body_that_nobody_waits_for_is_not_sent(sent: int) -> None:
    """A body that nobody waits for is not sent on. Guards against a part that goes on for minutes after its save has
    failed."""

    async def give_up() -> None:
        transfer = Transfer(Body([bytes(8)]))
        pieces = transfer.pieces()
        for _ in range(sent):
            next(pieces)
        go_on = threading.Event()
        task = asyncio.ensure_future(transfer.carried_out(go_on.wait))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Stopped):
            next(pieces)

    asyncio.run(give_up())


def test_what_the_thread_raises_is_raised() -> None:
    """An error of the thread is raised. Guards against a failed part that counts as sent."""

    def fail() -> None:
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        asyncio.run(Transfer(Body([])).carried_out(fail))
