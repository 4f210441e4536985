"""Agrees with all workers on a checkpoint, and reads and verifies it before anybody applies it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from holdfast.restoring.staging import Staged, stage
from holdfast.session.session import Session
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import lag
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, HoldfastError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import index_object
from holdfast_storage.log.log import Log
from holdfast_storage.logger import logger
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store

if TYPE_CHECKING:
    from holdfast.restoring.large_tensors import Values

log = logger("holdfast")

_SHARE = 0.8
"""The share of a restore's time for waiting for absent objects. The coordinator needs the rest to look, too."""


def agree(
    session: Session,
    store: Store,
    ordinal: int,
    target: str,
    timeout: float,
    *,
    values: type[Values] | None = None,
) -> Staged | None:
    """Stage the checkpoint that all workers agree on. Return None if there is nothing to restore.

    Args:
        target: a step, a prefix below the run directory, or a path elsewhere. Empty: the newest checkpoint.
        timeout: the seconds for which the workers wait for each other.
        values: as in `stage`.

    Raises CheckpointDamaged if checkpoints exist and none is good, StorageError if some worker cannot read,
    InvalidRequest if there is no such checkpoint, CoordinatorUnavailable if not all workers take part.
    """
    request = pb.RestoreRequest(ordinal=ordinal, target=target, timeout_s=timeout, entries=_entries(session, store))
    me, staged = session.this_task, None
    wait: Wait | None = None
    session.progress("restore", 0)
    try:
        while True:
            reply = session.restore(request, timeout + 30.0)
            if reply.action == pb.RestoreReply.NONE:
                return None
            if reply.action == pb.RestoreReply.APPLY:
                for sentence in reply.passed_over:
                    log.warning("passed over a damaged checkpoint: %s", sentence)
                result, staged = staged, None
                return result
            if staged is not None:
                staged.close()
                staged = None
            request.prefix = reply.prefix
            record = CheckpointRecord(
                reply.prefix, reply.step, 0.0, stock=reply.stock, manifest_crc32c=reply.manifest_crc32c
            )
            # Everything that is proposed was committed before the first proposal, so the wait counts from there. The
            # others are told in time if the time is too short to tell late from deleted.
            wait = wait or Wait(min(lag.LAG, _SHARE * timeout))
            read = partial(stage, task=me.task, world=me.tasks, progress=_Progress(session), values=values, wait=wait)
            staged, request.verdict, reason = _read(store, record, read)
            if request.verdict == "absent" and _SHARE * timeout < lag.LAG:
                request.verdict = "unreadable"
                reason += (
                    f". It may be deleted, or this host's mount may show it late; to tell that takes {lag.LAG:.0f} s: "
                    f"give the manager a join_timeout of at least {lag.LAG / _SHARE:.0f} s"
                )
            request.reason = reason and f"on {socket.gethostname()}: {reason}"
    finally:
        session.progress("train", 0)
        if staged is not None:
            staged.close()


def _entries(session: Session, store: Store) -> int:
    """Return the number of log entries that this worker sees. The coordinator's mount may be behind."""
    known = session.entries
    with suppress(HoldfastError):  # a worker that cannot read knows no better
        if Log(store).read(known) is not None:
            last = Log(store).tail()
            return max(known, last.number) + 1 if last else known
    return known


class _Missing(Exception):
    """There is no such checkpoint."""


class _Progress:
    """Counts what several threads read, for the heartbeats."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
        self._session.progress("restore", 0, self._done)


def _read(
    store: Store, record: CheckpointRecord, read: Callable[[Store, CheckpointRecord], Staged]
) -> tuple[Staged | None, str, str]:
    """Read a candidate. Return it with this worker's verdict and the reason."""
    try:
        if os.path.isabs(record.prefix) or "://" in record.prefix:
            store, record = _elsewhere(record.prefix)
        elif record.step < 0 and store.size(index_object(record.prefix)) is None:
            raise _Missing(f"{store.url}/{index_object(record.prefix)} does not exist")
        return read(store, record), "good", ""
    except CheckpointAbsent as error:
        return None, "absent", str(error)
    except CheckpointDamaged as error:
        return None, "damaged", str(error)
    except _Missing as error:
        return None, "missing", str(error)
    except Exception as error:  # whatever it is, the others are told and need not wait for this worker
        return None, "unreadable", str(error) or repr(error)


def _elsewhere(path: str) -> tuple[Store, CheckpointRecord]:
    """Find a checkpoint by its full path: of another run, or one that TensorFlow wrote. Raises _Missing."""
    folder, _, name = path.rpartition("/")
    run, _, attempt = folder.rpartition("/")
    if run:
        store = open_store(run)
        state = read_run(store)
        found = state.find(f"{attempt}/{name}") if state else None
        if found:
            return store, found
    store = open_store(folder or "/")
    if store.size(index_object(name)) is None:
        raise _Missing(f"{index_object(path)} does not exist")
    return store, CheckpointRecord(name, -1, 0.0, stock=True)
