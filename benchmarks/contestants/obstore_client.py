"""The limit: Rust's object_store, as obstore gives it to Python, without the GIL and without a copy of what is sent."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore
from obstore.store import S3Store

from benchmarks.contestants.sharer import RawSharer

THREADS = 8
RANGES = 2
"""In which each object is read, side by side."""


class ObstoreClient(RawSharer):
    """`put` and `get_ranges` on several threads, each object in one request: parts would be as large.

    The payload is not signed: to hash it burns more, on both sides, than all the rest, and Holdfast does not either.
    """

    def connect(self, url: str, storage_options: Mapping[str, Any]) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._store = S3Store(
            bucket,
            prefix=prefix,
            endpoint=storage_options["endpoint_url"],
            access_key_id=storage_options["key"],
            secret_access_key=storage_options["secret"],
            region="us-east-1",
            unsigned_payload=True,
            client_options={"allow_http": True},
        )
        self._threads = ThreadPoolExecutor(THREADS)

    def write(self, objects: Mapping[str, memoryview]) -> None:
        def put(name: str) -> None:
            obstore.put(self._store, name, objects[name], use_multipart=False)

        list(self._threads.map(put, objects))

    def read(self, sizes: Mapping[str, int]) -> list[Any]:
        def get(name: str) -> list[Any]:
            size = sizes[name] // RANGES
            starts = range(0, size * RANGES, size)
            return list(obstore.get_ranges(self._store, name, starts=starts, lengths=[size] * RANGES))

        return [buffer for buffers in self._threads.map(get, sizes) for buffer in buffers]

    def close(self) -> None:
        super().close()
        self._threads.shutdown()
