"""The keys of the runs that this coordinator serves, as it reads them from their storage."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import replace

from holdfast_protos import proofs
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.failure import Failure
from holdfast_storage.layout import KEY
from holdfast_storage.run_key import read_key
from holdfast_storage.store.base import Store

from .driver import Refused
from .refusals import NotNow
from .served_runs import ServedRuns

REMEMBERED = 4096
"""The number of keys that are kept. Beyond that, the one that was used longest ago is read again when it is needed."""

ANEW_AFTER = 1.0
"""Seconds between two readings of a key: whoever proves nothing costs next to no storage."""


class RunKeys:
    def __init__(self, runs: ServedRuns) -> None:
        self._runs = runs
        self._read: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # by directory: the key, and when it was read
        self._urls: dict[bytes, str] = {}  # by key id
        self._reading: dict[str, asyncio.Future[bytes | None]] = {}  # by directory: each once, whoever asks

    async def open(self, url: str) -> Store:
        """Return the directory that a run's URL leads to now. Raises Refused if it is not served here, and NotNow."""
        return await self._runs.open(url)

    async def get(self, store: Store) -> bytes:
        """Return the key of a run. Raises Refused if it may not be read, and NotNow."""
        if store.url not in self._read:
            self._remember(store.url, await self._now(store))
        self._read.move_to_end(store.url)
        return self._read[store.url][0]

    def is_open(self, url: str) -> bool:
        """Return whether somebody takes part in a run."""
        return self._runs.find(url) is not None

    def find(self, key_id: bytes) -> str:
        """Return the URL of an open run, by the id of its key. Empty if there is none."""
        url = self._urls.get(key_id, "")
        return url if self.is_open(url) else ""

    async def get_anew(self, store: Store) -> bytes:
        """Return the key as it stands on storage now, as far as it was not just read: the run may have been deleted and
        made again. While it is read, all others have the one that is known. Raises as `get`."""
        known, reading = self._read.get(store.url), store.url in self._reading
        if known and not reading and time.monotonic() - known[1] >= ANEW_AFTER:
            self._read[store.url] = known[0], time.monotonic()
            self._remember(store.url, await self._now(store))
        return await self.get(store)

    def _remember(self, url: str, key: bytes) -> None:
        if url in self._read:
            self._forget(url)
        self._read[url], self._urls[proofs.key_id(key)] = (key, time.monotonic()), url
        while len(self._read) > REMEMBERED:
            self._forget(next(iter(self._read)))

    def _forget(self, url: str) -> None:
        key, _ = self._read.pop(url)
        self._urls.pop(proofs.key_id(key), None)

    async def _now(self, store: Store) -> bytes:
        try:
            key = await self._once(store)
        except InvalidRequest as error:
            raise Refused(Failure.of(error, phase="join")) from None
        except HoldfastError as error:
            failure = Failure.of(error, phase="join")
            why = f"the coordinator at {self._runs.leader.address} cannot read the run's key: {failure.message}"
            raise NotNow(why, replace(failure, message=why)) from None
        if key is None:
            raise NotNow(
                f"the coordinator sees no {KEY} in {store.url}: check that it has the same storage mounted there"
            )
        return key

    async def _once(self, store: Store) -> bytes | None:
        """Read the key, in one thread however many ask: a storage that hangs must not keep the threads from others."""
        reading = self._reading.get(store.url)
        if reading is None:

            def ended(reading: asyncio.Future[bytes | None]) -> None:
                del self._reading[store.url]
                if not reading.cancelled():
                    reading.exception()  # those who wait get the error, if any are left

            reading = asyncio.ensure_future(self._runs.threaded(lambda: read_key(store)))
            self._reading[store.url] = reading
            reading.add_done_callback(ended)
        return await asyncio.shield(reading)
