"""The limit: the state's bytes written by two threads with a CRC32C, and nothing that makes a checkpoint of them."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import crc32c

from benchmarks.contestants.base import Contestant
from benchmarks.contestants.tensorflow_manager import fsync
from benchmarks.training import Training

THREADS = 2

# Checksummed and written piece by piece, while the piece is in the processor's cache.
PIECE = 1 << 20

# Small variables are gathered in the file's own buffer; pieces larger than it go past it without a copy.
GATHER = 1 << 18


class RawWriter(Contestant):
    """Straight from the variables' memory to two files, one per thread; always synchronous, always fsynced.

    Not a fair fight, and not meant as one: no keys, no index, no commit, and a restore that stops at buffers that were
    there before, where the others give new memory to every variable. It shows what the machine allows.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._threads = ThreadPoolExecutor(THREADS)
        # Filled, not only reserved: the first touch of each page must not fall into the time of a restore.
        self._landing = [memoryview(bytearray(b"\xff") * buffer.nbytes) for buffer in training.buffers()]

    def open(self, directory: Path, max_to_keep: int | None) -> None:
        """Remember the directory."""
        self._directory = directory
        self._max_to_keep = max_to_keep
        self._numbers = count(1)
        self._kept: list[Path] = []

    def save(self) -> None:
        """Write one folder, fsync it, and delete the oldest when there are too many."""
        folder = self._directory / f"raw-{next(self._numbers)}"
        folder.mkdir()
        buffers = self.training.buffers()
        list(self._threads.map(_write, _files(folder), _shares(buffers)))
        fsync(folder)
        fsync(self._directory)
        self._kept.append(folder)
        if self._max_to_keep is not None and len(self._kept) > self._max_to_keep:
            shutil.rmtree(self._kept.pop(0))

    def settle(self) -> None:
        """Nothing is ever under way."""

    def save_durably(self) -> None:
        """The same as `save`."""
        self.save()

    def restore(self, directory: Path) -> None:
        """Read the newest folder into buffers that are kept from turn to turn, and take the CRC32C again."""
        del directory
        list(self._threads.map(_read, _files(self._kept[-1]), _shares(self._landing)))

    def restored(self) -> list[memoryview]:
        """The kept buffers: the variables are left alone."""
        return self._landing

    def close(self) -> None:
        """Nothing to let go of."""


def _files(folder: Path) -> list[Path]:
    return [folder / str(thread) for thread in range(THREADS)]


def _shares(buffers: list[memoryview]) -> list[list[memoryview]]:
    # All variables of a case are of one size, so that every THREADS-th is an equal share.
    return [buffers[thread::THREADS] for thread in range(THREADS)]


def _write(file: Path, share: list[memoryview]) -> list[int]:
    checksums = []
    with file.open("wb", buffering=GATHER) as stream:
        for buffer in share:
            value = 0
            for begin in range(0, buffer.nbytes, PIECE):
                piece = buffer[begin : begin + PIECE]
                value = crc32c.crc32c(piece, value)
                stream.write(piece)
            checksums.append(value)
        stream.flush()
        os.fsync(stream.fileno())
    return checksums


def _read(file: Path, share: list[memoryview]) -> list[int]:
    checksums = []
    with file.open("rb") as stream:
        for buffer in share:
            value = 0
            for begin in range(0, buffer.nbytes, PIECE):
                piece = buffer[begin : begin + PIECE]
                stream.readinto(piece)
                value = crc32c.crc32c(piece, value)
            checksums.append(value)
    return checksums
