"""The simulation's own parts: one that is kinder than the real thing would hide what it is there to find."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import holdfast_coordinator.driver
import holdfast_storage.parallel
from holdfast_protos.client import Access, Link, Refusal, Unreachable
from holdfast_protos.proofs import process_of
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import StorageError
from holdfast_storage.layout import log_entry
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store.base import NotCreated
from simulation import fakes, patches
from simulation.policy import MessageEffect, MessageFate, Point, Policy, StorageEffect, StorageFate
from simulation.processes import Process
from simulation.storage import Violation
from simulation.training import coordinator, fresh
from simulation.world import World
from support.joining import join_request

ADDRESS = "coordinator:7070"


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    world = fresh(World(1))
    yield world
    world.close()


class Chosen(Policy):
    """One thing goes wrong, at the first call or message of a verb."""

    def __init__(self, verb: str, effect: str, kind: str = "request", **how: Any) -> None:
        self._verb, self._effect, self._kind, self._how = verb, effect, kind, how
        self.happened = False

    def _here(self, point: Point) -> bool:
        here = not self.happened and point.verb == self._verb and point.kind in ("storage", self._kind)
        self.happened |= here
        return here

    def storage(self, point: Point) -> StorageFate:
        effect: StorageEffect = self._effect  # type: ignore[assignment]
        return StorageFate(effect, **self._how) if self._here(point) else StorageFate()

    def message(self, point: Point) -> MessageFate:
        effect: MessageEffect = self._effect  # type: ignore[assignment]
        return MessageFate(effect, **self._how) if self._here(point) else MessageFate()


def done(world: World, process: Process, call: Callable[[], Any], seconds: float = 100.0) -> Any:
    """Return or raise the result of a call, made by a thread of a process."""
    results: list[Any] = []

    def main() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    process.spawn("main", main)
    world.run(lambda: False, seconds)
    return results[0] if results else None


# -- the stand-ins --


def test_everything_of_the_product_is_in_the_simulation() -> None:
    """Every module of the product is in the simulation. Guards against a module with the real clock or real threads,
    and stories that do not replay."""
    real = {id(each): each for each in (threading, time, secrets, socket)}
    for module in patches.product_modules():
        if module.__name__.split(".")[0] == "holdfast" and module.__name__.split(".")[1:2] in (["cli"], ["demo"]):
            continue
        left = [name for name, value in vars(module).items() if id(value) in real]
        assert not left, f"{module.__name__} has {left}"
    assert holdfast_storage.parallel.threading is fakes.threading
    assert patches.times_that_are_kept() == []


def test_all_is_as_before_afterwards() -> None:
    """Afterwards everything is as before. Guards against later tests that run against stand-ins."""
    with patches.installed():
        pass
    assert holdfast_coordinator.driver.time is fakes.time  # of the fixture
    fixture_is_over = patches.installed()
    with fixture_is_over:
        assert holdfast_coordinator.driver.secrets is fakes.secrets


def test_the_clock_moves_only_when_nothing_else_can(world: World) -> None:
    """The clock moves only when nothing else can. Guards against deadlines that pass during work, which no real run
    would see."""
    process = world.process("one", "host")
    seen = []

    def work() -> None:
        for _ in range(5):
            world.scheduler.pause(0.0, "a moment")
            seen.append(world.scheduler.now)
        fakes.time.sleep(600.0)
        seen.append(world.scheduler.now)

    process.spawn("work", work)
    assert not world.run(lambda: False, 1000.0)
    assert seen == [0.0] * 5 + [600.0]


def test_locks_events_and_queues(world: World) -> None:
    """Locks, events and queues behave like the real ones. Guards against two threads in one lock, and a forgotten
    waiter."""
    process, inside, order = world.process("one", "host"), [], []
    lock, event, jobs = fakes.Lock(), fakes.Event(), fakes.SimpleQueue()

    def enter(number: int) -> None:
        with lock:
            inside.append(number)
            assert len(inside) == 1
            fakes.time.sleep(1.0)
            inside.remove(number)
        jobs.put(number)

    def take() -> None:
        assert not event.wait(0.5)
        for _ in range(3):
            order.append(jobs.get())
        event.set()

    for number in range(3):
        process.spawn(f"enter {number}", enter, number)
    process.spawn("take", take)
    assert world.run(event.is_set, 10.0) or event.is_set()
    assert sorted(order) == [0, 1, 2]
    assert world.scheduler.now >= 3.0


def test_threads_have_locals_of_their_own(world: World) -> None:
    """Threads have their own locals. Guards against two threads that share a buffer."""
    process, local, seen = world.process("one", "host"), fakes.Local(), []

    def live(number: int) -> None:
        assert not hasattr(local, "value")
        local.value = number
        world.scheduler.pause(1.0, "the other")
        seen.append(local.value == number)

    for number in range(2):
        process.spawn("live", live, number)
    world.run(lambda: False, 5.0)
    assert seen == [True, True]


def test_a_loop_that_never_waits_is_found(world: World) -> None:
    """A loop that never waits is found. Guards against a simulation that hangs without saying who is busy."""
    process = world.process("busy", "host")

    def spin() -> None:
        while True:
            world.scheduler.pause(0.0, "nothing")

    process.spawn("spin", spin)
    with pytest.raises(AssertionError, match="busy is busy for ever"):
        world.run(lambda: False, 1.0)


def test_an_endless_call_is_told_with_all_waits(world: World) -> None:
    """An endless call is reported with all waits. Guards against a call that never returns for an unknown reason."""
    process = world.process("one", "host")

    def call() -> None:
        with world.bounded("restore()", 10.0):
            world.scheduler.block("Godot")

    process.spawn("main", call)
    with pytest.raises(Violation, match=r"restore\(\) has not ended within 70 s\n  one: main waits for Godot"):
        world.run(lambda: False, 1000.0)


# -- processes --


def test_a_killed_process_does_nothing_more(world: World) -> None:
    """A killed process does nothing more. Guards against `finally` blocks that clean up what a real SIGKILL leaves."""
    process = world.process("one", "host")

    def work() -> None:
        try:
            process.store.create("a", b"1")
            fakes.time.sleep(10.0)
        finally:
            process.store.create("b", b"2")

    async def serve() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            await asyncio.sleep(1.0)
            world.broke("it goes on")

    process.spawn("work", work)
    assert process.loop is not None
    process.loop.call_soon(lambda: setattr(process, "starting", process.loop.create_task(serve())))
    world.run(lambda: False, 5.0)
    world.kill(process)
    world.run(lambda: False, 500.0)
    assert list(world.bucket.objects) == ["a"]
    assert process.waits() == ["one: dead"]
    assert not world.bucket.violations


def test_a_process_can_be_killed_in_its_own_call(world: World) -> None:
    """A process can be killed within its own call. Guards against a point at which nobody can be killed."""
    process = world.process("one", "host")

    class Deadly(Policy):
        def storage(self, point: Point) -> StorageFate:
            world.kill(point.process)
            return StorageFate()

    world.policy = Deadly()
    assert done(world, process, lambda: process.store.create("a", b"1")) is None
    assert not world.bucket.objects


def test_a_stopped_process_goes_on_where_it_was(world: World) -> None:
    """A stopped process goes on where it was. Guards against a zombie that loses its work, or does it asleep."""
    process, seen = world.process("one", "host"), []

    def work() -> None:
        fakes.time.sleep(1.0)
        seen.append(world.scheduler.now)

    process.spawn("work", work)
    world.run(lambda: False, 0.5)
    world.stop(process)
    world.run(lambda: False, 50.0)
    assert not seen
    world.resume(process)
    world.run(lambda: False, 1.0)
    assert seen == [50.5]


# -- storage --


@pytest.mark.parametrize(
    ("effect", "raises", "lands"),
    [("fail", StorageError, False), ("refuse", NotCreated, False), ("lose", StorageError, True)],
)
def test_a_create_goes_wrong(world: World, effect: str, raises: type[Exception], lands: bool) -> None:
    """Each fault of a create has its full effect. Guards against faults that are milder than their names."""
    process = world.process("one", "host")
    world.policy = Chosen("create", effect)
    assert type(done(world, process, lambda: process.store.create("a", b"1"))) is raises
    assert ("a" in world.bucket.objects) is lands


def test_a_create_lands_late_and_once(world: World) -> None:
    """A late create lands once, and over nothing. Guards against a PUT that overwrites what somebody else has made
    meanwhile."""
    process = world.process("one", "host")
    world.policy = Chosen("create", "late", late_by=20.0)
    assert isinstance(done(world, process, lambda: process.store.create("a", b"1"), 5.0), StorageError)
    assert "a" not in world.bucket.objects
    assert done(world, process, lambda: process.store.create("a", b"2"), 5.0) is True
    world.run(lambda: False, 50.0)
    assert world.bucket.objects["a"].data == b"2"


def test_what_was_not_found_stays_missing_on_that_host(world: World) -> None:
    """What was not found may stay missing on that host. Guards against a simulation without network file systems that
    remember absences."""
    here, there = world.process("one", "a"), world.process("two", "b")
    world.policy = Chosen("size", "done", unseen=10.0)
    assert done(world, here, lambda: here.store.size("x"), 1.0) is None
    assert done(world, there, lambda: there.store.create("x", b"12"), 1.0) is True
    assert done(world, there, lambda: there.store.size("x"), 1.0) == 2
    assert isinstance(done(world, here, lambda: here.store.read("x"), 1.0), FileNotFoundError)
    assert done(world, here, lambda: here.store.create("x", b"34"), 1.0) is False
    world.run(lambda: False, 10.0)
    assert done(world, here, lambda: here.store.read("x"), 1.0) == b"12"


def test_listings_can_be_behind(world: World) -> None:
    """Listings can lag. Guards against names that are always listed at once."""
    process = world.process("one", "host")
    done(world, process, lambda: process.store.create("f/a", b"1"), 10.0)
    done(world, process, lambda: process.store.delete_folder("f"), 10.0)
    done(world, process, lambda: process.store.create("f/b/c", b"1"), 1.0)
    assert done(world, process, lambda: process.store.list("f"), 1.0) == ["b/"]
    world.policy = Chosen("list", "done", lag=12.5)
    assert done(world, process, lambda: process.store.list("f"), 1.0) == ["a"]


def test_a_killed_writer_leaves_a_part() -> None:
    """A killed writer leaves a part. Guards against objects that are only whole or missing."""
    world = fresh(World(1, in_parts=True))
    process = world.process("one", "host")

    def chunks() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        world.kill(process)

    done(world, process, lambda: process.store.write("f/a", chunks()))
    assert world.bucket.objects["f/a"].data == b"onetwo"[: len(world.bucket.objects["f/a"].data)] != b""
    world.close()


@pytest.mark.parametrize("how", ["replace", "delete", "log"])
def test_what_is_committed_is_guarded(world: World, how: str) -> None:
    """Committed objects are guarded at each call. Guards against a live checkpoint that is changed and changed back
    between two checks."""
    process = world.process("one", "host")
    world.bucket.put("ckpt/a", b"1")
    world.bucket.put(log_entry(0), b"1") if how == "log" else None
    world.bucket.violations.clear()
    world.bucket.protected = {"ckpt"}
    calls = {
        "replace": lambda: process.store.replace("ckpt/a", b"2"),
        "delete": lambda: process.store.delete_folder("ckpt"),
        "log": lambda: process.store.replace(log_entry(0), b"2"),
    }
    with pytest.raises(Violation):
        done(world, process, calls[how])


# -- network --


SECRET = b"of the worker's process"


def linked(process: Process) -> Link:
    """Connect a process to the coordinator of the run."""
    return Link(ADDRESS, Access("memory://run", lambda: ensure_key(process.store), SECRET))


def called(world: World, policy: Policy | None = None, seconds: float = 100.0) -> Any:
    """Return the result of a worker's join of a world of one, with something going wrong."""
    coordinator(world, ADDRESS, "coordinator")
    world.run(lambda: False, 1.0)
    if policy is not None:
        world.policy = policy
    process = world.process("worker", "host")
    caller = pb.Caller(run="memory://run", task="worker-0", incarnation=f"{process_of(SECRET)}.1")
    request = join_request(caller, timeout=10.0)
    return done(world, process, lambda: linked(process).join(request, 10.0), seconds)


