"""gRPC between simulated processes: what the product asks of `grpc` and `grpc.aio`, and connections that go wrong.

The product's own `Link`, `client`, `Server` and `GrpcServicer` run on these: a channel leads to whoever listens at
its address when it connects, and stays there until that connection breaks, although the name may lead elsewhere.
Messages are bytes. Each request and each reply is a point that the policy is asked about.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from holdfast_protos.conventions import FAILURE_TRAILER, UNIX
from holdfast_protos.tls import Peer
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from simulation.fakes import here
from simulation.policy import Point
from simulation.processes import Process
from simulation.scheduler import Waiter

if TYPE_CHECKING:
    from simulation.world import World

KEEPALIVE = 20.0
"""Seconds after which both sides notice that nothing comes any more: twice the product's keepalive settings."""

SERVICE = "holdfast_protos.v1.Coordinator"

Metadata = Iterable[tuple[str, bytes]]


class Broken(grpc.RpcError, grpc.Call):
    """The error of a call as gRPC reports it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailer: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code, self._details, self._trailer = code, details, trailer

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailer

    def _unused(self, *_: object) -> Any:
        raise NotImplementedError

    initial_metadata = is_active = time_remaining = cancel = add_callback = _unused


class Network:
    """The listeners, and the messages that are being sent."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listeners: dict[str, Server] = {}
        self.connections: dict[Connection, None] = {}
        self._port = 5000

    def listen(self, address: str, server: Server) -> int:
        if address.startswith(UNIX):
            self.listeners[address] = server
            return 1
        host, _, port = address.rpartition(":")
        number = int(port)
        if not number:
            self._port += 1
            number = self._port
        address = f"{host}:{number}"
        there = self.listeners.get(address)
        if there is not None and there.process.alive:
            raise RuntimeError(f"{address} is taken")
        self.listeners[address] = server
        return number

    def free(self, address: str) -> None:
        """The name no longer leads to who listens there; connections that there are stay."""
        self.listeners.pop(address, None)

    def forget(self, server: Server) -> None:
        for address in [address for address, who in self.listeners.items() if who is server]:
            del self.listeners[address]

    def died(self, process: Process, *, host: bool, why: str = "the other side is gone") -> None:
        """A process was killed: its connections break, or, if its host has vanished, fall silent."""
        for connection in list(self.connections):
            if process in (connection.client, connection.server.process):
                if host:
                    connection.silence()
                else:
                    connection.cut(why)

    def stopped(self, process: Process) -> None:
        """A process was stopped: the others notice, if that lasts."""
        self.world.scheduler.later(None, KEEPALIVE, self._still, process)

    def _still(self, process: Process) -> None:
        if process.stopped:
            self.died(process, host=False, why="no answer to a ping")

    def connect(self, client: Process, address: str) -> Connection | Broken:
        """Connect to whoever listens at an address now."""
        server = self.listeners.get(address)
        elsewhere = server is not None and address.startswith(UNIX) and server.process.host != client.host
        if server is None or not server.process.alive or elsewhere:
            return Broken(grpc.StatusCode.UNAVAILABLE, f"nobody listens at {address}")
        return Connection(self, client, server, address)

    def meet(self, address: str) -> Peer:
        """Stands for `tls.meet`."""
        delay = self.world.policy.connects(here(), address)
        self.world.scheduler.pause(0.2 if delay is None else delay, ("the certificate of", address))
        made = self.connect(here(), address) if delay is not None else None
        if not isinstance(made, Connection):
            raise ConnectionRefusedError(f"nobody listens at {address}")
        made.cut("its certificate was seen")
        return Peer(made.server.chain, made.server.chain, "holdfast")  # type: ignore[arg-type]


class Connection:
    """A connection between a client and a server process."""

    def __init__(self, network: Network, client: Process, server: Server, address: str) -> None:
        self.network, self.client, self.server, self.address = network, client, server, address
        self.broken = False
        self.silent = False
        self.calls: dict[Rpc, None] = {}
        network.connections[self] = None

    def cut(self, why: str) -> None:
        """Break the connection. Both sides notice at once, if they are alive."""
        if self.broken:
            return
        self.broken = True
        self.network.connections.pop(self, None)
        calls, self.calls = self.calls, {}
        for call in calls:
            call.lost(why)

    def silence(self) -> None:
        """Let nothing pass from now on, until both sides notice."""
        if not self.silent:
            self.silent = True
            self.network.world.scheduler.later(None, KEEPALIVE, self.cut, "no answer to a ping")


