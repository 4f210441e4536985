"""What files say that may be replaced at any time, without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from holdfast_protos import credential_files
from holdfast_protos.credential_files import UnusableFile
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

log = logger("holdfast.coordinator")

T = TypeVar("T")


class WatchedFiles(Generic[T]):
    """What some files say together. Any thread may ask.

    paths: each with whether others must not be able to read it.
    parse: what the files' contents mean. Raises UnusableFile, also for contents that do not fit together.

    Files are replaced one after the other, so what cannot be used is never used: what they said before stays in force,
    and the log says so once. Only making one raises InvalidRequest.
    """

    def __init__(self, paths: Sequence[tuple[str, bool]], parse: Callable[[list[bytes]], T]) -> None:
        self._paths = paths
        self._parse = parse
        self._lock = threading.Lock()
        self._found: list[bytes] = []
        self._problem = ""
        try:
            self._value = self._look()
        except UnusableFile as error:
            raise InvalidRequest(str(error)) from None

    def get(self) -> T:
        """Return what the files say now, or what they last said that could be used."""
        with self._lock:
            try:
                self._value = self._look()
                self._problem = ""
            except UnusableFile as error:
                if str(error) != self._problem:
                    log.error("%s. What was read before stays in force", error)
                self._problem = str(error)
            return self._value

    def _look(self) -> T:
        # They are small: reading them again is no more work than to know for certain that they are the same.
        found = [credential_files.read(path, secret=secret) for path, secret in self._paths]
        if found == self._found:
            return self._value
        value = self._parse(found)
        if self._found:
            log.info("read again: %s", ", ".join(path for path, _ in self._paths))
        self._found = found
        return value
