"""One object store that all processes share: the eight verbs of `holdfast_storage.store.base`, and what can go wrong.

Each host has a view of its own: it may go on finding nothing where it has found nothing before, and its listings may be
behind. The bucket itself is the truth. It is told by `protects` which folders nobody may change any more, and raises
at the very call that would.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from holdfast_storage.errors import StorageError
from holdfast_storage.layout import LOG_FOLDER, PAGE_FOLDER
from holdfast_storage.store import base
from holdfast_storage.store.base import Buffer, NotCreated
from simulation.policy import Point, Policy, Stage, StorageFate
from simulation.processes import Process
from simulation.scheduler import Scheduler

URL = "memory://run"

EFFECTIVE = ("done", "lose", "rot")
"""The fates of a call that has its effect while it lasts."""


class Violation(AssertionError):
    """Something that must never be. `kind` is one word for it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(slots=True)
class Stored:
    data: bytes
    since: float
    host: str = ""  # that made it


@dataclass
class Bucket:
    """What lies in the storage. `changed` is called with the name of every object that was set."""

    scheduler: Scheduler
    objects: dict[str, Stored] = field(default_factory=dict)
    gone: list[tuple[str, float, float]] = field(default_factory=list)  # name, since, until
    protected: set[str] = field(default_factory=set)  # folders
    landed: float = 0.0  # when all has landed that is late by now
    rotten: dict[str, set[str]] = field(default_factory=dict)  # folder to its objects that are not what was written
    changed: Callable[[str], None] = lambda name: None
    violations: list[Violation] = field(default_factory=list)  # kept: what raises them may be caught by the product

    def put(self, name: str, data: bytes, host: str = "") -> None:
        """Set an object, whether it is there or not."""
        before = self.objects.get(name)
        if before is not None:
            if name.startswith(LOG_FOLDER) or (name.startswith(PAGE_FOLDER) and before.data != data):
                self._violated("overwritten", f"{name}, of the log, is replaced")
            self._check(name, "changed")
        since, host = (self.scheduler.now, host) if before is None else (before.since, before.host)
        self.objects[name] = Stored(data, since, host)
        self.changed(name)

    def remove(self, name: str) -> None:
        if name.startswith((LOG_FOLDER, PAGE_FOLDER)):
            self._violated("deleted", f"{name}, of the log, is deleted")
        self._check(name, "deleted")
        stored = self.objects.pop(name, None)
        if stored is not None:
            self.gone.append((name, stored.since, self.scheduler.now))

    def below(self, folder: str) -> builtins.list[str]:
        start = f"{folder}/"
        return [name for name in self.objects if name.startswith(start)]

    def listed(self, folder: str, lag: float) -> builtins.list[str]:
        """Return what was directly below a folder `lag` seconds ago."""
        start = f"{folder}/" if folder else ""
        then = self.scheduler.now - lag
        names = [name for name, stored in self.objects.items() if stored.since <= then]
        names += [name for name, since, until in self.gone if since <= then < until]
        below = {name.removeprefix(start).partition("/") for name in names if name.startswith(start)}
        return sorted({head + slash for head, slash, _ in below})

    def _check(self, name: str, how: str) -> None:
        folder = name.partition("/")[0]
        if folder in self.protected:
            self._violated("mutated", f"{name}, of a live checkpoint, is {how}")

    def _violated(self, kind: str, message: str) -> NoReturn:
        self.violations.append(Violation(kind, message))
        self.scheduler.noted = True
        raise self.violations[-1]


class _Call(NamedTuple):
    point: Point
    fate: StorageFate


class View:
    """What one host remembers not to have found."""

    def __init__(self) -> None:
        self.unseen: dict[str, float] = {}  # name to virtual time


