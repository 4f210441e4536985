"""A run directory in an object store: what is common to all of them. See docs/design/007-object-stores.md."""

from __future__ import annotations

import asyncio
import builtins
import os
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from holdfast_storage.errors import HoldfastError, StorageError
from holdfast_storage.layout import check_relative
from holdfast_storage.logger import logger
from holdfast_storage.pauses import pauses
from holdfast_storage.printable import printable
from holdfast_storage.store.base import (
    LARGEST,
    UNPROTECTED,
    Buffer,
    NotCreated,
    Store,
    check_process,
    creating,
    too_large,
)
from holdfast_storage.store.objects.budget import Budget
from holdfast_storage.store.objects.call import Call, results, stop_all
from holdfast_storage.store.objects.client import Body, ObjectClient, Part, RequestFailed
from holdfast_storage.told import CAUSE, fit

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

log = logger("holdfast.storage")

T = TypeVar("T")

PART = 16 << 20
"""The bytes of a part of an upload. After `PARTS_BEFORE_GROWTH` parts they grow: no store takes more than 10,000."""

PARTS_BEFORE_GROWTH = 1_000

RANGE = 16 << 20
"""The bytes that one request reads."""

FIRST_RANGE = 256 << 10
"""The bytes that are first read of an object of unknown size. Most of these are log entries and manifests."""

REQUESTS = 48
"""The largest number of requests at a time."""

PATIENCE = 60.0
"""Seconds for which a request is repeated that was not answered, or was asked to come later."""

