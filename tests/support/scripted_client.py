"""An object store's client in memory, which goes wrong as it is told."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from holdfast_storage.store.objects.client import Body, Page, Part, RequestFailed

Fault = Literal[
    "later",  # no effect, and the answer "ask again later"
    "lose",  # the effect, and no answer
    "hang",  # no effect, and no answer ever
    "hang after",  # the effect, and no answer ever
    "refuse",  # no effect, and a final no
]


class ScriptedClient:
    """An `ObjectClient`; `faults` says how the n-th call of a method, from 0, ends; "always" for n: each.

    objects, uploads: what is there.
    calls: every call, as (method, key or part's number).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        faults: Mapping[tuple[str, int | str], Fault] | None = None,
        *,
        in_order: bool = False,
        conditions: Literal["kept", "ignored", "unsupported"] = "kept",
        bucket: bool = True,
    ) -> None:
        self.loop = loop
        self.parts_in_order = in_order
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.calls: list[tuple[str, str | int]] = []
        self.in_flight = self.most_in_flight = 0  # bytes of parts
        self.too_late = 0  # such ones that were still in flight when their upload was aborted
        self._faults = dict(faults or {})
        self._counts: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._conditions = conditions
        self._bucket = bucket

    async def put(self, key: str, body: Body, *, exclusive: bool) -> None:
        fault = await self._before("put", key)
        if exclusive and self._conditions == "unsupported":
            raise RequestFailed("unsupported", "what is If-None-Match?")
        if exclusive and self._conditions == "kept" and key in self.objects:
            raise RequestFailed("taken", "there is one")
        self.objects[key] = body.read()
        await self._after(fault)

    async def begin(self, key: str) -> str:
        fault = await self._before("begin", key)
        upload = f"{key}#{next(self._numbers)}"
        self.uploads[upload] = {}
        await self._after(fault)
        return upload

    async def put_part(self, key: str, upload: str, part: Part) -> str:
        self.in_flight += len(part.body)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = await self._before("put_part", part.number)
            tag = f"{part.number}:{part.offset}:{part.last}"
            self.uploads[upload][tag] = part.body.read()
            await self._after(fault)
        except asyncio.CancelledError:
            await asyncio.sleep(5.0)  # as a thread in the middle of something
            raise
        finally:
            self.in_flight -= len(part.body)
        return tag

    async def finish(self, key: str, upload: str, parts: Sequence[str]) -> None:
        fault = await self._before("finish", key)
        if upload not in self.uploads:
            raise RequestFailed("missing", "no such upload")
        sent = self.uploads.pop(upload)
        self.objects[key] = b"".join(sent[tag] for tag in parts)
        await self._after(fault)

    async def abort(self, key: str, upload: str) -> None:
        fault = await self._before("abort", key)
        self.too_late += self.in_flight
        self.uploads.pop(upload, None)
        await self._after(fault)

    async def unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        fault = await self._before("unfinished", prefix)
        await self._after(fault)
        return [(upload.partition("#")[0], upload) for upload in self.uploads if upload.startswith(prefix)]

    async def get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        fault = await self._before("get", f"{key}@{offset}")
        data = self._object(key)
        part = data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        await self._after(fault)
        return len(part), len(data) if part else 0

    async def size(self, key: str) -> int:
        fault = await self._before("size", key)
        await self._after(fault)
        return len(self._object(key))

    async def page(self, prefix: str, begin: str, *, deep: bool) -> Page:
        fault = await self._before("page", prefix)
        await self._after(fault)
        if not self._bucket:
            raise RequestFailed("refused", "no such bucket")
        below = sorted(key for key in self.objects if key.startswith(prefix) and key > begin)
        return Page(below[:2], [], below[1] if len(below) > 2 else "")

    async def delete(self, keys: Sequence[str]) -> None:
        fault = await self._before("delete", keys[0])
        for key in keys:
            self.objects.pop(key, None)
        await self._after(fault)

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise RequestFailed("missing", "there is none")
        return self.objects[key]

    async def _before(self, method: str, what: str | int) -> Fault | None:
        self.calls.append((method, what))
        number = self._counts[method]
        self._counts[method] += 1
        fault = self._faults.get((method, number), self._faults.get((method, "always")))
        await asyncio.sleep(0.01)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault in ("later", "refuse"):
            raise RequestFailed("again" if fault == "later" else "refused", fault)
        return fault

    async def _after(self, fault: Fault | None) -> None:
        if fault == "hang after":
            await asyncio.Event().wait()
        if fault == "lose":
            raise RequestFailed("again", fault)
