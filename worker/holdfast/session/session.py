"""A manager's membership in its world: it joins, stays present, and finds the coordinator again after a restart."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from holdfast.session.answers import check_joined, check_outcome, check_restore, check_vote
from holdfast.session.hint import Hint, read_hint
from holdfast.session.identity import process_id, process_secret
from holdfast.session.lane import Pending, closed
from holdfast.session.reading_back import ReadingBack
from holdfast.session.requests import Requests, Wish
from holdfast.session.this_task import ThisTask
from holdfast_protos.client import Access, Distrusted, Link, Refusal, Unreachable
from holdfast_protos.settings import Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, describe, digest
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, InvalidRequest, Kind, StorageError
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import decode
from holdfast_storage.layout import HINT
from holdfast_storage.logger import logger
from holdfast_storage.run_key import KeyLate, ensure_key
from holdfast_storage.store.base import Store

if TYPE_CHECKING:
    from holdfast_coordinator.embedded import Embedded

log = logger("holdfast")

T = TypeVar("T")

BEAT = 3.0
"""Seconds between heartbeats, in a world of up to 2,000 workers."""

JOIN_CALL = 20.0
"""Seconds for which one join call waits. The coordinator answers earlier, with whom it waits for."""

ASK_WITHIN = 3.0
"""Seconds for the coordinator's answer to the question for whom this worker waits."""

TELL_WITHIN = 30.0
"""Seconds for telling the coordinator what was read back."""

AWAIT_UPKEEP = 40.0
"""Seconds for which one call waits for the coordinator's upkeep. The coordinator answers after at most 30."""

NOTICED = 1_000
"""The number of saves whose failure a worker is told of before it asks: far more than the others can be ahead."""

_incarnations = itertools.count(1)


ONE_DIRECTORY = (
    "Check that all workers have the same directory: each writes its part there, and nothing twice. TensorFlow's "
    "tutorials give all but the chief another one, which is to be left out here"
)


