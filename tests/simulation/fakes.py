"""Stand-ins for what the product takes from the standard library: `threading`, `time`, `secrets`, `socket`, `queue`.

They act on the simulation that runs now, `Now.scheduler`, and on the process whose turn it is.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import greenlet

from simulation.processes import Died, Process
from simulation.scheduler import Scheduler, Waiter


class Now:
    """The simulation that runs in this thread."""

    scheduler: Scheduler
    place: Callable[[], object] = staticmethod(lambda: None)
    """Called where functions of the standard library that are Python code begin: see `simulation.preemption`."""


def here() -> Process:
    """The process whose turn it is."""
    process = Now.scheduler.current
    assert process is not None, "nobody's turn"
    return process


class _Queue:
    """Greenlets that wait for one thing."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()

    def wait(self, why: object, seconds: float | None = None, *, brief: bool = False) -> bool:
        waiters: list[Waiter] = []

        def register(waiter: Waiter) -> None:
            waiters.append(waiter)
            self._waiters.append(waiter)

        try:
            return Now.scheduler.block(why, seconds, register, brief=brief)
        except BaseException:
            # Interrupted after it had been told to go on: somebody else is to hear of that.
            if waiters and waiters[0].result and waiters[0].process.alive:
                self.wake()
            raise

    def wake(self, count: int = 1) -> None:
        while self._waiters and count:
            waiter = self._waiters.popleft()
            if not waiter.woken and waiter.process.alive:
                waiter.wake()
                count -= 1

    def wake_all(self) -> None:
        self.wake(len(self._waiters))


class _Held:
    """Says who holds a lock."""

    __slots__ = ("lock", "process")

    def __init__(self, lock: RLock, process: Process) -> None:
        self.lock, self.process = lock, process

    def __str__(self) -> str:
        return f"a lock that {self.process.name_of(self.lock.owner)} holds"


class RLock:
    """Stands for a plain lock, too: nobody in the product waits for a lock that it holds itself."""

    def __init__(self) -> None:
        self.owner: greenlet.greenlet | None = None
        self._count = 0
        self._queue = _Queue()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        process, me = Now.scheduler.current, greenlet.getcurrent()
        if process is not None:  # else a check, from outside
            process.check_alive()
        while self.owner is not None and self.owner is not me:
            seconds = None if timeout < 0 else timeout
            if not blocking or not self._queue.wait(_Held(self, here()), seconds, brief=True):
                return False
        self.owner = me
        self._count += 1
        return True

    def release(self) -> None:
        self._count -= 1
        if not self._count:
            self.owner = None
            self._queue.wake()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        if self._count:  # not so when a process dies while it waits for the lock
            self.release()

    def give_up(self) -> int:
        """For a condition: release it wholly; how often it was held."""
        count, self._count, self.owner = self._count, 0, None
        self._queue.wake()
        return count

    def take_back(self, count: int) -> None:
        self.acquire()
        self._count = count


class Lock(RLock):
    def locked(self) -> bool:
        return self.owner is not None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert self.owner is not greenlet.getcurrent(), "a thread waits for a lock that it holds"
        return super().acquire(blocking, timeout)


class ModuleLock:
    """A lock that a module made when it was imported: each process has one of its own."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[Process, Lock] = WeakKeyDictionary()

    def __enter__(self) -> bool:
        process = Now.scheduler.current
        return process is None or self._locks.setdefault(process, Lock()).acquire()

    def __exit__(self, *error: object) -> None:
        process = Now.scheduler.current
        if process is not None:
            self._locks[process].__exit__(*error)


class Condition:
    def __init__(self, lock: RLock | None = None) -> None:
        self._lock = lock or RLock()
        self._queue = _Queue()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(*error)

    def wait(self, timeout: float | None = None) -> bool:
        Now.place()
        count = self._lock.give_up()
        try:
            return self._queue.wait("a condition", timeout)
        finally:
            if here().alive:
                self._lock.take_back(count)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else Now.scheduler.now + timeout
        while not (result := predicate()):
            if end is not None and Now.scheduler.now >= end:
                break
            self.wait(None if end is None else end - Now.scheduler.now)
        return result

    def notify(self, count: int = 1) -> None:
        Now.place()
        self._queue.wake(count)

    def notify_all(self) -> None:
        Now.place()
        self._queue.wake_all()


class Event:
    def __init__(self) -> None:
        self._set = False
        self._queue = _Queue()

    def is_set(self) -> bool:
        Now.place()
        return self._set

    def set(self) -> None:
        Now.place()
        self._set = True
        self._queue.wake_all()

    def clear(self) -> None:
        Now.place()
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        Now.place()
        if not self._set:
            self._queue.wait("an event", timeout)
        return self._set


class Semaphore:
    def __init__(self, value: int = 1) -> None:
        self._value = value
        self._queue = _Queue()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        Now.place()
        while not self._value:
            if not blocking or not self._queue.wait("a semaphore", timeout):
                return False
        self._value -= 1
        return True

    def release(self) -> None:
        Now.place()
        self._value += 1
        self._queue.wake()


class Thread:
    def __init__(
        self,
        *,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str = "thread",
        daemon: bool = False,
    ) -> None:
        assert daemon, f"{name} would keep its process alive"
        self.name = name
        self._call = target, args
        self._began = self._ended = False
        self._queue = _Queue()

    def start(self) -> None:
        Now.place()
        process = here()
        process.check_alive()
        if not process.can_start_threads():
            raise RuntimeError("can't start new thread")
        self._began = True
        process.spawn(self.name, self._live)

    def _live(self) -> None:
        target, args = self._call
        try:
            target(*args)
        finally:
            self._ended = True
            self._queue.wake_all()

    def is_alive(self) -> bool:
        Now.place()
        return self._began and not self._ended

    def join(self, timeout: float | None = None) -> None:
        Now.place()
        end = None if timeout is None else Now.scheduler.now + timeout
        try:
            while not self._ended:
                if not self._queue.wait(f"the end of {self.name}", None if end is None else end - Now.scheduler.now):
                    return
        except Died:
            raise
        except BaseException:
            self._ended = True  # as CPython up to 3.12 takes it, whether the thread has ended or not
            raise


class Local:
    """Stands for `threading.local`: greenlets are of one thread, and would share the real one."""

    def __init__(self) -> None:
        object.__setattr__(self, "_by_thread", {})

    def _mine(self) -> dict[str, Any]:
        return self._by_thread.setdefault(greenlet.getcurrent(), {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._mine()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._mine()[name] = value


class SimpleQueue:
    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._queue = _Queue()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._queue.wake()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def get(self, timeout: float | None = None) -> Any:
        while not self._items:
            if not self._queue.wait("a job", timeout):
                raise queue.Empty
        return self._items.popleft()


def _sleep(seconds: float) -> None:
    Now.scheduler.pause(seconds, "time to pass")


def _token_hex(size: int) -> str:
    return Now.scheduler.random.randbytes(size).hex()


def _token_bytes(size: int) -> bytes:
    return Now.scheduler.random.randbytes(size)


threading = SimpleNamespace(
    Thread=Thread,
    current_thread=lambda: SimpleNamespace(name="simulated"),
    Lock=Lock,
    RLock=RLock,
    Condition=Condition,
    Event=Event,
    Semaphore=Semaphore,
    local=Local,
)
time = SimpleNamespace(monotonic=lambda: here().monotonic(), time=lambda: here().wall(), sleep=_sleep)
secrets = SimpleNamespace(token_hex=_token_hex, token_bytes=_token_bytes)
socket = SimpleNamespace(gethostname=lambda: here().host)
