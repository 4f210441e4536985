"""What all servers have in common: a bucket, in which every test gets a place of its own."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import fsspec

from servers.processes import Processes, ServerFailed

BUCKET = "holdfast"


@dataclass(frozen=True)
class Location:
    """An empty place on an object store.

    url: for example `s3://holdfast/7f3a2c`; nothing lies below it.
    storage_options: endpoint and credentials, as the fsspec file system takes them.
    environment: the same as variables, from which the file system takes them in a process that is told nothing.
    """

    url: str
    storage_options: Mapping[str, Any]
    environment: Mapping[str, str]


class Server(ABC):
    """A server that runs until `stop()`. ServerFailed if it does not come up."""

    kind: ClassVar[str]
    """The extra of Holdfast that it is for."""

    protocol: ClassVar[str]
    endpoint: str
    """Its HTTP address."""
    files: fsspec.AbstractFileSystem
    """All of it, for a look that owes nothing to the product. Caches nothing."""

    def __init__(self) -> None:
        self._processes = Processes(self.kind)
        try:
            self._start(self._processes)
            self.files = fsspec.filesystem(
                self.protocol, **self.options(self.endpoint), use_listings_cache=False, skip_instance_cache=True
            )
            self.files.mkdir(BUCKET)
        except ServerFailed:
            raise
        except Exception as error:
            raise self._processes.failure(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self._processes.stop()
            raise

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Return in words what is not installed here; empty if nothing is missing."""

    @abstractmethod
    def options(self, endpoint: str) -> dict[str, Any]:
        """The storage options with which it is reached at an address, its own or that of a proxy."""

    @abstractmethod
    def environment(self, endpoint: str) -> dict[str, str]:
        """The same as environment variables."""

    @abstractmethod
    def _start(self, processes: Processes) -> None:
        """Start it and set `endpoint`."""

    def location(self, endpoint: str = "") -> Location:
        """An empty place, reached at an address."""
        endpoint = endpoint or self.endpoint
        url = f"{self.protocol}://{BUCKET}/{secrets.token_hex(6)}"
        return Location(url, self.options(endpoint), self.environment(endpoint))

    def stop(self) -> None:
        self._processes.stop()
