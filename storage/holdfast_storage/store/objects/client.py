"""The interface of object stores: single requests, each of which is tried once and says how it ended.

Everything that is built on them, retries above all, is `object_store.py`. Keys are whole names within the bucket. All
methods are coroutines for the event loop `loop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from holdfast_storage.told import told

FailureKind = Literal["missing", "taken", "refused", "unsupported", "again"]

_PIECE = 1 << 20  # bytes of a body that are handed to the connection at once


class RequestFailed(Exception):
    """A request failed.

    Args:
        said: by the server or a library, of which only a line is told, without secrets.
        hint: what to check, in a sentence of our own.

    Attributes:
        kind: `missing`: the bucket exists and the object does not. `taken`: the object exists and should not.
            `refused`: nothing was changed, and asking again is no use. `unsupported`: likewise, since the store does
            not know this kind of request. `again`: there was no answer, or one that says to ask later; the request may
            have taken effect, or may still.
    """

    def __init__(self, kind: FailureKind, said: BaseException | str, hint: str = "") -> None:
        super().__init__(f"{told(said).rstrip('. ')}. {hint}" if hint else told(said))
        self.kind = kind


class Body:
    """Bytes to send, in buffers that are neither copied nor joined. Each try sends its own `unread()` body.

    A body is an asynchronous iterable for aiohttp, and a file for the libraries of the stores.
    """

    def __init__(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        self.views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._size = sum(len(view) for view in self.views)
        self._at = 0

    def __len__(self) -> int:
        return self._size

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for view in self.views:
            for start in range(0, len(view), _PIECE):
                yield view[start : start + _PIECE]

    def unread(self) -> Body:
        """Return a body of the same bytes, from the beginning."""
        return Body(self.views)

    def behind(self, start: int) -> Body:
        """Return a body without the first `start` bytes."""
        rest = Body([])
        for view in self.views:
            rest.views.append(view[start:])
            start = max(0, start - len(view))
        rest._size = sum(len(view) for view in rest.views)
        return rest

    def read(self, size: int = -1) -> bytes:
        """Read like a file."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        data, begin = [], 0
        for view in self.views:
            data.append(view[max(0, self._at - begin) : max(0, end - begin)])
            begin += len(view)
        self._at = end
        return b"".join(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek like a file."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an object that is written in several requests."""

    number: int  # from 0
    offset: int
    body: Body
    last: bool

    def unread(self) -> Part:
        """Return the same part with its body from the beginning."""
        return replace(self, body=self.body.unread())


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing."""

    keys: Sequence[str]  # objects below the prefix, without that of the prefix itself
    folders: Sequence[str]  # what lies deeper, cut off after the next slash
    following: str  # where the next page begins; empty if this is the last


class ObjectClient(Protocol):
    """A bucket. Every method raises RequestFailed."""

    parts_in_order: bool
    """Whether the parts of an object can only be sent one after the other."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def put(self, key: str, body: Body, *, exclusive: bool) -> None:
        """Make an object in one request. With `exclusive`, only if there is none, atomically."""
        ...

    async def begin(self, key: str) -> str:
        """Begin an upload in parts, and return its id."""
        ...

    async def put_part(self, key: str, upload: str, part: Part) -> str:
        """Send a part, perhaps again, and return what `finish` needs for it."""
        ...

    async def finish(self, key: str, upload: str, parts: Sequence[str]) -> None:
        """Make the object from all its parts."""
        ...

    async def abort(self, key: str, upload: str) -> None:
        """Drop an upload and what was sent of it."""
        ...

    async def unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        """Return key and id of unfinished uploads below a prefix, if the store would keep them for ever."""
        ...

    async def get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        """Fill a buffer from an object at an offset. Return the bytes read, fewer at its end, and the object's size.

        The size is only known if a byte was read.
        """
        ...

    async def size(self, key: str) -> int:
        """Return the size of an object in bytes."""
        ...

    async def page(self, prefix: str, begin: str, *, deep: bool) -> Page:
        """List the names that start with a prefix, from `begin` on. With `deep`, list all objects, and no folders.

        The prefix is empty or ends in a slash. Without `deep`, it may end in a part of a name.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects of a page. It is no failure if some are gone already."""
        ...
