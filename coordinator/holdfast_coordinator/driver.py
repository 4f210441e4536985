"""Drives one run's state machine: with the clock, the storage, and the calls that wait for an answer.

Everything here runs on one asyncio loop. Blocking I/O runs in threads, and its result comes back as an event.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from holdfast_protos.client import Access, ask, is_of_another_host
from holdfast_protos.conventions import LARGEST_REPORT
from holdfast_protos.settings import Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.checkpoint.manifest import numbers, read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.deciding import decide, remove_decisions
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, HoldfastError, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.lag import Wait
from holdfast_storage.layout import LOG_FOLDER, OWN_FOLDER, PAGE_FOLDER, check_attempt_folder
from holdfast_storage.log.log import Log, LostRace, NotPublished, Published, Unknown
from holdfast_storage.logger import logger
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord, Entry, Leader, LogState
from holdfast_storage.run_directory import orphans, tail_or_import
from holdfast_storage.run_key import ensure_key
from holdfast_storage.stock import state_file
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.store.base import Store

from .clusters import Clusters
from .core import effects as fx
from .core import events as ev
from .core.dealing import StoredObject
from .core.machine import Machine
from .core.messages import Answer, Caller, Now, RequestId, Verdict
from .finalize import finalize
from .threads import DaemonThreads

log = logger("holdfast.coordinator")

TICK = 0.5
"""Seconds between checks of the deadlines."""

IDLE_TICK = 10.0
"""The same while nobody is there and nothing is going on: a run costs nothing then, and is closed before long."""

STORAGE_THREADS = 8
UPKEEP_THREADS = 4
VERIFY_THREADS = 2

DESERTED_FOR = 60.0
"""Seconds without any worker after which a run is closed. Who comes later meets a coordinator as if restarted."""

PUBLISH_FOR = 10.0
"""Seconds for which creating one log entry is tried before the machine is asked what to do."""


Notice = fx.Notify | fx.Post | fx.AskToRead

Notices = asyncio.Queue["Notice | None"]
"""The notices for one stream of a worker; None: it ends."""

UNREAD = 16
"""The number of notices from which a worker that does not read them is told nothing more but how saves end."""

AT_ONCE = 4
"""The calls of one kind, and the streams, that a worker may have at once: the oldest of more gives way.

A worker has one of each; the others are those whose connection is gone without the coordinator knowing it yet.
"""

LARGEST_REPORTS = 2 * LARGEST_REPORT
"""The bytes of all reports of a run that are here at once."""

T = TypeVar("T")

CAUSE: ContextVar[str] = ContextVar("cause", default="")
"""The cause of what is being done: an event that came in from outside, such as `vote-17`.

