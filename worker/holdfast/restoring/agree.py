"""Agrees with all workers on a checkpoint, and reads and verifies it before anybody applies it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from holdfast.restoring.own_view import OwnView, may_be_of_run
from holdfast.session.answers import Disbelieved
from holdfast.session.session import Session
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import lag
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, CoordinatorUnavailable
from holdfast_storage.lag import Wait
from holdfast_storage.layout import index_object, tag_of
from holdfast_storage.logger import logger
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.run_directory import read_run
from holdfast_storage.scrub import scrubbed
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store

log = logger("holdfast")

_SHARE = 0.8
"""The share of a restore's time for waiting for absent objects. The coordinator needs the rest to look, too."""

SLACK = 30.0
"""Seconds for which a worker waits for the coordinator's answer after a restore's time."""

_ENOUGH = 3
"""The number of times that a restore may begin anew, with restarted coordinators, before a worker gives it up."""


class Closable(Protocol):
    """A checkpoint that was read and verified, until it is closed."""

    def close(self) -> None: ...


S = TypeVar("S", bound=Closable)
S_co = TypeVar("S_co", bound=Closable, covariant=True)


class Stage(Protocol[S_co]):
    """Reads and verifies what a worker needs of a checkpoint. Raises what `staging.stage` raises."""

    def __call__(
        self, store: Store, record: CheckpointRecord, *, progress: Callable[[int], None], wait: Wait
    ) -> S_co: ...


def agree(session: Session, store: Store, ordinal: int, target: str, timeout: float, *, stage: Stage[S]) -> S | None:
    """Stage the checkpoint that all workers agree on. Return None if there is nothing to restore.

    Args:
        target: a step, a prefix below the run directory, `@` and a tag, or a path elsewhere. Empty: the newest.
        timeout: the seconds for which the workers wait for each other.
        stage: reads what is proposed. What it returns is closed here unless all apply it.

    Raises CheckpointDamaged if checkpoints exist and none is good, StorageError if some worker cannot read,
    InvalidRequest if there is no such checkpoint or the coordinator says what cannot be believed,
    CoordinatorUnavailable if not all workers take part.
    """
    view = OwnView(store, session.entries)
    request = pb.RestoreRequest(ordinal=ordinal, target=target, timeout_s=timeout, entries=view.entries)
    staged: S | None = None
    proposed = pb.RestoreReply()
    wait: Wait | None = None
    end = time.monotonic() + _ENOUGH * (timeout + SLACK)
    session.progress("restore", 0)
    try:
        while True:
            reply = session.restore(request, timeout + SLACK)
            if reply.action == pb.RestoreReply.NONE:
                if target or view.has_checkpoints():
                    what = f"that there is nothing to restore, and {store.url} has checkpoints, as seen here"
                    raise Disbelieved(session.address, what)
                session.restored(ordinal, reply)
                return None
            if reply.action == pb.RestoreReply.APPLY:
                if staged is None or not _is_same(reply, proposed):
                    raise Disbelieved(
                        session.address, f"that all apply {reply.prefix!r:.200}, which was not verified here"
                    )
                session.restored(ordinal, reply)
                for sentence in reply.passed_over:
                    log.warning("passed over a damaged checkpoint: %s", sentence)
                result, staged = staged, None
                return result
            if time.monotonic() >= end:
                raise CoordinatorUnavailable(f"the coordinator at {session.address} goes on proposing checkpoints")
            if staged is not None:
                staged.close()
                staged = None
            if not _may_be_meant(reply, target):
                what = f"that {reply.prefix!r:.200} should be read, which is neither of {store.url} nor was asked for"
                raise Disbelieved(session.address, what)
            proposed, request.prefix = reply, reply.prefix
            # Everything that is proposed was committed before the first proposal, so the wait counts from there. The
            # others are told in time if the time is too short to tell late from deleted.
            wait = wait or Wait(min(lag.LAG, _SHARE * timeout))
            find = partial(_find, session.address, view, reply, target, wait)
            read = partial(stage, progress=_Progress(session), wait=wait)
            staged, request.verdict, reason = _read(find, read)
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


def _is_same(reply: pb.RestoreReply, proposed: pb.RestoreReply) -> bool:
    """Return whether a decision is about what was proposed last, bytes included."""
    return reply.prefix == proposed.prefix and (reply.stock or reply.manifest_crc32c == proposed.manifest_crc32c)


def _may_be_meant(reply: pb.RestoreReply, target: str) -> bool:
    """Return whether to look for a proposal at all. Only the program names what is not the run's own."""
    if target and reply.prefix == target:
        return True
    if target and not (target.isdigit() or tag_of(target)):
        return False
    return may_be_of_run(reply.prefix, stock=reply.stock)


def _find(
    address: str, view: OwnView, reply: pb.RestoreReply, target: str, wait: Wait
) -> tuple[Store, CheckpointRecord]:
    """Find what is proposed: in the log, as this worker sees it, or where the program has asked for it.

    Raises _Missing, CheckpointAbsent, StorageError and Disbelieved.
    """
    store, prefix = view.store, reply.prefix
    if prefix == target and (os.path.isabs(prefix) or "://" in prefix):
        return _elsewhere(prefix)
    if prefix == target and reply.step < 0 and not view.holds(prefix):
        if store.size(index_object(prefix)) is None:
            raise _Missing(f"{store.url}/{index_object(prefix)} does not exist")
        return store, CheckpointRecord(prefix, -1, 0.0, stock=True)
    found = view.find(prefix, wait)
    # Which one a tag names, the coordinator says, as for the newest: this worker's view is of another moment.
    if target not in ("", prefix, str(found.step)) and not tag_of(target):
        raise Disbelieved(address, f"that step {target} is {prefix}")
    if found.stock != reply.stock or (view.has_log and found.manifest_crc32c != reply.manifest_crc32c):
        raise Disbelieved(address, f"another {prefix} than the log of {store.url} holds")
    return store, replace(found, manifest_crc32c=reply.manifest_crc32c)


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
    find: Callable[[], tuple[Store, CheckpointRecord]], read: Callable[[Store, CheckpointRecord], S]
) -> tuple[S | None, str, str]:
    """Read a candidate. Return it with this worker's verdict and the reason. Raises Disbelieved."""
    try:
        return read(*find()), "good", ""
    except Disbelieved:
        raise
    except CheckpointAbsent as error:
        return None, "absent", str(error)
    except CheckpointDamaged as error:
        return None, "damaged", str(error)
    except _Missing as error:
        return None, "missing", str(error)
    except Exception as error:  # whatever it is, the others are told and need not wait for this worker
        return None, "unreadable", scrubbed(str(error) or repr(error))


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
