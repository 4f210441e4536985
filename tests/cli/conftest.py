"""Run directories to look at, made without TensorFlow."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from holdfast.cli import main
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record, header_record, slice_record, write_index
from holdfast_storage.checkpoint.manifest import Base, Manifest, ObjectRecord
from holdfast_storage.cluster import Task
from holdfast_storage.layout import Attempt, Piece, data_object, delta_prefix, index_object, manifest_object
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store import Store, open_store

FLOAT32, INT64 = 1, 9
CHIEF, OTHER = Task("worker", 0), Task("worker", 1)


@dataclass
class RunDirectory:
    """A run directory, filled by hand as the workers and the coordinator would."""

    path: Path

    @property
    def store(self) -> Store:
        return open_store(self.path)

    @property
    def last(self) -> Entry:
        """The log's last entry."""
        entry = Log(self.store).tail()
        assert entry is not None
        return entry

    def save_delta(self, step: int, ordinal: int, on: CheckpointRecord) -> CheckpointRecord:
        """The objects of a delta: one row of the first piece of the tensor, none of the other, and the counter."""
        attempt = Attempt("ckpt", step, "0a1b2c3d", ordinal)
        bundle, key = delta_prefix(f"ckpt-{step}"), "kernel/.ATTRIBUTES/VARIABLE_VALUE"
        piece, other = Piece(key, 0), Piece(key, 2)
        row, value, counter = struct.pack("<q", 1), struct.pack("<2f", 0.0, step), struct.pack("<q", step)
        records = (
            _whole(piece.rows, INT64, (1,), row, offset=0),
            _whole(piece.values, FLOAT32, (1, 2), value, offset=8),
            _whole(other.rows, INT64, (0,), b"", offset=16),
            _whole(other.values, FLOAT32, (0, 2), b"", offset=16),
            _whole("save_counter/.ATTRIBUTES/VARIABLE_VALUE", INT64, (), counter, offset=16),
        )
        contents: Sequence[tuple[str, bytes, str, Task | None]] = (
            (data_object(bundle, 0, 1), row + value + counter, "data", CHIEF),
            (index_object(bundle), write_index(1, _serialized(*records)), "index", None),
        )
        return self._commit(attempt, contents, on)

    def save(self, step: int, ordinal: int = 1) -> CheckpointRecord:
        """The objects of a checkpoint of two workers: one tensor in two slices, a counter, and a worker's own."""
        attempt = Attempt("ckpt", step, "0a1b2c3d", ordinal)
        key, halves = "kernel/.ATTRIBUTES/VARIABLE_VALUE", (((0, 2), (0, 2)), ((2, 2), (0, 2)))
        kernel = struct.pack("<8f", *range(8))
        top, bottom = kernel[:16], kernel[16:]
        counter = struct.pack("<q", step)
        own = struct.pack("<2f", 0.5, 0.25)
        index = write_index(
            2,
            _serialized(
                header_record(key, FLOAT32, (4, 2), halves),
                _slice(key, halves[0], top, shard=0),
                _slice(key, halves[1], bottom, shard=1),
                _whole("save_counter/.ATTRIBUTES/VARIABLE_VALUE", INT64, (), counter, offset=16),
            ),
        )
        local_index = write_index(1, _serialized(_whole("mean/.OWN", FLOAT32, (2,), own, offset=0)))
        base, local = f"ckpt-{step}", f"local/{OTHER}"
        contents: Sequence[tuple[str, bytes, str, Task | None]] = (
            (data_object(base, 0, 2), top + counter, "data", CHIEF),
            (data_object(base, 1, 2), bottom, "data", OTHER),
            (index_object(base), index, "index", None),
            (data_object(local, 0, 1), own, "local", OTHER),
            (index_object(local), local_index, "local", OTHER),
        )
        return self._commit(attempt, contents, None)

    def _commit(
        self,
        attempt: Attempt,
        contents: Sequence[tuple[str, bytes, str, Task | None]],
        on: CheckpointRecord | None,
    ) -> CheckpointRecord:
        step = attempt.number
        for name, data, _, _ in contents:
            self.store.write(f"{attempt.folder}/{name}", [data])
        manifest = Manifest(
            prefix=attempt.prefix,
            step=step,
            time=1_750_000_000.0 + step,
            generation=attempt.generation,
            world=(CHIEF, OTHER),
            objects=tuple(
                ObjectRecord(name, len(data), crc32c(data), role, task) for name, data, role, task in contents
            ),
            strategy="MultiWorkerMirroredStrategy",
            versions={"tensorflow": "2.21.0", "holdfast": "0.1.0"},
            git_commit="0123abc",
            metadata={"dataset": "digits"},
            metrics={"loss": 0.25},
            local_keys=("mean",),
            base=on and Base(on.prefix, on.manifest_crc32c),
        ).to_bytes()
        self.store.write(manifest_object(attempt.folder), [manifest])
        base, time = on.prefix if on else "", 1_750_000_000.0 + step
        return CheckpointRecord(attempt.prefix, step, time, manifest_crc32c=crc32c(manifest), base=base)

    def log(self, *checkpoints: CheckpointRecord, damaged: tuple[str, ...] = (), number: int = 0) -> None:
        """Publish an entry of the log."""
        state = LogState("run-id", checkpoints=checkpoints, damaged=damaged)
        outcome = Log(self.store).publish(Entry(number, "commit", f"write-{number}", 1_750_000_000.0, state), 5.0)
        assert outcome == Published()


def _serialized(*records: tuple[bytes, Any]) -> list[tuple[bytes, bytes]]:
    return [(key, entry.SerializeToString()) for key, entry in records]


def _whole(key: str, dtype: int, shape: tuple[int, ...], data: bytes, offset: int) -> tuple[bytes, Any]:
    return full_record(key, dtype, shape, shard=0, offset=offset, size=len(data), crc32c=mask(crc32c(data)))


def _slice(key: str, extents: tuple[tuple[int, int], ...], data: bytes, shard: int) -> tuple[bytes, Any]:
    return slice_record(key, FLOAT32, extents, shard=shard, offset=0, size=len(data), crc32c=mask(crc32c(data)))


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    """An empty run directory."""
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def saved(run_directory: RunDirectory) -> RunDirectory:
    """A run with the committed steps 10 and 20."""
    run_directory.log(run_directory.save(10, 1), run_directory.save(20, 2))
    return run_directory


@pytest.fixture
def holdfast() -> Callable[..., Result]:
    """The command line, as a function of its arguments."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="holdfast")

    return run


@pytest.fixture
def holdfast_json(holdfast: Callable[..., Result]) -> Callable[..., Any]:
    """The command line with --json: what it printed, after checking its exit status (keyword `status`)."""

    def run(*arguments: object, status: int = 0) -> Any:
        result = holdfast(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    return run
