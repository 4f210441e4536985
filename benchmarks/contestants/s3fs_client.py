"""s3fs as it is used by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import s3fs
from fsspec.asyn import sync

from benchmarks.contestants.sharer import RawSharer

CONCURRENCY = 8
"""More made nothing faster."""


class _S3fs(RawSharer):
    _files: Any = None

    def connect(self, url: str, storage_options: Mapping[str, Any]) -> None:
        if self._files is None:
            self._files = s3fs.S3FileSystem(**storage_options, use_listings_cache=False, skip_instance_cache=True)
        self._folder = url.removeprefix("s3://")


class OneByOne(_S3fs):
    """`fs.open(url, "wb").write(...)`, one object after the other: what most programs do."""

    def write(self, objects: Mapping[str, memoryview]) -> None:
        for name, data in objects.items():
            with self._files.open(f"{self._folder}/{name}", "wb") as file:
                file.write(data)

    def read(self, sizes: Mapping[str, int]) -> list[Any]:
        read = []
        for name in sizes:
            with self._files.open(f"{self._folder}/{name}", "rb") as file:
                read.append(file.read())
        return read


class Concurrent(_S3fs):
    """`_pipe_file` and `_cat_file`, the coroutines of `pipe_file` and `cat_file`, several at a time."""

    def write(self, objects: Mapping[str, memoryview]) -> None:
        # They take nothing but bytes.
        self._gather(lambda name: self._files._pipe_file(f"{self._folder}/{name}", bytes(objects[name])), objects)

    def read(self, sizes: Mapping[str, int]) -> list[Any]:
        return self._gather(lambda name: self._files._cat_file(f"{self._folder}/{name}"), sizes)

    def _gather(self, make: Any, names: Iterable[str]) -> list[Any]:
        async def gather() -> list[Any]:
            turn = asyncio.Semaphore(CONCURRENCY)

            async def one(name: str) -> Any:
                async with turn:
                    request: Coroutine[Any, Any, Any] = make(name)
                    return await request

            return list(await asyncio.gather(*map(one, names)))

        return list(sync(self._files.loop, gather))