def handled(world: World) -> bool:
    """Return whether the call has had its effect: the coordinator reads the log for each world that forms."""
    return any("storage list _holdfast/log" in line for line in world.story())


def test_a_call_is_answered(world: World) -> None:
    """A call is answered. Guards against faults below that would find nothing else."""
    reply = called(world)
    assert reply.members[0].incarnation == f"{process_of(SECRET)}.1"


@pytest.mark.parametrize(
    ("effect", "kind", "arrives"),
    [
        ("cut", "request", False),
        ("passed_and_cut", "request", True),
        ("cut", "reply", True),
        ("silence", "request", False),
    ],
)
def test_a_call_is_lost(world: World, effect: str, kind: str, arrives: bool) -> None:
    """A lost call has the planned effect. Guards against a lost request that acts, and a lost reply without effect."""
    assert isinstance(called(world, Chosen("Join", effect, kind)), Unreachable)
    assert handled(world) is arrives


def test_a_call_arrives_twice(world: World) -> None:
    """A call can arrive twice. Guards against a service that is never tried with doubled requests."""
    reply = called(world, Chosen("Join", "doubled", delay=0.1))
    assert reply.members[0].incarnation == f"{process_of(SECRET)}.1"
    assert sum("reply Join" in line for line in world.story()) == 2


