"""Coordinators in the process of the test, each on a thread of its own, listening on 127.0.0.1."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from holdfast_coordinator.door import ADMITTED, Admitted
from holdfast_coordinator.server import Server
from holdfast_protos import tls
from holdfast_protos.client import CHANNEL_OPTIONS
from holdfast_protos.settings import Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

T = TypeVar("T")

ROOTS = (os.path.realpath(tempfile.gettempdir()), "/dev/shm", "memory://tests")


class Coordinator:
    """A server that is up until `stop()`. options: those of a `Server`."""

    def __init__(self, listen: str = "127.0.0.1:0", roots: Sequence[str] = ROOTS, **options: Any) -> None:
        begun: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._live(begun),), name="holdfast-test-coordinator", daemon=True
        )
        self._thread.start()
        self._loop = begun.result(10.0)
        self.server = Server(roots, **options)
        self.running = True
        try:
            self.run(self.server.start(listen))
        except BaseException:
            self._end()
            raise

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def id(self) -> str:
        return self.server.runs.leader.id

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def stop(self, patience: float = 0.0) -> None:
        """End it; without patience in the middle of whatever it does."""
        if self.running:
            self.run(self.server.stop(patience))
            self._end()

    @contextmanager
    def stub(self) -> Iterator[rpc.CoordinatorStub]:
        """What speaks to it without proving anything: it must be an insecure one."""
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            yield rpc.CoordinatorStub(channel)

    def status(self, run: str) -> pb.StatusReply:
        """Return the status of a run, as it is told to those who may ask."""

        async def ask() -> pb.StatusReply:
            ADMITTED.set(Admitted())
            return await self.server.calls.status(pb.StatusRequest(run=run))

        return self.run(ask())

    def attended_by(self, run: str, count: int) -> bool:
        """Return whether this many workers of the world in `status` are there."""
        return sum(w.alive for w in self.status(run).run.workers) == count

    async def _live(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        self._ended, self.lives_in = asyncio.Event(), asyncio.current_task()
        begun.set_result(asyncio.get_running_loop())
        await self._ended.wait()

    def _end(self) -> None:
        self.running = False
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10.0)
        assert not self._thread.is_alive()


def channel_to(address: str) -> grpc.Channel:
    """A channel to whoever listens by TLS at an address, without any proof."""
    peer = tls.meet(address, Settings(), 10.0)
    return grpc.secure_channel(address, peer.credentials, [("grpc.ssl_target_name_override", peer.name)])


StartCoordinator = Callable[..., Coordinator]
"""`start(listen, roots)`: the fixture that starts coordinators."""
