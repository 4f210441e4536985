"""Workers without TensorFlow: a session, and saves of states that are made by hand. Many run as threads of one process.

Each counts as a process of its own unless told otherwise, so that two worlds of one test are two jobs.
"""

from __future__ import annotations

import json
import random
import secrets
import struct
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from holdfast.incremental import Incremental
from holdfast.keep import shorthand
from holdfast.restoring.agree import agree
from holdfast.restoring.staging import Staged, stage
from holdfast.saving.increments import Increments
from holdfast.saving.save import Save, Terms
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.session.session import Session
from holdfast.session.this_task import ThisTask
from holdfast_protos.proofs import process_of
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store

T = TypeVar("T")

FLOAT, STRING = 1, 7  # tensorflow.DataType
ROWS = 2000


def tensor(key: str, shape: tuple[int, ...], *, seed: int = 0, guarded: bool = True) -> SnapshotTensor:
    """A float tensor with values that follow from key and seed."""
    size = 4
    for length in shape:
        size *= length
    return SnapshotTensor(key, FLOAT, shape, memoryview(random.Random(f"{key}/{seed}").randbytes(size)), guarded)


def state(*, seed: int = 0, local: Collection[str] = (), own: int = 0, more: Sequence[SnapshotTensor] = ()) -> Snapshot:
    """A state of 1.6 MB: a variable large enough to be sliced, small ones, and ones that need not be equal everywhere.

    local: names of tensors that are not guarded and have the values of `own`, a number for each worker.
    """
    tensors = [
        tensor("model/kernel", (ROWS, 200), seed=seed),
        *(tensor(f"model/small-{number}", (number, 3), seed=seed) for number in range(20)),
        *(tensor(name, (7,), seed=own, guarded=False) for name in local),
        *more,
    ]
    return Snapshot(tuple(sorted(tensors, key=lambda t: t.key.encode())), _graph())


def flipped(snapshot: Snapshot, key: str) -> Snapshot:
    """The same state with one bit of one tensor changed."""

    def flip(t: SnapshotTensor) -> SnapshotTensor:
        data = bytearray(t.data)
        data[len(data) // 2] ^= 1
        return SnapshotTensor(t.key, t.dtype, t.shape, memoryview(data), t.guarded)

    return Snapshot(tuple(flip(t) if t.key == key else t for t in snapshot.tensors), snapshot.object_graph)


def _graph() -> SnapshotTensor:
    text = b"an object graph"
    data = bytes([len(text)]) + struct.pack("<I", mask(crc32c(struct.pack("<I", len(text))))) + text
    return SnapshotTensor(OBJECT_GRAPH_KEY, STRING, (), data, encoded_crc32c=entry_crc32c(STRING, (), [data]))


def cluster_of(size: int, first_port: int = 1000) -> Cluster:
    return (("worker", tuple(f"127.0.0.1:{first_port + number}" for number in range(size))),)


class LightWorker:
    """One worker.

    Args:
        store: the run directory.
        index: which of the workers of `cluster`.
        coordinator: its address; empty: embedded in worker 0.
        process: which process this is one more manager of; default: a new one.
        full_every: of so many saves one is full; 0: all are.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        cluster: Cluster,
        *,
        coordinator: str = "",
        process: str = "",
        join_timeout: float = 60.0,
        save_timeout: float = 60.0,
        max_to_keep: int | None = None,
        on_divergence: str = "refuse",
        takeover: bool = False,
        full_every: int = 0,
    ) -> None:
        self.store = store
        self.process = process or secrets.token_hex(6)
        self.session = Session(ThisTask(Task("worker", index), cluster), store, coordinator, join_timeout)
        number = self.session._incarnation.rpartition(".")[2]
        secret = self.process.encode()
        self.session._incarnation = f"{process_of(secret)}.{number}"
        self.session._access = replace(self.session._access, secret=secret)
        self.terms = Terms("ckpt", save_timeout, shorthand(max_to_keep, None), on_divergence, False, takeover)
        self.increments = Increments(Incremental(full_every=full_every)) if full_every else None
        self._saves = self._restores = 0

    def __repr__(self) -> str:
        return str(self.session.this_task.task)

    def join(self) -> LightWorker:
        self.session.join()
        return self

    def save(self, step: int, snapshot: Snapshot | None = None, **fields: Any) -> Save:
        """Start the next save."""
        self._saves += 1
        fields = {"increments": self.increments, **fields}
        save = Save(self.session, self.store, self.terms, step, snapshot or state(seed=step), self._saves, **fields)
        threading.Thread(target=save.run, name="light-save", daemon=True).start()
        return save

    def restore(self, target: str = "", timeout: float = 60.0) -> Staged | None:
        self._restores += 1
        if self.increments is not None:
            self.increments.forget()
        me = self.session.this_task
        read = partial(stage, task=me.task, world=me.tasks)
        return agree(self.session, self.store, self._restores, target, timeout, stage=read)

    def status(self) -> pb.StatusReply:
        """Return the coordinator's status of the run."""
        assert self.session._link is not None
        return self.session._link.status(pb.StatusRequest(run=self.store.url), 30.0)

    def die(self) -> None:
        """Die as if killed: connections are gone, and nobody is told anything."""
        self.session._closed.set()
        self.session._reading_back.end()
        assert self.session._link is not None
        self.session._link.close()

    def close(self, patience: float = 30.0) -> None:
        self.session.close(patience)


World = Callable[..., list[LightWorker]]
"""`world(size, coordinator, **options of LightWorker)`: the fixture that makes workers."""


def together(calls: Sequence[Callable[[], T]], timeout: float = 90.0) -> list[T | Exception]:
    """Call all at the same time, each on a thread; their results, or what they raised."""

    def guarded(call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls), "together") as pool:
        return [future.result(timeout) for future in [pool.submit(guarded, call) for call in calls]]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads bring about."""
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, "it never came about"
        threading.Event().wait(0.005)


def all_join(workers: Sequence[LightWorker]) -> None:
    for result in together([worker.join for worker in workers]):
        if isinstance(result, Exception):
            raise result


def outcomes(saves: Sequence[Save], timeout: float = 90.0) -> list[Exception | None]:
    """The errors of saves, None for those that were committed."""
    for save in saves:
        assert save.wait(timeout), "the save has no outcome"
    return [save.error for save in saves]


def committed(store: Store) -> list[CheckpointRecord]:
    """The live checkpoints of a run, each verified."""
    run = read_run(store)
    assert run is not None
    for record in run.checkpoints:
        verify_checkpoint(store, record).raise_if_bad()
    return list(run.checkpoints)


def log_kinds(store: Store) -> list[str]:
    """The kinds of all entries of a run's log, in order."""
    names = sorted(store.list("_holdfast/log"))
    return [json.loads(store.read(f"_holdfast/log/{name}"))["entry"]["kind"] for name in names]