def test_a_refusal_carries_its_failure(world: World) -> None:
    """A refusal carries its failure. Guards against a refusal that looks like a lost connection."""
    error = called(world, Chosen("Join", "refused", "reply"))
    assert isinstance(error, Refusal)
    assert error.failure.kind == "error"


def test_nobody_listens(world: World) -> None:
    """A call to an address where nobody listens fails at once. Guards against a caller that waits for its deadline."""
    process = world.process("worker", "host")
    error = done(world, process, lambda: linked(process).leave(pb.LeaveRequest(), 60.0), 5.0)
    assert isinstance(error, Unreachable)
    assert "UNAVAILABLE" in str(error)


def test_a_stopped_peer_is_noticed(world: World) -> None:
    """A stopped peer is noticed. Guards against a call that lasts as long as the other process sleeps."""
    server = coordinator(world, ADDRESS, "coordinator")
    world.run(lambda: False, 1.0)
    process = world.process("worker", "host")
    link: list[Link] = []

    def call() -> Any:
        link.append(linked(process))
        with pytest.raises(Refusal):
            link[0].leave(pb.LeaveRequest(), 5.0)
        world.stop(server)
        return link[0].status(pb.StatusRequest(run="memory://run"), 300.0)

    error = done(world, process, call, 50.0)
    assert isinstance(error, Unreachable)
    assert "ping" in str(error)


def test_a_name_leads_to_its_new_owner_once_the_connection_breaks(world: World) -> None:
    """A name leads to its new owner once the connection breaks. Guards against workers that change processes within one
    connection, as in no network."""
    first = coordinator(world, ADDRESS, "first")
    world.run(lambda: False, 1.0)
    process = world.process("worker", "host")
    links: list[Link] = []

    def call() -> str:
        links[:] = [link for link in links if not link.broken] or [linked(process)]
        with pytest.raises((Unreachable, Refusal)):
            links[0].leave(pb.LeaveRequest(), 5.0)
        return [line.split()[1] for line in world.story() if "reply Leave" in line][-1]

    assert done(world, process, call, 2.0) == "first"
    world.network.free(ADDRESS)
    coordinator(world, ADDRESS, "second")
    assert done(world, process, call, 2.0) == "first"
    world.kill(first)
    world.run(lambda: False, 1.0)
    done(world, process, call, 2.0)
    assert links[0].broken, "it accepts the first one's certificate, and no other"
    assert done(world, process, call, 2.0) == "second"