class Session:
    """A manager's calls to its coordinator.

    Args:
        this_task: the task of this process, and its cluster.
        store: the run directory.
        coordinator: "host:port" of a coordinator that runs on its own. Empty: it is embedded in the chief.
        join_timeout: seconds to wait for the coordinator and for the other workers.
        embedded_at: where the coordinator in the chief listens, if the chief itself has said so.
    """

    def __init__(
        self, this_task: ThisTask, store: Store, coordinator: str, join_timeout: float, embedded_at: str = ""
    ) -> None:
        self.this_task = this_task
        self._store = store
        self._coordinator = coordinator
        self._embedded_at = embedded_at
        self._join_timeout = join_timeout
        self.process = process_id()
        self._incarnation = f"{self.process}.{next(_incarnations)}"
        self._access = Access(store.url, self._key, process_secret(), _settings(coordinator))
        self._link: Link | None = None
        self._embedded: Embedded | None = None
        self._membership: pb.JoinReply | None = None
        self._restored = ""  # the checkpoint that was applied last
        self._restores = 0  # ordinal of the restore call that this was
        self._joining = threading.RLock()
        self._connecting = threading.Lock()
        self._joining_waits_for = "its coordinator's answer"
        self._distrust = ""  # that was logged last
        self._beat = pb.Heartbeat()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._attendance: threading.Thread | None = None
        self.unreachable_since: float | None = None
        self.away_since: float | None = None  # monotonic: since when the coordinator keeps no connection for heartbeats
        self.farewell: Callable[[], None] = lambda: None  # called before this session ends
        self.superseded: HoldfastError | None = None
        self.aborted: dict[int, Failure] = {}
        self.requests = Requests()
        self._reading_back = ReadingBack(store, self._examined, self._closed.is_set)
        self.made: Pending[None] | None = None  # known when the last save that was begun is over

    # -- membership --

    @property
    def generation(self) -> str:
        """The generation of the world that this worker has joined."""
        assert self._membership is not None
        return self._membership.generation

    @property
    def url(self) -> str:
        """The run directory."""
        return self._store.url

    @property
    def has_joined(self) -> bool:
        return self._membership is not None

    @property
    def member(self) -> tuple[Task, str]:
        """This worker as a member of its generation."""
        return self.this_task.task, self._incarnation

    @property
    def entries(self) -> int:
        """The number of log entries that the coordinator knew when this world was joined."""
        return self._membership.entries if self._membership else 0

    def caller(self) -> pb.Caller:
        return pb.Caller(
            run=self._store.url,
            generation=self._membership.generation if self._membership else "",
            task=str(self.this_task.task),
            incarnation=self._incarnation,
        )

    def join(self) -> None:
        """Wait until all workers have joined. Does nothing if they have.

        Raises CoordinatorUnavailable after `join_timeout`, naming the address or the missing workers, and
        InvalidRequest if the workers do not agree on the cluster, or the coordinator does not accept the token.
        """
        if self._membership is not None:
            return  # no wait for the lock: the coordinator may be away, and training goes on
        with self._joining:
            if self._membership is None:
                self._membership = self._join(self._join_timeout, rejoin=None)
                self._attendance = threading.Thread(target=self._attend, name="holdfast-attend", daemon=True)
                try:
                    self._attendance.start()
                except RuntimeError as error:
                    self._membership = self._attendance = None
                    raise StorageError(f"no thread can be started to attend {self._store.url}: {error}") from error

    def _join(self, timeout: float, rejoin: pb.JoinReply | None) -> pb.JoinReply:
        end = time.monotonic() + timeout
        reason, told, described, denied = "", False, False, False
        for pause in _pauses():
            remaining = end - time.monotonic()
            if self._closed.is_set():
                raise closed()
            if remaining <= 0:
                raise CoordinatorUnavailable(f"{self.this_task.task} could not join within {timeout:.0f} s: {reason}")
            request = pb.JoinRequest(
                caller=self.caller(),
                cluster_digest=digest(self.this_task.cluster),
                timeout_s=remaining,
            )
            if described:
                request.cluster.extend(pb.ClusterJob(type=job, addresses=a) for job, a in self.this_task.cluster)
            if rejoin:
                request.members.extend(rejoin.members)
                request.fork_point = rejoin.fork_point
                request.restored, request.restores = self._restored, self._restores
            try:
                link = self._connect()
                reply = link.join(request, min(remaining, JOIN_CALL))
            except Unreachable as error:
                self._lament(error)
                final = isinstance(error, Distrusted) and error.final
                if final and denied and rejoin is None:  # not the first time: the files were read anew
                    raise InvalidRequest(str(error)) from None
                denied = final
                if remaining >= JOIN_CALL or not told:  # otherwise it says less than the answer before
                    reason = str(error)
            except Refusal as refusal:
                raise decode(refusal.failure).to_error() from None
            else:
                if reply.cluster_wanted:
                    described = True
                    continue
                if not reply.waiting_for:
                    check_joined(link.address, request, reply, self.this_task)
                    return reply
                told = True
                more = f" and {reply.waiting_for_more:,} more" if reply.waiting_for_more else ""
                reason = (
                    f"waiting for {', '.join(reply.waiting_for)}{more} to join {self._store.url} (coordinator at "
                    f"{link.address}). Check that they run. {ONE_DIRECTORY}"
                )
            self._joining_waits_for = reason
            self._closed.wait(min(pause, max(0.0, end - time.monotonic())))
        raise AssertionError("pauses never end")

    def _connect(self) -> Link:
        """Return a link to the coordinator's current address. Raises Unreachable if it is not known."""
        with self._connecting:
            if self._closed.is_set():
                raise Unreachable("the manager is closed")
            address = self._coordinator or (self._embed() if self.this_task.is_chief else self._hinted())
            before = self._link
            if before is None or before.address != address or before.broken:
                self._link = self._introduced(address)
                if before is not None:
                    before.close()
            assert self._link is not None
            return self._link

    def _introduced(self, address: str) -> Link:
        """Return a link to the coordinator at an address.

        Who refuses it has not proven anything: where a hint leads, another job's coordinator may have the port by now.
        So that ends no job, unless the program has named the address, and not after the job has begun.
        """
        own_key = self._embedded.server.own_key if self._embedded is not None else b""
        try:
            if own_key:
                return Link(address, replace(self._access, key=lambda: own_key))
            return Link(address, self._access)
        except Refusal as refusal:
            if self._embedded is not None:  # our own
                raise
            if refusal.failure.kind == Kind.STORAGE.value and self._coordinator and not self.has_joined:
                raise decode(refusal.failure).to_error() from None
            why = f"the coordinator at {address} refuses this worker: {refusal}"
            raise Distrusted(why, final=bool(self._coordinator or self._embedded_at)) from None

    def _lament(self, error: Unreachable | HoldfastError) -> None:
        """Log once what a person has to do: waiting alone does not help."""
        if isinstance(error, Distrusted | HoldfastError) and str(error) != self._distrust:
            self._distrust = str(error)
            log.warning("%s: %s", self.this_task.task, error)

    def _key(self) -> bytes:
        """Return the run's key. Raises StorageError and InvalidRequest, but Unreachable if it may be there soon, and
        after the join: a storage that fails for a while ends no job."""
        try:
            return ensure_key(self._store)
        except StorageError as error:
            if self.has_joined or isinstance(error, KeyLate):
                raise Unreachable(f"the run's key cannot be used: {error}") from None
            raise

    def serve(self) -> tuple[str, str]:
        """Return the coordinator that the program names, or else where the one in this process listens for others. It
        is started if need be. Only for the chief. Raises Unreachable."""
        if self._coordinator:
            self._key()  # others wait for it rather than make one
            return self._coordinator, ""
        self._connect()
        assert self._embedded is not None
        return "", self._embedded.server.address

    def _hinted(self) -> str:
        """Return the address that the chief has told, or left in the run directory."""
        if self._embedded_at:
            return self._embedded_at
        try:
            hint = read_hint(self._store)
        except HoldfastError as error:
            raise Unreachable(f"where the chief's coordinator listens cannot be read: {error}") from None
        if hint is not None and hint.cluster == self.this_task.cluster:
            return hint.address
        if hint is None:
            why = (
                f"is not there. Check that it runs, and that all workers have the same storage mounted. {ONE_DIRECTORY}"
            )
        else:
            why = (
                f"is of another cluster, {describe(hint.cluster)}, than this worker's, "
                f"{describe(self.this_task.cluster)}. "
                "Unless an earlier job left it, give all workers the same TF_CONFIG cluster"
            )
        chief, where = self.this_task.tasks[0], f"{self._store.url}/{HINT}"
        raise Unreachable(f"the chief ({chief}) has not said where its coordinator listens: {where} {why}")

    def _embed(self) -> str:
        """Return the address of the coordinator in this process for this process. It is started if need be, and the
        others are told of it."""
        from holdfast_coordinator.embedded import Embedded

        if self._embedded is None:
            self._embedded = Embedded.acquire("" if self.this_task.alone else self.this_task.chief_host)
            self._embedded.server.runs.adopt(self._store)
        server = self._embedded.server
        if self._link is None and not self.this_task.alone:
            self._key()
            Hint(server.address, self.this_task.cluster).write(self._store)
        return server.private_address

    def _rejoin(self, timeout: float) -> None:
        """Tell a restarted coordinator about this world."""
        with self._joining:
            log.info("%s: the coordinator was restarted, joining it again", self.this_task.task)
            self._join(timeout, rejoin=self._membership)

    def waits_for(self) -> str:
        """Ask the coordinator for whom this worker waits, and why. May take a few seconds."""
        link = self._link
        if self._membership is None or link is None:
            return self._joining_waits_for
        try:
            status = link.status(pb.StatusRequest(run=self._store.url, reason_only=True), ASK_WITHIN)
        except (Unreachable, Refusal) as error:
            return str(error)
        return status.reason

    # -- presence --

    def progress(self, phase: str, step: int, done: int = 0, total: int = 0) -> None:
        """Set what this worker is doing, for `status` and for errors that name it."""
        changed = phase != self._beat.phase
        self._beat = pb.Heartbeat(phase=phase, step=step, bytes_done=done, bytes_total=total)
        if changed:
            self._tell()

    def ask(self, wish: Wish) -> None:
        """Wish that all workers save."""
        self.requests.ask(wish)
        self._tell()

    def settle(self, timeout: float) -> None:
        """End the wait for a decision on a save that does not come, for up to `timeout` seconds."""
        self.requests.settle(self._store, self.generation, self.this_task.task, timeout)
        self._tell()

    def _tell(self) -> None:
        """Let the next heartbeat come at once."""
        with self._changed:
            self._changed.notify_all()

    def _beats(self) -> Iterator[pb.Heartbeat]:
        while not self._closed.is_set():
            beat = pb.Heartbeat()
            beat.CopyFrom(self._beat)
            beat.caller.CopyFrom(self.caller())
            told = self.requests.state()
            self.requests.describe(beat)
            yield beat
            self._await_change(beat.phase, told)
            self.away_since = None  # the connection has lasted for a while

    def _await_change(self, phase: str, told: tuple[object, ...]) -> None:
        """Wait until the next heartbeat is due: there is news, the session has ended, or it is time."""

        def has_news() -> bool:
            return self._closed.is_set() or self._beat.phase != phase or self.requests.state() != told

        with self._changed:
            self._changed.wait_for(has_news, beat_every(len(self.this_task.tasks)))

    def _attend(self) -> None:
        for pause in _pauses():
            if self._closed.is_set():
                return
            try:
                link = self._link
                if link is None or link.broken:
                    link = self._connect()
                for notice in link.attend(self._beats()):
                    self._hear(notice)
            except Unreachable as error:
                self.away_since = self.away_since or time.monotonic()
                self._lament(error)
            except Refusal as refusal:
                if not self._outlives(decode(refusal.failure)):
                    return
            except HoldfastError as error:  # such as a key that may not be read any more
                self._lament(error)
            except Exception:
                if not self._closed.is_set():
                    log.exception("%s: attendance broke", self.this_task.task)
            self._closed.wait(pause)

    def _outlives(self, failure: Failure) -> bool:
        """Return whether to go on attending after a refusal."""
        try:
            if failure.kind is not Kind.UNKNOWN_GENERATION:
                raise failure.to_error()
            self._rejoin(self._join_timeout)
        except CoordinatorUnavailable:
            return True
        except HoldfastError as error:
            self.superseded = error
            return False
        return True

    def _hear(self, notice: pb.Notice) -> None:
        if notice.HasField("superseded"):
            self.superseded = decode(notice.superseded).to_error()
        elif notice.HasField("prepare"):
            self.requests.prepare(notice.prepare)
            self._tell()
        elif notice.HasField("decision"):
            self.requests.hear(notice.decision)
            self._tell()
        elif notice.HasField("read_back"):
            self._reading_back.hear(notice.read_back)
        elif len(self.aborted) < NOTICED:
            self.aborted[notice.aborted.ordinal] = decode(notice.aborted.failure)

    def forget(self, ordinal: int) -> None:
        """Drop the notices about a save that is over, and about those before it."""
        for other in [other for other in list(self.aborted) if other <= ordinal]:
            self.aborted.pop(other, None)

    # -- calls. They raise InvalidRequest for an answer that cannot be right --

    @property
    def address(self) -> str:
        """The address of the coordinator that was called last."""
        return self._link.address if self._link is not None else ""

    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply:
        reply = self._call(lambda link, t: link.vote(request, t), timeout, request.caller)
        check_vote(self.address, request, reply, self.this_task)
        return reply

    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome:
        head = chunks[0].head
        outcome = self._call(lambda link, t: link.report(chunks, t), timeout, head.caller)
        check_outcome(self.address, head.ordinal, outcome)
        return outcome

    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        outcome = self._call(lambda link, t: link.fail(request, t), timeout, request.caller)
        check_outcome(self.address, request.ordinal, outcome)
        return outcome

    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply:
        reply = self._call(lambda link, t: link.restore(request, t), timeout, request.caller)
        check_restore(self.address, reply)
        return reply

    def _examined(self, request: pb.ExaminedRequest) -> None:
        """Tell the coordinator what was read back. If it cannot be told, it has others read that."""
        self._call(lambda link, t: link.examined(request, t), TELL_WITHIN, request.caller)

    def restored(self, ordinal: int, reply: pb.RestoreReply) -> None:
        """Keep what this world builds on, by a decision that this worker follows: a restarted coordinator must hear
        it."""
        assert self._membership is not None
        self._restored, self._restores, self._membership.fork_point = reply.prefix, ordinal, reply.fork_point

    def _call(self, call: Callable[[Link, float], T], timeout: float, caller: pb.Caller) -> T:
        """Repeat a call until it is answered. Raises CoordinatorUnavailable after `timeout` seconds."""
        caller.CopyFrom(self.caller())
        end = time.monotonic() + timeout
        reason, lost = "it was not tried", False
        for pause in _pauses():
            remaining = end - time.monotonic()
            if remaining <= 0:
                break
            try:
                link = self._link if self._link is not None and not lost else self._connect()
                answer = call(link, remaining)
                self.unreachable_since = None
                return answer
            except Unreachable as error:
                self._lament(error)
                reason, lost = str(error), True
                self.unreachable_since = self.unreachable_since or time.monotonic()
            except Refusal as refusal:
                self.unreachable_since = None
                failure = decode(refusal.failure)
                if failure.kind is not Kind.UNKNOWN_GENERATION:
                    raise failure.to_error() from None
                self._rejoin(max(1.0, end - time.monotonic()))
            if self._closed.wait(min(pause, max(0.0, end - time.monotonic()))):
                break
        raise CoordinatorUnavailable(f"the coordinator did not answer within {timeout:.0f} s ({reason})")

    def await_upkeep(self, patience: float = AWAIT_UPKEEP) -> None:
        """Wait, for about half a minute at most, until what the last commit replaces has been removed.

        If the coordinator does not answer, do not wait: one checkpoint too many does no harm.
        """
        if self._membership is None or self._link is None or self.unreachable_since or self.superseded:
            return
        try:
            self._link.await_upkeep(pb.AwaitUpkeepRequest(caller=self.caller()), min(patience, AWAIT_UPKEEP))
        except (Unreachable, Refusal) as error:
            log.info("%s: not waited for what is being removed: %s", self.this_task.task, error)

    def close(self, patience: float) -> None:
        """Leave the world. An embedded coordinator stays until the others have left, up to `patience` seconds."""
        if not self._closed.is_set():
            self.farewell()
            self._leave(patience)
        self._closed.set()
        self._reading_back.end()
        self._tell()
        if self._attendance:
            self._attendance.join(min(5.0, patience))
        with self._connecting:  # a join in progress elsewhere makes nothing any more
            link, self._link = self._link, None
            embedded, self._embedded = self._embedded, None
        if link is not None:
            link.close()
        if embedded is not None:
            embedded.release(patience)

    def _leave(self, patience: float) -> None:
        if self._embedded is None:  # otherwise the coordinator waits for it at its end
            self.await_upkeep(patience)
        if self._membership is not None and self._link is not None and self.superseded is None:
            wait = patience if self._embedded else 0.0
            try:
                self._link.leave(pb.LeaveRequest(caller=self.caller(), wait_for_others_s=wait), wait + 5.0)
            except (Unreachable, Refusal) as error:
                log.info("%s: left without telling the coordinator: %s", self.this_task.task, error)


def _settings(coordinator: str) -> Settings:
    """Return what the environment says of the coordinator that the program names. Of any other it says nothing."""
    try:
        return Settings.of() if coordinator else Settings()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def beat_every(workers: int) -> float:
    """Return the seconds between two heartbeats of a worker. Twice as many in a large world: a coordinator counts a
    worker as silent after 15."""
    return BEAT * min(2.0, max(1.0, workers / 2_000))


def _pauses() -> Iterator[float]:
    """Yield the seconds between tries: short while a restart may take place, since a save may wait, then longer."""
    yield from (0.05, 0.1)
    yield from itertools.repeat(0.2, 150)
    yield from itertools.repeat(1.0)