FIRST_PATIENCE = 5.0
"""The same while no request was ever answered: then the address is wrong, not the moment."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

ANSWER_WITHIN = 60.0
"""Seconds for one try, plus one for each `SLOWEST` bytes that it carries."""

FIRST_ANSWER_WITHIN = 20.0
"""The same while no request was ever answered."""

SLOWEST = 256 << 10

GRAIN = 256 << 10
"""The unit of part sizes: except for the last part, Google Cloud Storage takes only multiples of it."""


class ObjectStore(Store):
    """A `Store` in an object store, given its client."""

    parallel = 16
    block = RANGE

    def __init__(self, url: str, client: ObjectClient, root: str, write_buffer: int) -> None:
        """
        url: the normalised URL.
        root: the prefix of all keys, without a final slash; empty for the whole bucket.
        write_buffer: the bytes that may be on their way to the storage at a time.
        """
        self.url = url
        self._process = os.getpid()
        self._creating = creating(url)
        self._client = client
        self._root = root
        self._budget = Budget(write_buffer)
        self._part = min(PART, max(5 << 20, write_buffer // 4 // GRAIN * GRAIN))
        self._requests = asyncio.Semaphore(REQUESTS)
        self._answered = False
        self._seen = False  # whether the bucket is known to exist
        self._keeps_conditions: bool | None = None  # not known before the first create

    # -- verbs --

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        with self._naming("create", name) as key, nullcontext() if self._keeps_conditions else self._creating:
            made = self._run(self._create(key, bytes(data)))
            if made is None:
                made = self._run(self._create(key, bytes(data)))
            return bool(made)

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        with self._naming("write", name) as key:
            if self._run(self._size(key)) is not None:
                raise StorageError(f"Could not write {self._full(name)}: it exists already", object=self._full(name))
            return self._write(key, chunks)

    def replace(self, name: str, data: Buffer) -> None:
        with self._naming("replace", name) as key:
            self._run(self._put(key, Body([data])))

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        with self._naming("read", name) as key:
            data = self._run(self._read(key, limit))
        if data is None:
            raise too_large(self._full(name), limit)
        return data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        with self._naming("read", name) as key:
            return self._run(self._read_into(key, offset, buffer))

    def size(self, name: str) -> int | None:
        with self._naming("look at", name) as key:
            return self._run(self._size(key))

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        with self._naming("list", folder) as key:
            return self._run(self._list(f"{key}/" if key else "", start, unfinished=not folder))

    def delete_folder(self, folder: str) -> None:
        with self._naming("delete", folder) as key:
            self._run(self._delete(f"{key}/"))

    # -- create --

    @property
    def exclusive(self) -> bool:
        # The first create finds out.
        return self._keeps_conditions is not False

    async def _create(self, key: str, data: bytes) -> bool | None:
        """Create an object. Return None, and make nothing, if this storage turns out not to know conditions."""
        tries, exclusive = 0, self.exclusive
        if not exclusive and await self._size(key) is not None:
            return False

        async def put() -> bool:
            nonlocal tries
            tries += 1
            try:
                await self._client.put(key, Body([data]), exclusive=exclusive)
                return True
            except RequestFailed as failure:
                if failure.kind != "taken":
                    raise
                self._keeps_conditions = True
                return False

        try:
            made = await self._persist(put, len(data))
        except RequestFailed as failure:
            if tries > 1 or failure.kind == "again":
                raise
            if failure.kind == "unsupported" and self._keeps_conditions is None:
                self._do_without_conditions("does not know")
                return None
            raise _NothingMade(failure) from failure
        if not made and tries > 1:
            # Perhaps by an earlier try, whose answer was lost.
            made = await self._read(key, len(data)) == data
        if made and self._keeps_conditions is None:
            await self._check_conditions(key, data)
        return made

    async def _check_conditions(self, key: str, data: bytes) -> None:
        """Check whether this server allows a second create of the same object, which changes nothing."""
        try:
            async with timeout(self._answer_within()):
                await self._client.put(key, Body([data]), exclusive=True)
            self._do_without_conditions("does not keep")
        except Exception as failure:  # of the second create: the first has succeeded
            if isinstance(failure, RequestFailed) and failure.kind == "taken":
                self._keeps_conditions = True

    def _do_without_conditions(self, what: str) -> None:
        if self.exclusive:
            log.warning(
                "%s: this storage %s the condition If-None-Match, so it has no atomic create. %s",
                self.url,
                what,
                UNPROTECTED,
            )
        self._keeps_conditions = False

    # -- write --

    async def _put(self, key: str, body: Body) -> None:
        await self._persist(lambda: self._client.put(key, body.unread(), exclusive=False), len(body))

    def _write(self, key: str, chunks: Iterable[Buffer]) -> int:
        parts = _parts(chunks, self._part)
        first = next(parts)
        if first.last:
            self._budget.take(len(first.body))
            try:
                self._run(self._put(key, first.body))
            finally:
                self._budget.give(len(first.body))
            return len(first.body)
        upload = self._run(self._persist(lambda: self._client.begin(key)))
        sent: list[Call[str]] = []
        size = 0
        try:
            for part in _chain(first, parts):
                size += len(part.body)
                sent.append(self._send(key, upload, part))
                if self._client.parts_in_order:
                    sent[-1].result()
                if any(call.failed for call in sent):
                    break
            self._run(self._finish(key, upload, results(sent), size))
        except BaseException:
            stop_all(sent)  # before the upload ends: a later part would be kept and paid for
            with suppress(RequestFailed):
                self._run(self._persist(lambda: self._client.abort(key, upload)))
            raise
        return size

    def _send(self, key: str, upload: str, part: Part) -> Call[str]:
        """Begin to send a part as soon as there is memory for it."""
        size = len(part.body)
        self._budget.take(size)
        sending = self._persist(lambda: self._client.put_part(key, upload, part.unread()), size)
        return Call(sending, self._client.loop, at_end=lambda: self._budget.give(size))

    async def _finish(self, key: str, upload: str, parts: builtins.list[str], size: int) -> None:
        tries = 0

        async def finish() -> None:
            nonlocal tries
            tries += 1
            await self._client.finish(key, upload, parts)

        try:
            await self._persist(finish)
        except RequestFailed as failure:
            # If the upload is gone after a try whose answer was lost, that try has finished it.
            if failure.kind != "missing" or tries == 1 or await self._size(key) != size:
                raise

    # -- read --

    async def _read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes of an object, or None if they are more than `limit`."""
        first = bytearray(FIRST_RANGE)
        count, size = await self._get(key, 0, memoryview(first))
        if count and size > limit:
            return None
        if count < len(first) or count == size:
            return bytes(memoryview(first)[:count])
        buffer = bytearray(size)
        buffer[:count] = first
        del first
        count += await self._read_into(key, count, memoryview(buffer)[count:])
        return bytes(memoryview(buffer)[:count])

    async def _read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        starts = range(0, max(1, len(buffer)), RANGE)
        counts = await _all([self._get(key, offset + start, buffer[start : start + RANGE]) for start in starts])
        return sum(count for count, _ in counts)

    async def _get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        if not buffer:
            return 0, await self._persist(lambda: self._client.size(key))

        async def get() -> tuple[int, int]:
            count, size = await self._client.get(key, offset, buffer)
            if count < min(len(buffer), size - offset):
                raise RequestFailed("again", f"{count} bytes from {offset} on came, of {size} in all")
            return count, size

        return await self._persist(get, len(buffer))

    async def _size(self, key: str) -> int | None:
        try:
            return await self._persist(lambda: self._client.size(key))
        except RequestFailed as failure:
            if failure.kind == "missing":
                return None
            raise

    # -- folders --

    async def _list(self, prefix: str, start: str, *, unfinished: bool) -> builtins.list[str]:
        """unfinished: also list folders that hold nothing but unfinished uploads, since somebody has to delete them."""
        names, begin = set(), ""
        if unfinished:
            below = (key.removeprefix(prefix) for key, _ in await self._unfinished(prefix))
            folders = (f"{folder}/" for folder, slash, _ in (key.partition("/") for key in below) if slash)
            names = {folder for folder in folders if folder.startswith(start)}
        while True:
            page = await self._persist(lambda begin=begin: self._client.page(prefix + start, begin, deep=False))  # type: ignore[misc]
            names |= {key.removeprefix(prefix) for key in (*page.keys, *page.folders)}
            begin = page.following
            if not begin:
                return sorted(names)

    async def _delete(self, prefix: str) -> None:
        for _ in range(2):  # a blob that stands for a folder goes only after its contents, which may be on a later page
            begin, pages = "", 0
            while begin or not pages:
                page = await self._persist(lambda begin=begin: self._client.page(prefix, begin, deep=True))  # type: ignore[misc]
                if page.keys:
                    await self._persist(lambda keys=page.keys: self._client.delete(keys))  # type: ignore[misc]
                begin, pages = page.following, pages + 1
            if pages == 1:
                break
        for key, upload in await self._unfinished(prefix):
            with suppress(RequestFailed):  # somebody else has ended it, or the next clean-up will find it
                await self._persist(lambda key=key, upload=upload: self._client.abort(key, upload))  # type: ignore[misc]

    async def _unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        """Return uploads whose writers may be gone; none if the server does not list them. They harm no run."""
        try:
            async with timeout(self._answer_within()):
                return await self._client.unfinished(prefix)
        except Exception as failure:
            log.info("%s: unfinished uploads cannot be looked for: %s", self.url, failure)
            return ()

    # -- requests --

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's event loop, and wait for it."""
        return Call(coroutine, self._client.loop).result()

    async def _persist(self, request: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """Repeat a request, which carries `size` bytes, until it is answered or the patience is over."""
        clock = asyncio.get_running_loop().time
        end = 0.0
        for pause in pauses(FIRST_PAUSE, LONGEST_PAUSE):
            try:
                async with self._requests, timeout(self._answer_within() + size / SLOWEST):
                    answer = await request()
                self._answered = self._seen = True
                return answer
            except asyncio.TimeoutError:
                failure = RequestFailed("again", "there was no answer in time", "Check the endpoint and the network")
            except RequestFailed as error:
                failure = error
                if failure.kind != "again":
                    self._answered = True
                    if failure.kind == "missing" and not self._seen:
                        # Is it the bucket? Some stores do not say.
                        await self._persist(lambda: self._client.page(f"{self._root}/".lstrip("/"), "", deep=False))
                    raise
            except HoldfastError:
                raise
            except Exception as error:  # an unforeseen error of a library: nobody knows what has happened
                raise RequestFailed("again", f"{type(error).__name__}: {error}") from error
            end = end or clock() + (PATIENCE if self._answered else FIRST_PATIENCE)
            if clock() >= end:
                raise failure
            await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), end - clock()))
        raise AssertionError("pauses never end")

    def _answer_within(self) -> float:
        return ANSWER_WITHIN if self._answered else FIRST_ANSWER_WITHIN

    # -- names --

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    @contextmanager
    def _naming(self, verb: str, name: str) -> Iterator[str]:
        """Yield the key of an object, and turn a failed request into a StorageError with the full URL."""
        check_process(self._process, self.url)
        key = "/".join(filter(None, (self._root, check_relative(name) if name or verb != "list" else "")))
        try:
            yield key
        except RequestFailed as failure:
            full = self._full(name)
            if failure.kind == "missing" and verb == "read":
                raise FileNotFoundError(printable(f"{full} is missing")) from None
            error = NotCreated if isinstance(failure, _NothingMade) else StorageError
            raise error(f"Could not {verb} {full}: {failure}", object=full) from fit(failure, CAUSE)


class _NothingMade(RequestFailed):
    """A create that was refused at the first try, with this failure."""

    def __init__(self, failure: RequestFailed) -> None:
        Exception.__init__(self, str(failure))
        self.kind = "refused"


def _parts(chunks: Iterable[Buffer], size: int) -> Iterator[Part]:
    """Yield the parts of an object, at least one. All but the last have this size."""
    number = offset = 0
    buffers: list[memoryview] = []
    held, limit = 0, size
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        # Only a part with something after it is surely not the last one.
        while held + len(view) > limit:
            here, view = view[: limit - held], view[limit - held :]
            yield Part(number, offset, Body([*buffers, here]), last=False)
            number, offset = number + 1, offset + limit
            buffers, held, limit = [], 0, size * (1 + number // PARTS_BEFORE_GROWTH)
        if view:
            buffers.append(view)
            held += len(view)
    yield Part(number, offset, Body(buffers), last=True)


def _chain(first: Part, others: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from others


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results, or raise the first error once the others have been stopped."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