class _Way:
    """Messages of one call in one direction, which arrive in the order in which they were sent."""

    def __init__(self, rpc: Rpc, receiver: Process, take: Callable[[Any, bool], None]) -> None:
        self._rpc, self._receiver, self._take = rpc, receiver, take
        self._sent: deque[tuple[Any, bool, Point | None]] = deque()
        self._arrived: deque[tuple[Any, bool, Point | None]] = deque()
        self._clear_at = 0.0

    def send(self, message: Any, last: bool, delay: float, point: Point | None = None) -> None:
        scheduler = self._receiver.scheduler
        if not delay and not self._sent:
            if not self._rpc.connection.silent:
                self._arrived.append((message, last, point))
                scheduler.soon(self._receiver, self._handed_over)
            return
        self._clear_at = max(self._clear_at, scheduler.now + delay)
        self._sent.append((message, last, point))
        scheduler.later(None, self._clear_at - scheduler.now, self._travelled)

    def _travelled(self) -> None:
        connection = self._rpc.connection
        message = self._sent.popleft()
        if not connection.broken and not connection.silent:
            self._arrived.append(message)
            self._receiver.scheduler.soon(self._receiver, self._handed_over)

    def _handed_over(self) -> None:
        message, last, point = self._arrived.popleft()
        self._take(message, last)
        if point is not None:
            self._rpc.connection.network.world.policy.reached(point, "done")


class Rpc:
    """One call. `finished` is called on the client's side, once, with what went wrong."""

    def __init__(
        self, connection: Connection, method: str, metadata: Metadata, finished: Callable[[Broken | None], None]
    ) -> None:
        self.connection = connection
        self.method = method
        self.metadata = metadata
        self.replies: list[bytes] = []
        self.replied: Callable[[], None] = lambda: None  # called on the client's side with each reply
        self.over = False  # as the client knows it
        self.task: asyncio.Task[None] | None = None
        self.inbox: asyncio.Queue[bytes | None] | None = None  # of the server, for what a client streams
        self._finished = finished
        self._to_server = _Way(self, connection.server.process, self._take)
        self._to_client = _Way(self, connection.client, self._hear)
        self._given_up = False
        self._unanswered = False
        connection.calls[self] = None

    # -- the client's side --

    def send(self, payload: bytes | None, *, last: bool) -> None:
        """A message of the client; None: it has nothing more to say."""
        connection = self.connection
        if self.over or connection.broken:
            return
        if payload is None:
            self._to_server.send(None, True, 0.0)
            return
        world = connection.network.world
        world.counts[f"requests: {self.method}"] += 1
        point = world.point("request", connection.client, self.method, connection.address)
        fate = world.policy.message(point)
        connection.client.check_alive()
        match fate.effect:
            case "cut":
                world.scheduler.later(None, fate.delay, connection.cut, "the connection was reset")
                return
            case "silence":
                connection.silence()
            case "doubled" if self.method != "Attend":
                double = Rpc(connection, self.method, self.metadata, lambda error: None)
                double._to_server.send(payload, last, 3 * fate.delay)
        self._to_server.send(payload, last, fate.delay, point)
        if fate.effect == "passed_and_cut":
            self._unanswered = True
            world.scheduler.later(None, fate.delay + 0.001, connection.cut, "the connection was reset")

    def end(self, error: Broken | None) -> None:
        """The client's word that it is over: an answer, a deadline, its own wish."""
        if not self.over:
            self.over = True
            self.connection.calls.pop(self, None)
            self._finished(error)

    def cancel(self, error: Broken) -> None:
        """The client gives it up, and the server hears of it if the connection lasts."""
        if not self.over:
            self.end(error)
            if not self.connection.broken and not self.connection.silent:
                self.connection.network.world.scheduler.later(self.connection.server.process, 0.001, self.cancelled)

    def lost(self, why: str) -> None:
        """The connection broke."""
        scheduler = self.connection.network.world.scheduler
        scheduler.soon(self.connection.server.process, self.cancelled)
        scheduler.soon(self.connection.client, self.end, Broken(grpc.StatusCode.UNAVAILABLE, why))

    def _hear(self, message: bytes | Broken | None, last: bool) -> None:
        if isinstance(message, bytes) and not self.over:
            self.replies.append(message)
            self.replied()
        if last:
            self.end(message if isinstance(message, Broken) else None)

    # -- the server's side --

    def _take(self, payload: bytes | None, last: bool) -> None:
        if self.inbox is not None:
            self.inbox.put_nowait(payload)
        elif not self._given_up and payload is not None:
            self.connection.server.handle(self, payload)

    def cancelled(self) -> None:
        self._given_up = True
        if self.task is not None and self.connection.server.process.loop is not None:
            self.connection.server.process.loop.call_soon(self.task.cancel)

    def answer(self, message: bytes | Broken | None, *, last: bool) -> None:
        """A reply, or the end: without an error, or with one."""
        connection = self.connection
        server = connection.server
        if self.over or self._unanswered or connection.broken or not server.process.alive:
            return
        world = connection.network.world
        point = world.point("reply", server.process, self.method, connection.client.name)
        fate = world.policy.message(point)
        if not server.process.alive:
            return
        if fate.effect in ("cut", "passed_and_cut"):
            world.scheduler.later(None, fate.delay, connection.cut, "the connection was reset")
            return
        if fate.effect == "silence":
            connection.silence()
        if fate.effect == "refused" and isinstance(message, bytes) and last:
            message = _failed()
        self._to_client.send(message, last, fate.delay, point)


