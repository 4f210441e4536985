"""One save on this worker: vote, plan, write, report, outcome.

Its own thread does the work; a storage that never answers may keep that thread for ever. The caller watches the thread,
and goes on without it once all other workers have.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.keep import Policy
from holdfast.saving.digest import pack, spec_digest, tensor_crcs
from holdfast.saving.outcome import Claim, failed, in_doubt
from holdfast.saving.plan import Plan, plan
from holdfast.saving.provenance import git_commit, versions
from holdfast.saving.report import check_votable, first_specs, report_chunks
from holdfast.saving.shares import Assigned
from holdfast.saving.snapshot import Snapshot
from holdfast.saving.tables import tables
from holdfast.saving.write import (
    Written,
    size_of,
    worker_local_tensors,
    write_assets,
    write_objects,
    write_worker_local,
)
from holdfast.session.answers import Disbelieved
from holdfast.session.lane import Pending
from holdfast.session.session import Session
from holdfast_protos.conventions import LONGEST_WAIT
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import layout
from holdfast_storage.errors import (
    CoordinatorUnavailable,
    HoldfastError,
    SaveFailed,
    StorageError,
    Superseded,
)
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import decode, encode
from holdfast_storage.lag import Wait
from holdfast_storage.logger import logger
from holdfast_storage.store.base import Store

if TYPE_CHECKING:
    from holdfast.saving.increments import Changes, Increments

log = logger("holdfast")

SLACK = 30.0
"""Seconds for which a worker waits for the coordinator's answer after a save's deadline."""

LETS_GO_WITHIN = 5.0
"""Seconds for which a save that is over may still wait for its storage before its thread is left behind."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The arguments of a manager that its saves work with."""

    checkpoint_name: str
    save_timeout: float
    keep: Policy
    on_divergence: str
    require_finite: bool
    takeover: bool