It goes with the effects of that event, into threads too, and back with their results. Log lines name it. So do the
errors for workers about which this log says more.
"""


class Refused(Exception):
    """The machine has refused a call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Driver:
    """The driver of one run.

    process: the id of the coordinator process.
    number: the number of this driver in the process. An earlier driver of the same run counts as somebody else, whose
        log entries are not this one's own.
    deserted: is called, repeatedly, when nobody has been there for so long that the driver should be closed.
    insecure: whether another leader is believed that proves nothing. Otherwise whoever has its port could keep a job
        from the lead for ever.
    """

    def __init__(
        self,
        store: Store,
        process: Leader,
        number: int,
        deserted: Callable[[Driver], None],
        *,
        insecure: bool = False,
    ) -> None:
        self.store = store
        self._process = process.id
        self._deserted = deserted
        self._insecure = insecure
        self.machine = Machine(replace(process, id=f"{process.id}-{number}"))
        self._log = Log(store)
        # Each run has its own threads, since its storage may hang while others do not. They are separate, since
        # reading back and deleting must not block a commit.
        self._threads = DaemonThreads(STORAGE_THREADS, "holdfast-storage")
        self._upkeep_threads = DaemonThreads(UPKEEP_THREADS, "holdfast-upkeep")
        # These are separate from both: restores wait for a read-back, and deletions may take for ever.
        self._verify_threads = DaemonThreads(VERIFY_THREADS, "holdfast-verify")
        self._requests = itertools.count(1)
        self._events = itertools.count(1)
        self._waiting: dict[RequestId, asyncio.Future[Answer]] = {}
        self._calls: dict[tuple[Caller, type], dict[RequestId, None]] = {}  # those that wait, the oldest first
        self._listeners: dict[Caller, list[Notices]] = {}
        self._reports = 0  # bytes
        self._chief_came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._visitors = 0
        self.clusters = Clusters()
        self._effects: set[asyncio.Task[None]] = set()
        self._state_file = -1, ""  # the entry after which the file was written, and the newest checkpoint that it names
        self._state_file_lock = asyncio.Lock()
        self._told = ""  # about what TensorFlow's own manager wrote
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock = asyncio.get_running_loop().create_task(self._ticks())

    async def ask(self, caller: Caller, build: Callable[[RequestId], ev.Event]) -> Answer:
        """Hand the machine a worker's call and wait for its answer. Raises Refused."""
        request = next(self._requests)
        event = build(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        kind = caller, type(event)
        calls = self._calls.setdefault(kind, {})
        calls[request] = None
        if len(calls) > AT_ONCE:
            oldest = next(iter(calls))
            del calls[oldest]
            self._give_way(oldest)
        try:
            self.tell(event)
            return await future
        except asyncio.CancelledError:
            self.tell(ev.Cancelled(request))
            raise
        finally:
            del self._waiting[request]
            calls.pop(request, None)
            if not calls and self._calls.get(kind) is calls:
                del self._calls[kind]

    def _give_way(self, request: RequestId) -> None:
        self.tell(ev.Cancelled(request))
        self._refuse(fx.Refuse(request, Failure(Kind.INVALID_REQUEST, f"newer calls than this one wait ({AT_ONCE})")))

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a report's bytes for as long as it is here. Raises Refused if there are too many."""
        if self._reports + size > LARGEST_REPORTS:
            message = f"the reports of this run have more than {LARGEST_REPORTS:,} bytes"
            raise Refused(Failure(Kind.SAVE_FAILED, message, phase="write"))
        self._reports += size
        try:
            yield
        finally:
            self._reports -= size

    def tell(self, event: ev.Event) -> None:
        """Hand the machine an event from outside: the cause of all that follows from it."""
        if not self._woken.done():
            self._woken.set_result(None)
        before = CAUSE.set(f"{type(event).__name__.lower()}-{next(self._events)}")
        try:
            self._take(event)
        finally:
            CAUSE.reset(before)

    def _take(self, event: ev.Event) -> None:
        """Hand the machine an event and start its effects."""
        for effect in self.machine.handle(event, Now(time.monotonic(), time.time())):
            self._EFFECTS[type(effect)](self, effect)

    @contextmanager
    def attended(self, caller: Caller, notices: Notices) -> Iterator[None]:
        """Tell the machine that a worker is there, and put the notices for it into the queue.

        A worker that has lost its connection may come back on a new one before the old one is known to be dead. Each
        connection has its own queue for as long as it lasts.
        """
        listeners = self._listeners.setdefault(caller, [])
        listeners.append(notices)
        for oldest in listeners[:-AT_ONCE]:
            oldest.put_nowait(None)
        try:
            self.tell(ev.Attached(caller))
            yield
        finally:
            listeners[:] = [each for each in listeners if each is not notices]
            if not listeners:
                self._listeners.pop(caller, None)
            self.tell(ev.Detached(caller))

    @contextmanager
    def visited(self) -> Iterator[None]:
        """Keep the run open for a caller that waits for more than the machine's answer."""
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1

    def chief_came(self) -> None:
        """Let those go on who wait for the chief of a world."""
        self._chief_came.set_result(None)
        self._chief_came = asyncio.get_running_loop().create_future()

    async def await_chief(self, patience: float) -> None:
        """Wait for up to `patience` seconds until the chief of some world has come."""
        await asyncio.wait([self._chief_came], timeout=patience)

    async def settle(self, patience: float) -> None:
        """Wait for up to `patience` seconds until nothing is going on."""
        end = time.monotonic() + patience
        while (self.machine.busy or self._effects) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stop, whatever is going on."""
        tasks = [self._clock, *self._effects]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for threads in (self._threads, self._upkeep_threads, self._verify_threads):
            threads.shutdown(cancel_futures=True)

    async def _ticks(self) -> None:
        there = time.monotonic()
        while True:
            await self._next_tick()
            try:
                self.tell(ev.Tick())
                if not self.is_deserted:
                    there = time.monotonic()
                elif time.monotonic() - there >= DESERTED_FOR:
                    self._deserted(self)
            except Exception:
                # Without the clock no deadline would ever pass again.
                log.exception("%s: checking the deadlines failed", self.store.url)

    async def _next_tick(self) -> None:
        """Wait for the next check: soon, or when somebody comes."""
        if not self._is_used and not self.machine.busy:
            self._woken = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._woken], timeout=IDLE_TICK)
        await asyncio.sleep(TICK)

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is there and nothing is going on."""
        return not self._is_used and self.machine.deserted

    @property
    def _is_used(self) -> bool:
        return bool(self._visitors or self._waiting or self._listeners or self._effects)

    # -- effects --

    def _reply(self, effect: fx.Reply) -> None:
        future = self._waiting.get(effect.request)
        if future and not future.done():
            future.set_result(effect.answer)

    def _refuse(self, effect: fx.Refuse) -> None:
        future = self._waiting.get(effect.request)
        if future and not future.done():
            future.set_exception(Refused(effect.failure))

    def _notify(self, effect: Notice) -> None:
        for notices in self._listeners.get(effect.caller, ()):
            # The next heartbeat asks for a post again, and who does not answer is not waited for.
            if isinstance(effect, fx.Notify) or notices.qsize() < UNREAD:
                notices.put_nowait(effect)

    def _create_decision(self, effect: fx.CreateDecision) -> None:
        def create() -> ev.Decided:
            return ev.Decided(effect.generation, decide(self.store, effect.generation, effect.decision))

        self._in_thread(create, lambda error: ev.Decided(effect.generation, None))

    def _remark(self, effect: fx.Remark) -> None:
        log.warning("%s: %s", self._here, effect.text)

    def _read_log(self, _: fx.ReadLog) -> None:
        self._in_thread(self._read_log_now, lambda error: ev.LogRead(None, failure=self._failure(error)))

    def _read_log_now(self) -> ev.LogRead:
        found = tail_or_import(self.store, self._log, secrets.token_hex(8), self.machine.ledger.number)
        if not isinstance(found, Entry):
            return ev.LogRead(None, imported=found)
        state, told = with_foreign(self.store, found.state)
        if told and told != self._told:
            log.warning("%s", told)
        self._told = told
        return ev.LogRead(replace(found, state=state))

    def _append(self, effect: fx.Append) -> None:
        entry = effect.entry

        def publish() -> ev.Appended:
            match self._log.publish(entry, PUBLISH_FOR):
                case Published():
                    log.info("%s: log entry %d: %s %s", self._here, entry.number, entry.kind, entry.note)
                    return ev.Appended(entry)
                case LostRace(stands):
                    return ev.Appended(entry, taken_by=stands)
                case NotPublished(reason):
                    log.warning("%s: log entry %d was refused: %s", self._here, entry.number, reason)
                    return ev.Appended(entry, refused=self._named(reason))
                case Unknown(reason):
                    log.warning("%s: log entry %d may be there or not: %s", self._here, entry.number, reason)
                    return ev.Appended(entry, unknown=self._named(reason))

        self._in_thread(publish, lambda error: ev.Appended(entry, unknown=self._named(error)))
        if entry.kind == "lead":
            self._start(self._make_key())

    async def _make_key(self) -> None:
        """Let others ask who leads. A world of one calls without the run's key, and may lead where there is none."""
        try:
            await self._threaded(lambda: ensure_key(self.store), self._upkeep_threads)
        except HoldfastError as error:
            log.info("%s: nobody can ask this coordinator: %s", self._here, error)

    def _probe(self, effect: fx.Probe) -> None:
        async def probe() -> None:
            status = pb.StatusReply()
            if not is_of_another_host(effect.address, effect.host):
                try:
                    settings = Settings.of().for_anybody()
                    access = Access(self.store.url, lambda: ensure_key(self.store), settings=settings)
                    asking = partial(ask, effect.address, access, anybody=self._insecure)
                    status = await self._threaded(asking, self._threads)
                except Exception as error:  # for example for an invalid address
                    log.info("%s: nobody answers at %s: %s", self._here, effect.address, error)
            # It may be serving another world by now, which does not lead.
            living = [w.worker for w in status.run.workers if w.alive and status.run.generation == effect.generation]
            if status.coordinator == self._process:
                # If this one was restarted at the leader's address, it hears itself: only the leader's world counts.
                state = self.machine.ledger.state
                world = self.machine.worlds.get(state.generation.id) if state and state.generation else None
                living = list(map(str, world.living(time.monotonic()))) if world else []
            self._take(ev.Probed(effect.address, tuple(living)))

        self._start(probe())

    def _finalize(self, effect: fx.Finalize) -> None:
        wait = Wait(over=lambda: not self.machine.finalizes(effect.generation.id, effect.ordinal))

        def failed(error: Exception) -> ev.Event:
            failure = self._failure(error)
            kind = failure.kind if failure.kind is Kind.STORAGE else Kind.SAVE_FAILED
            failure = replace(failure, kind=kind, phase="finalize")
            return ev.Finalized(effect.generation.id, effect.ordinal, failure=failure)

        self._in_thread(lambda: finalize(self.store, effect, wait), failed)

    def _write_state_file(self, effect: fx.WriteStateFile) -> None:
        async def write() -> None:
            async with self._state_file_lock:
                if effect.number >= self._state_file[0]:
                    try:
                        self._state_file = await self._threaded(
                            lambda: self._write_state_file_now(effect.number, effect.state), self._threads
                        )
                    except Exception as error:
                        # The file is derived, and written again at the next commit; the checkpoint itself stands.
                        log.warning("%s: TensorFlow's state file could not be written: %s", self._here, error)
                        self._state_file = self._state_file[0], ""
            self._take(ev.StateFileWritten(effect.number, self._state_file[1]))

        self._start(write())

    def _write_state_file_now(self, number: int, state: LogState) -> tuple[int, str]:
        """Return the entry after which the file was written, and the newest checkpoint that it names, if known."""
        following = self._log.read(number + 1)
        if following and following.state.leader and following.state.leader.id != self.machine.leader.id:
            return following.number, ""  # a newer leader writes it, and may have done so long ago
        number, state = state_file.write_current(self.store, self._log, number, state, following)
        newest = state.stock_readable[-1:]
        return number, newest[0].prefix if newest else ""

    def _read_back(self, effect: fx.ReadBackCheckpoint) -> None:
        prefix = effect.record.prefix
        verify = partial(self._verified, effect)
        failed = ev.ReadBack(prefix, "unreadable")
        self._in_thread(lambda: ev.ReadBack(prefix, verify(None)), lambda error: failed, self._verify_threads)

    def _read_objects(self, effect: fx.ReadObjects) -> None:
        prefix = effect.record.prefix
        verify = partial(self._verified, effect)
        failed = ev.ObjectsRead(prefix, "unreadable")
        self._in_thread(
            lambda: ev.ObjectsRead(prefix, verify(effect.objects)), lambda error: failed, self._verify_threads
        )

    def _list_objects(self, effect: fx.ListObjects) -> None:
        record = effect.record

        def listed() -> ev.Listed:
            verdict = self._verified(effect, ())
            if verdict != "good":
                return ev.Listed(record.prefix, verdict)
            manifest = read_manifest(self.store, record)
            # What this coordinator has written itself counts as the chief's, in whose process it may be.
            found = (StoredObject(o.name, o.size, o.task or manifest.world[0]) for o in manifest.objects)
            return ev.Listed(record.prefix, "good", tuple(found))

        self._in_thread(listed, lambda error: ev.Listed(record.prefix, "unreadable"), self._verify_threads)

    def _verified(
        self, effect: fx.ReadBackCheckpoint | fx.ListObjects | fx.ReadObjects, objects: Collection[str] | None
    ) -> Verdict:
        """Read objects of a checkpoint, and its manifest. None: all of it."""
        report = verify_checkpoint(self.store, effect.record, objects=objects, wait=Wait(since=effect.since))
        for problem in report.problems:
            log.error("%s: %s: %s", self._here, problem.object, problem.reason)
        return report.verdict

    def _read_metrics(self, effect: fx.ReadMetrics) -> None:
        wait = Wait()

        def read(record: CheckpointRecord) -> tuple[str, tuple[tuple[str, float], ...]] | None:
            while True:
                try:
                    return record.prefix, numbers(read_manifest(self.store, record).metrics)
                except CheckpointDamaged as error:
                    if not (isinstance(error, CheckpointAbsent) and wait.again(str(error))):
                        log.warning("%s: %s has no metrics: %s", self._here, record.prefix, error)
                        return record.prefix, ()
                except HoldfastError as error:
                    log.warning("%s: the metrics of %s cannot be read: %s", self._here, record.prefix, error)
                    return None

        def read_all() -> ev.MetricsRead:
            return ev.MetricsRead(tuple(filter(None, in_parallel(read, effect.records, self.store.parallel))))

        self._in_thread(read_all, lambda error: ev.MetricsRead(()), self._upkeep_threads)

    def _find_orphans(self, effect: fx.FindOrphans) -> None:
        def find() -> ev.OrphansFound:
            for folder in ("", OWN_FOLDER, LOG_FOLDER, PAGE_FOLDER):
                try:
                    self.store.remove_leftovers(folder)
                except HoldfastError as error:
                    log.warning("%s: leftovers of killed processes could not be removed: %s", self._here, error)
            try:
                remove_decisions(self.store, effect.entry.state.superseded)
            except HoldfastError as error:
                log.warning("%s: decisions of earlier generations could not be removed: %s", self._here, error)
            return ev.OrphansFound(orphans(self.store, effect.entry))

        self._in_thread(find, lambda error: ev.OrphansFound(()), self._upkeep_threads)

    def _delete_folder(self, effect: fx.DeleteFolder) -> None:
        def delete() -> ev.Deleted:
            self.store.delete_folder(check_attempt_folder(effect.folder))
            return ev.Deleted(effect.folder, True)

        self._in_thread(delete, lambda error: ev.Deleted(effect.folder, False), self._upkeep_threads)

    def _in_thread(
        self,
        work: Callable[[], ev.Event],
        failed: Callable[[Exception], ev.Event],
        threads: DaemonThreads | None = None,
    ) -> None:
        async def run() -> None:
            try:
                event = await self._threaded(work, threads or self._threads)
            except Exception as error:
                log.warning("%s: %s", self._here, error, exc_info=not isinstance(error, HoldfastError))
                event = failed(error)
            self._take(event)

        self._start(run())

    async def _threaded(self, work: Callable[[], T], threads: DaemonThreads) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, copy_context().run, work)

    def _failure(self, error: Exception) -> Failure:
        failure = Failure.of(error)
        told = self._named(error) if isinstance(error, HoldfastError) else f"{failure.message} ({CAUSE.get()})"
        return replace(failure, message=told)

    def _named(self, reason: object) -> str:
        """Name the coordinator in a reason, so that nobody looks for the fault in a worker's credentials or network."""
        address = self.machine.leader.address
        return f"the coordinator at {address}: {reason} ({CAUSE.get()} in its log)" if address else str(reason)

    @property
    def _here(self) -> str:
        """The beginning of a log line: the run, and what led to it."""
        return f"{self.store.url} ({CAUSE.get()})"

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._effects.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._effects.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s: an effect failed", self.store.url, exc_info=error)

    _EFFECTS: ClassVar[dict[type, Callable[[Driver, Any], None]]] = {
        fx.Reply: _reply,
        fx.Refuse: _refuse,
        fx.Notify: _notify,
        fx.Post: _notify,
        fx.AskToRead: _notify,
        fx.CreateDecision: _create_decision,
        fx.Remark: _remark,
        fx.ReadLog: _read_log,
        fx.Append: _append,
        fx.Probe: _probe,
        fx.Finalize: _finalize,
        fx.WriteStateFile: _write_state_file,
        fx.ReadBackCheckpoint: _read_back,
        fx.ListObjects: _list_objects,
        fx.ReadObjects: _read_objects,
        fx.ReadMetrics: _read_metrics,
        fx.FindOrphans: _find_orphans,
        fx.DeleteFolder: _delete_folder,
    }