class Channel:
    """Stands for `grpc.insecure_channel(address)`, for threads, or for a channel that accepts one certificate."""

    def __init__(self, network: Network, address: str, chain: bytes = b"") -> None:
        self._network = network
        self._chain = chain
        self._process = here()
        self._address = address
        self._connection: Connection | None = None
        self._closed = False
        self._calls: dict[Rpc, None] = {}

    def unary_unary(self, path: str, **serializers: Any) -> Callable[..., Any]:
        return partial(self._unary, path.rpartition("/")[2], _Serializers(**serializers))

    def stream_unary(self, path: str, **serializers: Any) -> Callable[..., Any]:
        def call(requests: Iterable[Any], timeout: float, metadata: Metadata) -> Any:
            method = path.rpartition("/")[2]
            return self._unary(method, _Serializers(**serializers), *requests, timeout=timeout, metadata=metadata)

        return call

    def stream_stream(self, path: str, **serializers: Any) -> Callable[..., Any]:
        return partial(Stream, self, path.rpartition("/")[2], _Serializers(**serializers))

    def close(self) -> None:
        self._closed = True
        for call in list(self._calls):
            call.cancel(Broken(grpc.StatusCode.CANCELLED, "the channel was closed"))
        if self._connection is not None:
            self._connection.cut("the client has closed it")

    def begin(self, method: str, metadata: Metadata, finished: Callable[[Broken | None], None]) -> Rpc:
        """A call on a connection, which is made if need be. Raises what a call raises."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        connection = self._connection
        if connection is None or connection.broken:
            world = self._network.world
            delay = world.policy.connects(self._process, self._address)
            world.scheduler.pause(0.2 if delay is None else delay, ("a connection to", self._address))
            if self._closed:
                raise Broken(grpc.StatusCode.CANCELLED, "the channel was closed")
            if self._connection is None or self._connection.broken:  # another thread may have been faster
                made = self._network.connect(self._process, self._address)
                if delay is None:
                    made = Broken(grpc.StatusCode.UNAVAILABLE, f"{self._address} cannot be reached")
                if isinstance(made, Broken):
                    raise made
                if self._chain and made.server.chain != self._chain:
                    made.cut("its certificate is another one")
                    raise Broken(grpc.StatusCode.UNAVAILABLE, f"{self._address} shows another certificate")
                self._connection = made
            connection = self._connection
        call = Rpc(connection, method, metadata, lambda error: (self._calls.pop(call, None), finished(error)))
        self._calls[call] = None
        return call

    def _unary(
        self, method: str, serializers: _Serializers, *requests: Any, timeout: float, metadata: Metadata = ()
    ) -> Any:
        waiters: list[Waiter] = []
        failed: list[Broken] = []

        def finished(error: Broken | None) -> None:
            if error is not None:
                failed.append(error)
            for waiter in waiters:
                waiter.wake()

        scheduler = self._network.world.scheduler
        end = scheduler.now + timeout
        call = self.begin(method, metadata, finished)
        call.send(_joined([serializers.request_serializer(request) for request in requests]), last=True)
        if not call.over:
            scheduler.block(
                ("the answer to", method, "from", self._address), max(0.0, end - scheduler.now), waiters.append
            )
        if not call.over:
            call.cancel(Broken(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        if failed:
            raise failed[0]
        return serializers.response_deserializer(call.replies[0])


class Stream:
    """The call object of a stream in both directions: notices to be iterated over, fed by a thread of its own."""

    def __init__(
        self, channel: Channel, method: str, serializers: _Serializers, requests: Iterator[Any], metadata: Metadata
    ) -> None:
        self._serializers = serializers
        self._waiters: list[Waiter] = []
        self._errors: list[Broken] = []
        self._taken = 0
        self._method = method
        self._call = channel.begin(method, metadata, self._finished)
        self._call.replied = self._wake
        here().spawn("grpc-consumer", self._consume, requests)

    def __iter__(self) -> Iterator[Any]:
        call = self._call
        scheduler = call.connection.network.world.scheduler
        while True:
            if self._taken < len(call.replies):
                self._taken += 1
                yield self._serializers.response_deserializer(call.replies[self._taken - 1])
            elif call.over:
                if self._errors:
                    raise self._errors[0]
                return
            else:
                scheduler.block((self._method, "at", call.connection.address), None, self._waiters.append)

    def cancel(self) -> None:
        self._call.cancel(Broken(grpc.StatusCode.CANCELLED, "cancelled"))

    def _consume(self, requests: Iterator[Any]) -> None:
        for request in requests:
            if self._call.over:
                return
            self._call.send(self._serializers.request_serializer(request), last=False)
        self._call.send(None, last=True)

    def _finished(self, error: Broken | None) -> None:
        if error is not None:
            self._errors.append(error)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()


class _Serializers:
    def __init__(self, request_serializer: Any, response_deserializer: Any, _registered_method: bool) -> None:
        self.request_serializer = request_serializer
        self.response_deserializer = response_deserializer


def _joined(messages: list[bytes]) -> bytes:
    """The messages of one request, as one: a stream that breaks in its middle has told nothing."""
    return b"".join(len(message).to_bytes(4, "little") + message for message in messages)


def _split(data: bytes) -> Iterator[bytes]:
    while data:
        length = int.from_bytes(data[:4], "little")
        yield data[4 : 4 + length]
        data = data[4 + length :]


class Aborted(Exception):
    """The exception that `context.abort` raises."""


class Context:
    """The context of a call that the servicer answers."""

    def __init__(self, address: str, metadata: Metadata) -> None:
        self.error: Broken | None = None
        self.written: Any = None
        self._address = address
        self._metadata = metadata

    def peer(self) -> str:
        return self._address

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    async def write(self, reply: Any) -> None:
        self.written = reply

    async def abort(self, code: grpc.StatusCode, details: str, trailer: tuple[tuple[str, bytes], ...]) -> None:
        self.error = Broken(code, details, trailer)
        raise Aborted


class Server:
    """Stands for `grpc.aio.server()`."""

    def __init__(self, network: Network, interceptors: list[Any]) -> None:
        self.network = network
        self.chain = b""
        self._interceptors = interceptors
        self.process = here()
        self._handlers: Mapping[str, Any] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._open = False

    def add_insecure_port(self, address: str) -> int:
        return self.network.listen(address, self)

    def add_secure_port(self, address: str, chain: bytes) -> int:
        self.chain = chain
        return self.network.listen(address, self)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: the coordinator's handlers also come the other way."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        if service == SERVICE:
            self._handlers = handlers

    async def start(self) -> None:
        self._open = True

    async def stop(self, grace: float) -> None:
        """No new calls; those that there are have so long."""
        self._open = False
        self.network.forget(self)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        for connection in list(self.network.connections):
            if connection.server is self:
                connection.cut("the server has ended")

    def handle(self, rpc: Rpc, payload: bytes) -> None:
        """The first message of a call has arrived."""
        loop = self.process.loop
        assert loop is not None
        if not self._open:
            rpc.answer(Broken(grpc.StatusCode.UNAVAILABLE, "the server ends"), last=True)
            return
        handler = self._handlers[rpc.method]
        if handler.response_streaming:
            rpc.inbox = asyncio.Queue()
            rpc.inbox.put_nowait(payload)
        rpc.task = loop.create_task(self._answer(rpc, handler, payload))
        self._tasks[rpc.task] = None
        rpc.task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _answer(self, rpc: Rpc, handler: Any, payload: bytes) -> None:
        context = Context(rpc.connection.address, rpc.metadata)
        try:
            details = SimpleNamespace(method=f"/{SERVICE}/{rpc.method}", invocation_metadata=rpc.metadata)
            find = partial(_itself, handler)
            for interceptor in reversed(self._interceptors):
                find = partial(interceptor.intercept_service, find)
            handler = await find(details)
            parsed, written = handler.request_deserializer or bytes, handler.response_serializer or bytes
            if rpc.inbox is not None:
                async for reply in handler.stream_stream(_heard(rpc, parsed), context):
                    rpc.answer(written(reply), last=False)
                rpc.answer(None, last=True)
                return
            requests = [parsed(each) for each in _split(payload)]
            if handler.stream_stream:  # it answers without reading
                answering = handler.stream_stream(_each(requests), context)
                await (answering if inspect.iscoroutine(answering) else anext(answering))
                reply = context.written
            elif handler.request_streaming:
                reply = await handler.stream_unary(_each(requests), context)
            else:
                reply = await handler.unary_unary(requests[0], context)
            rpc.answer(written(reply), last=True)
        except Aborted:
            rpc.answer(context.error, last=True)
        except asyncio.CancelledError:
            rpc.answer(Broken(grpc.StatusCode.CANCELLED, "the server has cancelled it"), last=True)
        except Exception as error:
            self.network.world.broke(f"{self.process}: {rpc.method} failed with {error!r}")
            rpc.answer(Broken(grpc.StatusCode.UNKNOWN, repr(error)), last=True)


def _failed() -> Broken:
    """Return the servicer's answer if a handler fails."""
    failure = encode(Failure(Kind.ERROR, "the coordinator failed: its log says where"))
    return Broken(grpc.StatusCode.UNKNOWN, failure.message, ((FAILURE_TRAILER, failure.SerializeToString()),))


async def _itself(handler: Any, details: object) -> Any:
    return handler


async def _each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def _heard(rpc: Rpc, deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    assert rpc.inbox is not None
    while (message := await rpc.inbox.get()) is not None:
        yield deserialize(message)


def fake_grpc(network: Callable[[], Network]) -> SimpleNamespace:
    """Return what stands for the module `grpc` in the product."""
    return SimpleNamespace(
        insecure_channel=lambda address, options=None: Channel(network(), address),
        secure_channel=lambda address, chain, options=None: Channel(network(), address, chain),
        ssl_server_credentials=lambda pairs: pairs[0][1],
        unary_unary_rpc_method_handler=grpc.unary_unary_rpc_method_handler,
        stream_unary_rpc_method_handler=grpc.stream_unary_rpc_method_handler,
        stream_stream_rpc_method_handler=grpc.stream_stream_rpc_method_handler,
        RpcError=grpc.RpcError,
        Call=grpc.Call,
        StatusCode=grpc.StatusCode,
        aio=SimpleNamespace(
            server=lambda interceptors, options=None: Server(network(), interceptors),
            InternalError=grpc.aio.InternalError,
        ),
    )