@dataclass(slots=True, eq=False)
class Save:
    """One save call. `run()` it once. `outcome` is known when it is over; `error` is None if it was committed."""

    session: Session
    store: Store
    terms: Terms
    step: int
    snapshot: Snapshot | None
    ordinal: int = 0  # the number of the save call in its world, given when its turn comes
    per_worker: Snapshot | None = None
    assigned: Assigned | None = None  # in a world whose tasks hold values of their own
    strategy: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    local_error: Exception | None = None  # this worker could not take its snapshot
    error: HoldfastError | None = None
    increments: Increments | None = None  # of a manager whose saves are incremental
    cost_before: float | None = None  # seconds for which the save call before this one has kept the program
    taken: float = field(default_factory=time.time)
    outcome: Pending[None] = field(default_factory=Pending)
    _ended: Pending[None] = field(default_factory=Pending)  # when its thread has ended
    _entry: int = -1  # the last log entry when this worker began to write, so one from before the commit
    missed: bool = False  # the others have made a save call before this one that this worker has missed
    abandoned: bool = False  # its outcome is known, but its thread does not return from a call to the storage
    _changes: Changes | None = None  # what of this worker's part is written, if saves are incremental
    _begun: float = 0.0  # monotonic
    _aborted: float | None = None  # monotonic: since when this worker knows that the others have given it up
    _reported: bool = False  # perhaps it was: it was sent
    _decided: bool = False
    _done_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prefix(self) -> str:
        """The checkpoint's prefix, relative to the run directory."""
        return layout.prefix(self.terms.checkpoint_name, self.step, self.session.generation, self.ordinal)

    def run(self) -> None:
        """Carry out the save until its outcome is known. Not for a thread that signals interrupt."""
        self._begun = time.monotonic()
        try:
            threading.Thread(target=self._work, name="holdfast-save", daemon=True).start()
        except RuntimeError as error:
            # The others are told; that takes no other thread.
            self.local_error = self.local_error or StorageError(f"no thread can be started: {error}", phase="write")
            self._work()
        while not self._ended.wait(0.2) and not self._leaves():
            pass
        self.session.forget(self.ordinal)
        self._hand_on()
        self.outcome.set(None)

    def _hand_on(self) -> None:
        """Say what the next save may be a delta on: this one, if it is known to be committed."""
        if self.increments is not None and self.error is None and self._changes is not None:
            self.increments.committed(self.prefix, self._changes)
        elif self.increments is not None:
            self.increments.forget()
        self._changes = None

    @property
    def is_busy(self) -> bool:
        """Whether the thread is still at work, perhaps for a save that is over."""
        return not self._ended.is_known

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for up to `timeout` seconds, and return whether the outcome is known."""
        return self.outcome.wait(timeout)

    def _leaves(self) -> bool:
        """Return whether the save is over for the training program although its thread is still at work.

        A storage may never answer a call. Then the others have given up the save, and this worker goes on with them.
        But not once it has reported: a successor of the coordinator that gave up the save may have all reports, and
        commit.
        """
        now = time.monotonic()
        failure = self.session.aborted.get(self.ordinal)
        if failure and self._aborted is None:
            self._aborted = now
        with self._lock:
            if self.abandoned or self._decided:
                return self.abandoned
            waited = 0.0 if self._aborted is None or self._reported else now - self._aborted
            if failure and waited >= LETS_GO_WITHIN:
                error = failure.to_error(self._keys())
                # The log is on that storage, so it is not asked.
                self.error = error if isinstance(error, Superseded) else failed(self.step, error)
            elif now - self._begun >= 2 * (self.terms.save_timeout + SLACK):
                error = StorageError(f"the storage of {self.session.this_task.task} does not answer", phase="write")
                self.error = in_doubt(self.step, error) if self._reported else failed(self.step, error)
            else:
                return False
            self.abandoned = True
        return True

    def _work(self) -> None:
        error: HoldfastError | None = None
        try:
            outcome = self._attempt()
            if outcome.committed:
                error = self._claim.confirm()
            else:
                error = self._claim.refuse(decode(outcome.failure).to_error(self._keys()))
            self.missed = str(self.session.this_task.task) in outcome.failure.ahead
        except Superseded as superseded:
            error = self._claim.refuse(superseded)
        except CoordinatorUnavailable as unavailable:
            error = self._claim.settle(unavailable)
        except HoldfastError as refused:
            # Without this worker's report nothing is committed. Once it was sent, a refusal is no outcome: whoever had
            # it may have gone on to the commit, and a successor that cannot read the log does not know.
            error = self._claim.settle(refused) if self._reported else self._claim.refuse(refused)
        except Exception as broken:
            log.exception("%s: the save of step %d broke", self.session.this_task.task, self.step)
            error = self._claim.settle(broken)
        finally:
            self.snapshot = self.per_worker = self.local_error = None
            _let_go(error)
            self.session.progress("train", self.step)
            with self._lock:
                self._decided = True
                if not self.abandoned:
                    self.error = error
            self._ended.set(None)
        if error:
            log.warning("%s", str(error))  # a handler that keeps records would keep everything that the error refers to

    def _attempt(self) -> pb.SaveOutcome:
        """Do this worker's part. A local error is reported to the coordinator, so that all workers fail alike."""
        try:
            if self.local_error is not None:
                raise self.local_error
            return self._vote_and_write()
        except (CoordinatorUnavailable, Superseded):
            raise
        except Exception as error:
            if not isinstance(error, HoldfastError):
                log.exception("%s: the save of step %d failed", self.session.this_task.task, self.step)
            me = self.session.this_task.task
            failure = replace(Failure.of(error, f"{me}: {error}", phase="write"), tasks=(me,))
            request = pb.FailRequest(ordinal=self.ordinal, failure=encode(failure))
            outcome = self.session.fail(request, self.terms.save_timeout + SLACK)
            if isinstance(error, Disbelieved):
                raise  # the others are told, and no answer is worth more than this error
            return outcome

    def _vote_and_write(self) -> pb.SaveOutcome:
        assert self.snapshot is not None
        done = self._voted_and_written(self.snapshot)
        if isinstance(done, pb.SaveOutcome):
            return done
        # What was written is durable, so training may have the memory back.
        self.snapshot = self.per_worker = None
        self.session.progress("commit", self.step)
        with self._lock:
            if self.abandoned:
                raise SaveFailed("the others have gone on without this worker's part", phase="write")
            self._reported = True
        return self.session.report(done, self.terms.save_timeout + SLACK)

    def _voted_and_written(self, snapshot: Snapshot) -> pb.SaveOutcome | list[pb.ReportChunk]:
        """Return the report, or the outcome if the vote has decided it."""
        check_votable(len(snapshot.tensors))
        self.session.progress("digest", self.step)
        if self.terms.require_finite:
            _check_finite(snapshot)
        # Where each task has values of its own, there is nothing to compare.
        crcs = tensor_crcs(snapshot.tensors) if self.assigned is None else None
        self.session.progress("vote", self.step)
        digest = self._digest(snapshot)
        base = self.increments.base(digest) if self.increments is not None else ""
        reply = self._vote(snapshot, crcs, digest, base)
        if reply.HasField("decided"):
            return reply.decided
        go = reply.go
        for divergence in (each for each in go.warned if each.tasks):
            key, workers = snapshot.tensors[divergence.position].key, ", ".join(divergence.tasks)
            log.warning("%s differs on %s; the chief's value is saved", key, workers)
        self._see_log_entry(go.log_entry)
        self._entry = go.log_entry
        # Parts of one tensor from several workers would make a value that none of them had.
        by_chief = [*go.worker_local, *(divergence.position for divergence in go.warned)]
        if self.assigned is None:
            whole = plan(snapshot.specs, len(self.session.this_task.tasks), by_chief)
        else:
            whole = self.assigned.plan
        if self.increments is not None:
            self.session.progress("digest", self.step)
            base = "" if go.full else base
            me = self.session.this_task
            found = tables(snapshot.specs, whole) if self.assigned is None else self.assigned.tables
            self._changes = self.increments.changes(
                base, digest, snapshot, plan=whole, worker=me.tasks.index(me.task), tables=found
            )
        written = self._write(snapshot, crcs, whole, go.worker_local)
        return self._report(written, whole, [snapshot.tensors[p].key for p in go.worker_local], go.worker_local)

    def _digest(self, snapshot: Snapshot) -> bytes:
        """Return the digest of what all workers must have alike, whatever their values are."""
        if self.assigned is not None:
            return self.assigned.digest
        return spec_digest(snapshot.specs, bytes(t.guarded for t in snapshot.tensors).hex(), self.terms.on_divergence)

    def _vote(self, snapshot: Snapshot, crcs: tuple[int, ...] | None, digest: bytes, base: str) -> pb.VoteReply:
        request = pb.VoteRequest(
            ordinal=self.ordinal,
            step=self.step,
            checkpoint_name=self.terms.checkpoint_name,
            spec_digest=digest if self.assigned is None else digest + self.assigned.snapshot,
            crcs=pack(crcs or ()),
            guarded=b"" if crcs is None else bytes(t.guarded for t in snapshot.tensors),
            on_divergence=self.terms.on_divergence,
            takeover=self.terms.takeover,
            timeout_s=self.terms.save_timeout,
            base=base,
        )
        reply = self.session.vote(request, self.terms.save_timeout + SLACK)
        if reply.HasField("specs_wanted") and self.assigned is not None:
            raise SaveFailed("not all tasks have the same snapshot: another call of save came in between", phase="vote")
        if reply.HasField("specs_wanted"):
            request.specs = first_specs(snapshot.specs)
            reply = self.session.vote(request, self.terms.save_timeout + SLACK)
        return reply

    def _see_log_entry(self, number: int) -> None:
        """Check that this worker's directory is the coordinator's, before anything is written to it."""
        name, wait = layout.log_entry(number), Wait()
        missing = f"{self.store.url}/{name}, which the coordinator has written, is not there"
        while self.store.size(name) is None:
            if not wait.again(missing):
                raise StorageError(
                    f"{missing}: this worker does not see the coordinator's directory. Check that all workers and the "
                    "coordinator have the same storage mounted at this path",
                    phase="write",
                    object=name,
                )

    def _write(
        self, snapshot: Snapshot, crcs: Sequence[int] | None, whole: Plan, worker_local: Sequence[int]
    ) -> Written:
        """Write this worker's part of the plan, and its own bundle."""
        me = self.session.this_task
        worker = me.tasks.index(me.task)
        local = worker_local_tensors(snapshot, worker_local, self.per_worker)
        changes = self._changes
        total = size_of(whole.parts[worker], snapshot, changes) + sum(len(t.data) for t in local)
        self.session.progress("write", self.step, 0, total)

        def progress(count: int) -> None:
            if self.ordinal in self.session.aborted:
                raise SaveFailed(self.session.aborted[self.ordinal].message, phase="write")
            with self._lock:
                self._done_bytes += count
            self.session.progress("write", self.step, self._done_bytes, total)

        is_delta = changes is not None and bool(changes.base)
        prefix = layout.delta_prefix(self.prefix) if is_delta else self.prefix
        written = write_objects(
            self.store, prefix, whole, worker, snapshot, crcs=crcs, changes=changes, progress=progress
        )
        folder = self.prefix.rpartition("/")[0]
        beside = write_worker_local(self.store, folder, me.task, local, progress=progress)
        headers = self.assigned.headers_of(is_delta) if self.assigned is not None else ()
        assets = write_assets(self.store, folder, snapshot.assets) if me.is_chief else ()
        return Written((*written.objects, *beside, *assets), (*written.entries, *headers))

    def _report(
        self, written: Written, whole: Plan, local_keys: list[str], worker_local: Sequence[int]
    ) -> list[pb.ReportChunk]:
        head = pb.ReportHead(
            ordinal=self.ordinal,
            step=self.step,
            checkpoint_name=self.terms.checkpoint_name,
            num_shards=whole.num_shards,
            retention=self.terms.keep.message(),
            timeout_s=self.terms.save_timeout,
            worker_local=worker_local,
            base=self._changes.base if self._changes is not None else "",
        )
        if self.session.this_task.is_chief:
            head.description_json = self._description(local_keys)
            if self.cost_before is not None:
                head.cost_before_s = min(self.cost_before, LONGEST_WAIT)
        entries = (pb.IndexEntry(key=key, record=entry.SerializeToString()) for key, entry in written.entries)
        return report_chunks(head, written.objects, entries)

    def _description(self, local_keys: list[str]) -> str:
        return json.dumps(
            {
                "time": self.taken,
                "strategy": self.strategy,
                "versions": versions(),
                "git_commit": git_commit(),
                "metadata": self.metadata,
                "metrics": self.metrics,
                "local_keys": local_keys,
            }
        )

    @property
    def _claim(self) -> Claim:
        entry = self._entry if self._reported else -1
        return Claim(self.store, self.session.generation, self.session.member, self.prefix, self.step, entry)

    def _keys(self) -> list[str]:
        return [t.key for t in self.snapshot.tensors] if self.snapshot else []


def _let_go(error: BaseException | None) -> None:
    """Drop an error's traceback: it keeps the local variables of its functions alive, and so the snapshot.

    The error gets another one when the training program receives it.
    """
    if error is not None:
        error.__traceback__ = None
    while (error := error and (error.__cause__ or error.__context__)) is not None:
        traceback.clear_frames(error.__traceback__)


def _check_finite(snapshot: Snapshot) -> None:
    import numpy as np
    import tensorflow as tf

    for tensor in snapshot.tensors:
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        if tensor.encoded or not (dtype.is_floating or dtype.is_complex):
            continue
        if not np.isfinite(np.frombuffer(tensor.data, dtype.as_numpy_dtype)).all():
            raise SaveFailed(f"{tensor.key} holds NaN or infinity (require_finite)", phase="digest", object=tensor.key)