class Store(base.Store):
    """The run directory as one process has it."""

    url = URL
    parallel = 2
    block = 256

    def __init__(
        self,
        bucket: Bucket,
        view: View,
        process: Process,
        policy: Callable[[], Policy],
        point: Callable[..., Point],
        *,
        in_parts: bool,
    ) -> None:
        """in_parts: an object that is being written is visible as far as it is, as on POSIX."""
        self._bucket = bucket
        self._view = view
        self._process = process
        self._policy = policy
        self._point = point
        self._in_parts = in_parts

    # -- the verbs --

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        call = self._begin("create", name)
        return bool(self._change(call, lambda: self._create(name, bytes(data))))

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        call = self._begin("write", name)
        if name in self._bucket.objects:
            raise StorageError(f"Could not write {self.url}/{name}: it exists already", object=name)
        parts = [bytes(chunk) for chunk in self._each(call, chunks)]
        data = b"".join(parts)
        if call.fate.effect == "rot" and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
            self._bucket.rotten.setdefault(name.partition("/")[0], set()).add(name)
        self._change(call, lambda: self._bucket.put(name, data, self._process.host))
        return len(data)

    def replace(self, name: str, data: Buffer) -> None:
        call = self._begin("replace", name)
        self._change(call, lambda: self._bucket.put(name, bytes(data), self._process.host))

    def read(self, name: str, *, limit: int = base.LARGEST) -> bytes:
        call = self._begin("read", name)
        data = self._found(name, call.fate)
        self._end(call)
        if data is None:
            raise FileNotFoundError(f"{self.url}/{name}")
        return data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        data = self.read(name)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def size(self, name: str) -> int | None:
        call = self._begin("size", name)
        data = self._found(name, call.fate)
        self._end(call)
        return None if data is None else len(data)

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        call = self._begin("list", folder)
        names = self._bucket.listed(folder, max(call.fate.lag, call.fate.behind))
        self._end(call)
        return [name for name in names if name.startswith(start)]

    def delete_folder(self, folder: str) -> None:
        call = self._begin("delete_folder", folder)
        self._change(call, lambda: self._delete(call))

    # -- how they go --

    def _begin(self, verb: str, name: str) -> _Call:
        self._process.check_alive()
        point = self._point("storage", self._process, verb, name)
        fate = self._policy().storage(point)
        self._process.check_alive()
        self._process.scheduler.pause(fate.before, ("the storage", verb, name))
        return _Call(point, fate)

    def _end(self, call: _Call) -> None:
        point, fate = call.point, call.fate
        if fate.effect in EFFECTIVE:
            self._reached(point, "done")
        if fate.after:
            self._process.scheduler.pause(fate.after, ("the storage's answer", point.verb, point.what))
        if fate.effect not in ("done", "rot"):
            raise self._error(point.verb, point.what, fate)

    def _change(self, call: _Call, effect: Callable[[], Any]) -> Any:
        """Have the effect, now, later or never."""
        result = None
        if call.fate.effect in EFFECTIVE:
            result = effect()
            self._view.unseen.pop(call.point.what, None)  # what a host has tried to make, it looks at afresh
        elif call.fate.effect == "late":
            self._process.scheduler.later(None, call.fate.late_by, effect)
            self._bucket.landed = max(self._bucket.landed, self._process.scheduler.now + call.fate.late_by)
        self._end(call)
        return result

    def _reached(self, point: Point, stage: Stage) -> None:
        self._policy().reached(point, stage)
        self._process.check_alive()

    def _error(self, verb: str, name: str, fate: StorageFate) -> StorageError:
        error = NotCreated if fate.effect == "refuse" and verb == "create" else StorageError
        return error(f"Could not {verb} {self.url}/{name}: {fate.effect}", object=f"{self.url}/{name}")

    def _create(self, name: str, data: bytes) -> bool:
        if name in self._bucket.objects:
            return False
        self._bucket.put(name, data, self._process.host)
        return True

    def _delete(self, call: _Call) -> None:
        for name in self._bucket.below(call.point.what):
            if name in self._bucket.objects:  # somebody else may be at the same work
                self._bucket.remove(name)
                if self._process.alive and self._process.scheduler.current is self._process:
                    self._reached(call.point, "amid")
                    self._process.scheduler.pause(0.0, ("the storage", "delete", name))

    def _each(self, call: _Call, chunks: Iterable[Buffer]) -> Iterable[Buffer]:
        """The chunks, with the object growing before everybody's eyes."""
        name, there = call.point.what, b""
        for chunk in chunks:
            yield chunk
            if self._in_parts:
                there += bytes(chunk)
                self._bucket.objects[name] = Stored(there, self._process.scheduler.now, self._process.host)
            self._reached(call.point, "amid")
            self._process.scheduler.pause(0.0, ("the storage", "write", name))

    def _found(self, name: str, fate: StorageFate) -> bytes | None:
        now, unseen = self._process.scheduler.now, self._view.unseen
        if unseen and unseen.get(name, now) > now:
            return None
        stored = self._bucket.objects.get(name)
        if stored is not None and stored.host != self._process.host and stored.since + fate.behind > now:
            return None
        if stored is None:
            if fate.unseen:
                unseen[name] = now + fate.unseen
            return None
        return stored.data


class Truth:
    """The bucket as it is, read without anybody noticing: for checks alone."""

    url = URL
    parallel = 1  # it is nobody, who has no threads
    block = 256

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self, name: str, *, limit: int = base.LARGEST) -> bytes:
        stored = self._bucket.objects.get(name)
        if stored is None:
            raise FileNotFoundError(f"{self.url}/{name}")
        return stored.data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        data = self.read(name)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def size(self, name: str) -> int | None:
        stored = self._bucket.objects.get(name)
        return None if stored is None else len(stored.data)

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        return [name for name in self._bucket.listed(folder, 0.0) if name.startswith(start)]
