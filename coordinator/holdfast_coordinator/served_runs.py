"""The runs of one coordinator process. Each is opened when its first worker calls."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.failure import Failure
from holdfast_storage.logger import logger
from holdfast_storage.records import Leader
from holdfast_storage.store import Store, normalise, open_store
from holdfast_storage.store.url import led_to, split

from .driver import Driver, Refused
from .refusals import NotNow
from .threads import DaemonThreads

log = logger("holdfast.coordinator")

T = TypeVar("T")

OPENING_THREADS = 64

MOST_OPENING = 1024
"""Run directories that are being opened at once. Their storage hangs, or somebody asks for ever new ones."""


MOST_NAMES = 100
"""The URLs by which workers reach one run: each host may have it elsewhere."""

MOST_RUNS = 2_000
"""The runs that are open at once. Each takes memory, and those in which something goes on take threads."""


class ServedRuns:
    """The drivers of all runs, by run directory.

    Only directories at or below a root are served, and those of stores that this process has open itself. No other is
    looked at. A run that everybody has left is closed after a while, and opened anew when somebody joins it.

    insecure: as for a driver.
    """

    def __init__(self, leader: Leader, roots: Sequence[str] = (), *, insecure: bool = False) -> None:
        self.leader = leader
        self._insecure = insecure
        self._roots = tuple(map(normalise, roots))
        # A root that is written with links in it is found by that name as well.
        as_written = {os.path.abspath(path) for protocol, path in map(split, roots) if protocol == "file"}
        self._ways = as_written.union(self._roots)
        self._adopted: dict[str, Store] = {}  # by URL
        self._directories: dict[str, str] = {}  # the store of this process, by the URL of a worker
        self._drivers: dict[str, Driver] = {}  # by directory
        self._numbers = itertools.count(1)
        self._closing: set[asyncio.Task[None]] = set()
        self._opening: dict[str, asyncio.Future[Store]] = {}  # by URL: each once, however many workers ask
        self._threads = DaemonThreads(OPENING_THREADS, "holdfast-open")

    def adopt(self, store: Store) -> None:
        """Use a store that this process has open, with its connections and its options, which are never sent."""
        self._adopted[store.url] = store

    def find(self, url: str) -> Driver | None:
        """Return the driver of an open run, by the worker's URL or by the one in `urls`."""
        return self._drivers.get(self._directories.get(url, url))

    @property
    def urls(self) -> list[str]:
        """The URLs of the open runs."""
        return sorted(self._drivers)

    async def get(self, url: str) -> Driver:
        """Return the driver of a run, which is opened if necessary. Raises as `open`."""
        driver = self.find(url)
        if driver is None:
            store = await self.open(url)
            driver = self._drivers.get(store.url)
            if driver is None:
                self._make_room()
                driver = self._drivers[store.url] = Driver(
                    store, self.leader, next(self._numbers), self._deserted, insecure=self._insecure
                )
            # Workers that reach the directory by different paths are in one run.
            if list(self._directories.values()).count(store.url) >= MOST_NAMES:
                raise NotNow(f"the workers of {store.url} reach it by {MOST_NAMES} other paths already")
            self._directories[url] = store.url
        return driver

    def _make_room(self) -> None:
        """Close runs that everybody has left, if there are many. Raises NotNow if there are too many others."""
        if len(self._drivers) >= MOST_RUNS:
            for driver in [each for each in self._drivers.values() if each.is_deserted]:
                self._deserted(driver)
        if len(self._drivers) >= MOST_RUNS:
            raise NotNow(f"this coordinator has {MOST_RUNS:,} other runs, in which somebody is or was a moment ago")

    def _deserted(self, driver: Driver) -> None:
        url = driver.store.url
        if self._drivers.get(url) is driver:
            # From here on nobody finds it. Whoever had found it before waits for it, so it would not be deserted.
            del self._drivers[url]
            self._directories = {name: each for name, each in self._directories.items() if each != url}
            log.info("%s: everybody has left", url)
            closing = asyncio.get_running_loop().create_task(driver.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def open(self, url: str) -> Store:
        """Return the store of a run directory. Raises Refused if it is not served here or cannot be
        opened, and NotNow."""
        if driver := self.find(url):
            return driver.store
        try:
            return await self._opened(url)
        except HoldfastError as error:
            raise Refused(replace(Failure.of(error, phase="join"), object=url)) from error

    async def threaded(self, work: Callable[[], T]) -> T:
        """Run something that may wait for a storage."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _opened(self, url: str) -> Store:
        if len(self._opening) >= MOST_OPENING:
            raise NotNow(f"{MOST_OPENING} other run directories are being opened")
        opening = self._opening.get(url)
        if opening is None:

            def ended(opening: asyncio.Future[Store]) -> None:
                del self._opening[url]
                if not opening.cancelled():
                    opening.exception()  # those who wait get the error, if any are left

            opening = asyncio.get_running_loop().run_in_executor(self._threads, self._open, url)
            self._opening[url] = opening
            opening.add_done_callback(ended)
        return await asyncio.shield(opening)

    def _open(self, url: str) -> Store:
        directory = self._check(url)
        return self._adopted.get(directory) or open_store(directory)

    def _check(self, url: str) -> str:
        # Not even a look at what else there is on this host: it may mount something, or never return.
        way = led_to(url, {*self._ways, *self._adopted})
        directory = normalise(way) if way else ""
        below = any(f"{directory}/".startswith(f"{root.rstrip('/')}/") for root in self._roots)
        if not below and directory not in self._adopted:
            where = "below its --root" if self._roots else "of the training job that it is a part of"
            raise InvalidRequest(
                f"the coordinator serves the runs {where}, and {url} is none: give all workers the same directory, and "
                "a coordinator of its own a --root above it",
                object=url,
            )
        return directory

    async def settle(self, patience: float) -> None:
        """Wait for up to `patience` seconds until nothing is going on in any run."""
        await asyncio.gather(*(driver.settle(patience) for driver in self._drivers.values()))

    async def close(self) -> None:
        """Stop, whatever is going on."""
        await asyncio.gather(*self._closing, *(driver.close() for driver in self._drivers.values()))
        for opening in list(self._opening.values()):
            opening.cancel()
        self._threads.shutdown(cancel_futures=True)
