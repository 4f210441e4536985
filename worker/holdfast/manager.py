"""All of `holdfast.CheckpointManager` but its base class: this module does not import TensorFlow.

It is longer than others: users read one class, and half of it is documentation for them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.arguments import MAX_TO_KEEP, Arguments, as_json, as_metrics, check_options, integer_in, value_of
from holdfast.context import check_internals, check_variables, eager
from holdfast.incremental import Incremental
from holdfast.keep import Policy
from holdfast.preemption import Preempted, Preemption
from holdfast.requested import Requested
from holdfast.restoring.agree import agree
from holdfast.save_interval import YoungDaly, seconds
from holdfast.saving.save import Save, Terms
from holdfast.saving.turns import Turns
from holdfast.session import open_sessions
from holdfast.session.identity import process_id
from holdfast.session.lane import Pending, closed
from holdfast.session.launcher import warn_of_launcher
from holdfast.session.own_folder import check_folder
from holdfast.session.session import Session
from holdfast.session.this_task import ALONE, ThisTask, find_this_task
from holdfast.session.waiting import wait_for
from holdfast.world import Reading, World, world_of
from holdfast_storage.cluster import describe
from holdfast_storage.errors import HoldfastError, InvalidRequest, SaveFailed, Superseded
from holdfast_storage.layout import index_object, is_tag
from holdfast_storage.logger import logger
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import WRITE_BUFFER, normalise, open_store

if TYPE_CHECKING:
    from holdfast.saving.increments import Increments

log = logger("holdfast")

T = TypeVar("T")
Self = TypeVar("Self", bound="Manager")

PATIENCE = 30.0
"""Seconds for which a save waits for an unreachable coordinator before training goes on without it."""


class Manager:
    """Saves and restores the same step on all workers of a `tf.distribute` run, all or nothing.

    `save`, `restore` and `restore_or_initialize` are collective: all workers must call them at the same points of their
    programs. A single process, for which nothing names a cluster, is a world of one worker. With parameter servers, the
    chief alone has a manager, and each server calls `serve_parameter_server`: there these calls need nobody else.

    Args:
        checkpoint: the `tf.train.Checkpoint` to save. It has the same objects on all workers.
        directory: the run directory, as a path or an fsspec URL. It is the same storage for all workers.
        max_to_keep: how many committed checkpoints to keep; None keeps all. Older ones are removed once the new one has
            been read back. Until then, and while a save is in flight, there are more.
        keep_checkpoint_every_n_hours: of the checkpoints to remove, one in this many hours is kept for ever.
        checkpoint_name: the first part of each checkpoint's name.
        step_counter: a variable that holds the training step; `checkpoint_interval` needs it.
        checkpoint_interval: `save` does nothing until this many steps have passed since the last save.
        init_fn: a function that `restore_or_initialize` calls if there is nothing to restore.
        last_checkpoint_step: the step of the last save, if it is known from elsewhere.
        per_worker: a `tf.train.Checkpoint` of what each worker keeps for itself, such as its input iterator.
        cluster_resolver: a `tf.distribute.cluster_resolver.ClusterResolver` that says which task of which cluster this
            process is. It is needed only where neither TF_CONFIG nor the strategy of the variables says so.
        coordinator: "host:port" of a coordinator that runs on its own. Default: the environment's
            HOLDFAST_COORDINATOR, else a coordinator embedded in the chief.
        storage_options: options for the fsspec file system.
        blocking: whether `save` returns only after the commit.
        save_timeout: seconds after which a save that is not committed fails.
        join_timeout: seconds for which the first collective call waits for the other workers.
        on_divergence: "refuse" to save, or "warn", if a variable that must be equal on all workers is not.
        require_finite: whether to refuse to commit a state that holds NaN or infinity.
        takeover: whether to lead the run even if another job seems to be using it.
        preemption: a `Preemption`: what is notice that this host is to go away. All workers save then, at the next call
            of `save_if_requested` that they agree on. The signals are taken when the manager is made, which must be
            after the strategy.
        save_every: a `timedelta`: if the last save began as long ago, `save_if_requested` saves, or, if that takes
            longer, as soon as it is done; or `holdfast.young_daly()`. The chief's counts.
        write_buffer: the bytes that may be on their way to an object store at a time; at least 20 MiB.
        incremental: a `holdfast.Incremental`: of large tables, save only the rows that have changed since the last
            checkpoint. Now and then one is full.
        keep: which checkpoints to keep, by the rules in `holdfast.keep`, in place of `max_to_keep` and
            `keep_checkpoint_every_n_hours`, which are short for `newest` and `every`.

    Raises InvalidRequest for arguments that cannot work.
    """

    def __init__(  # noqa: PLR0917 - the order of arguments is TensorFlow's
        self,
        checkpoint: Any,
        directory: str | os.PathLike[str],
        max_to_keep: int | None = MAX_TO_KEEP,
        keep_checkpoint_every_n_hours: float | None = None,
        checkpoint_name: str = "ckpt",
        step_counter: Any = None,
        checkpoint_interval: int | None = None,
        init_fn: Callable[[], Any] | None = None,
        last_checkpoint_step: int | None = None,
        *,
        per_worker: Any = None,
        cluster_resolver: Any = None,
        coordinator: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        blocking: bool = False,
        save_timeout: float = 600.0,
        join_timeout: float = 600.0,
        on_divergence: str = "refuse",
        require_finite: bool = False,
        takeover: bool = False,
        write_buffer: int = WRITE_BUFFER,
        keep: Policy | None = None,
        preemption: Preemption | None = None,
        save_every: timedelta | YoungDaly | None = None,
        incremental: Incremental | None = None,
    ) -> None:
        arguments = dict(locals())  # first, while nothing else has a name here
        del arguments["self"]
        given = self._given = Arguments.checked(**arguments)
        self._checkpoint = given.checkpoint
        self._per_worker = given.per_worker
        self._store = open_store(given.directory, given.storage_options, write_buffer=given.write_buffer)
        self._terms = Terms(**{each.name: getattr(given, each.name) for each in fields(Terms)})
        self._last_checkpoint_step = given.last_checkpoint_step
        here = self._find_task()
        check_variables(given.checkpoint, given.per_worker, served=here.has_servers)
        if here == ALONE:
            warn_of_launcher()
        # A reader asks no coordinator: it would be taken for a worker of another cluster.
        self._session = Session(here, self._store, "" if here.reader else given.coordinator, given.join_timeout)
        self._world: World | None = None
        if here.has_servers:
            self._here()  # raises what cannot work there
        self._session.requests.save_every = seconds(given.save_every)
        self._session.requests.young_daly = isinstance(given.save_every, YoungDaly)
        self._gate = self._session.requests.gate
        self._requested = Requested(self._session, given.preemption, given.save_timeout)
        self._lane = open_sessions.enter(self._session)
        self._calls = threading.RLock()  # one call at a time; calls from within a call, as from a signal handler, pass
        self._closed = False
        # State of the calling threads.
        self._is_first = True  # no snapshot has been taken
        self._counted = (0, 0)  # ordinal and save counter of the next save, if an interrupted call has set the counter
        self._staged: list[Any] = []
        self._cost: float | None = None  # seconds for which the last save call has kept the program
        # State of the lane.
        self._saves = 0
        self._restores = 0
        self._increments = _increments(given.incremental)
        self._failed: list[Save] = []  # saves whose errors have not been raised yet
        self._turns = Turns()
        self._agreed: tuple[str, Any] | None = None  # what all workers restore, by target, until it is applied

    # -- saving --

    @eager
    def save(
        self,
        checkpoint_number: Any = None,
        check_interval: bool = True,
        options: Any = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        blocking: bool | None = None,
    ) -> str | None:
        """Take a snapshot and save it in the background. This call is collective.

        It first waits for the save before it: only one save is in flight at a time. If that one failed, its error is
        raised here, after this save has been started. With parameter servers, it then waits for what is scheduled on
        the strategy's `ClusterCoordinator`, and raises, before this save counts, what that has raised.

        Args:
            checkpoint_number: the checkpoint's number. Default: the checkpoint's save counter, as in TensorFlow.
            check_interval: whether `checkpoint_interval` applies. If there is one, no step is saved twice in any case.
            options: a `tf.train.CheckpointOptions`. A sharding callback or an I/O device is refused.
            metadata: a mapping that JSON can hold, to keep in the manifest. Only the chief's counts, as it is now.
            metrics: likewise. `holdfast.keep.best` looks at those that are numbers. NaN and infinity are kept as None.
            blocking: overrides the manager's `blocking`. A blocking save ends with `wait()`.

        Returns:
            The prefix that the checkpoint will have, or None if the interval is not over. `restore` takes it; if saves
            are incremental, `tf.train.Checkpoint.restore` cannot read most of them.

        Raises:
            SaveFailed: the save before this one, or this one if it is blocking, was not committed.
            Superseded: a newer job leads the run. This manager can save nothing any more.
            CoordinatorUnavailable: not all workers joined in time (only at the first collective call).
        """
        check_options(options)
        self._check_saves()
        self._check_inherited()
        with self._calls:
            self._check_open()
            step = None if self._given.checkpoint_interval is None else value_of(self._given.step_counter)
            if not self._is_due(step, check_interval):
                return None
            self._join()
            called = time.monotonic()
            for staged in self._staged:
                staged.tidy()
            settled = self._settle()
            self._here().settle()  # before this save counts
            if step is not None:
                step = value_of(self._given.step_counter)  # what was scheduled has counted on
            number = self._number(checkpoint_number)
            if not settled:
                self._lane.submit(partial(self._skip, step))
                raise self._give_up(number)
            failed = self._untold()
            failure = failed.error if failed is not None else None
            save = self._snapshot(number)
            # Not before the snapshot: this worker may have heard of it earlier than the others, who are taking theirs.
            final = self._final(failure)
            if final is not None:
                self._lane.submit(partial(self._skip, step))
                del save  # the error would keep it alive, and is kept itself
                try:
                    raise final.with_traceback(None) from (None if failure is final else failure)
                finally:
                    self._forget(failed)
            self._describe(save, metadata, metrics)
            begun: Pending[bool] = Pending()
            made = self._session.made = self._lane.submit(partial(self._make, save, step, begun))
            self._wait(begun, "the save before to end", lambda _: made.is_known)
            if not begun.is_known:
                made.result()  # a signal handler has closed this manager
            self._raise(failed)
            if not begun.result():
                return None
            if self._given.blocking if blocking is None else blocking:
                self.wait()
            self._cost = time.monotonic() - called
            return f"{self.directory}/{save.prefix}"

    def save_if_requested(
        self,
        checkpoint_number: Any = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        before: Callable[[], Any] | None = None,
    ) -> str | None:
        """Save if that was asked for, and all workers have agreed on this very call. To be called after each step.

        All workers must call it equally often, as they call `save`. If nothing is asked for, which is nearly always,
        it does nothing, and takes less than a microsecond. Saves are asked for by a `Preemption`, by `save_every`, and
        by `holdfast save-now`.

        A program that does something long between two steps, such as an evaluation, calls it there, too: notice of a
        preemption is kept, but nothing is done about it before the next call.

        Args:
            checkpoint_number: as in `save`, like the next two.
            before: is called just before the save, and only then: to note where the program is.

        Returns:
            What `save` returns, or None.

        Raises:
            Preempted: a worker's host goes away, and all workers end. What could be saved in time is saved. It is a
                `SystemExit`, so a program that does not catch it ends with the `exit_code` of its `Preemption`.
            CoordinatorUnavailable: whether to save here could not be learnt.
        """
        if not self._gate.cross():
            return None
        return self._at_boundary(checkpoint_number, metadata, metrics, before)

    @eager
    def wait(self) -> None:
        """Wait until no save is in flight. Raises the error of a failed save, once.

        Then wait until at most `max_to_keep` committed checkpoints are left, but no longer than half a minute: a
        storage that hangs does not stop the training.
        """
        self._check_inherited()
        with self._calls:
            if not self._closed:
                self._settle(for_ever=True)
            self._raise(self._untold())
            if not self._closed:
                self._wait(self._lane.submit(self._session.await_upkeep), "what the last save replaces to be removed")

    def sync(self) -> None:
        """Do what `wait` does. TensorFlow's name for it."""
        self.wait()

    @eager
    def _at_boundary(
        self,
        number: Any,
        metadata: Mapping[str, Any] | None,
        metrics: Mapping[str, Any] | None,
        before: Callable[[], Any] | None,
    ) -> str | None:
        self._check_saves()
        self._check_inherited()
        with self._calls:
            self._check_open()
            self._join()
            due = self._requested.due()
            if due is None:
                return None
            prefix: str | None = None
            failure: HoldfastError | None = None
            try:
                if due.saves:
                    if before is not None:
                        before()
                    prefix = self.save(number, check_interval=False, metadata=metadata, metrics=metrics)
            except HoldfastError as error:  # of this save, or of the one before, while this one is under way
                if not due.exits:
                    raise
                failure = error
            if not due.exits:
                return prefix
            try:
                self._finish(due.until)
            except HoldfastError as error:
                failure = error
            if failure is not None:
                log.warning("%s: before the end: %s", self._session.this_task.task, failure)
            raise Preempted(self._requested.exit_code, due.reason) from failure

    def _finish(self, until: float | None) -> None:
        """Wait for the save in flight, but not beyond a moment (monotonic), and raise its error."""
        if until is not None:
            open_sessions.hurry(self._session, until)
        over = self._lane.submit(lambda: None)
        if not self._wait(over, "the last save", lambda _: until is not None and time.monotonic() >= until):
            raise SaveFailed("the time is up, and the last save has no outcome yet", phase="commit")
        self._raise(self._untold())

    def _is_due(self, step: int | None, check_interval: bool) -> bool:
        last = self._last_checkpoint_step
        if step is None or self._given.checkpoint_interval is None:
            return True
        return last is None or not (step == last or (check_interval and step - last < self._given.checkpoint_interval))

    def _number(self, checkpoint_number: Any) -> int:
        """Return this save's number. Increase the save counter by one, once for each save that gets to its snapshot."""
        number = None if checkpoint_number is None else integer_in(checkpoint_number)
        if checkpoint_number is not None and (number is None or not 0 <= number < 1 << 63):
            raise InvalidRequest(f"the checkpoint number {checkpoint_number} is not an integer from 0 to 2^63 - 1")
        counter, ordinal = self._checkpoint.save_counter, self._saves + 1
        before = value_of(counter)
        if self._counted != (ordinal, before):
            if self._counted != (ordinal, before + 1):
                self._counted = (ordinal, before + 1)
            counter.assign_add(1)
        return self._counted[1] if number is None else number

    def _find_task(self) -> ThisTask:
        here = find_this_task(self._given.cluster_resolver, self._checkpoint, self._per_worker)
        check_folder(here, self._store.url)
        return here

    def _check_alone(self) -> None:
        """Raise InvalidRequest if this is a world of one, and variables made since it joined are of several workers."""
        found = self._find_task() if self._session.this_task == ALONE else ALONE
        if found != ALONE:
            raise InvalidRequest(
                f"this CheckpointManager has joined as a job of one worker. Its variables, which were made later, are "
                f"those of {found.task} of {describe(found.cluster)}: make the CheckpointManager in the scope of their "
                "strategy, or pass cluster_resolver=strategy.cluster_resolver",
                object="cluster_resolver",
            )

    def _snapshot(self, number: int) -> Save:
        save = Save(self._session, self._store, self._terms, number, snapshot=None, increments=self._increments)
        try:
            check_internals(self._checkpoint)  # again: a Keras may have been imported since the join
            if self._is_first:
                self._check_alone()
                self._is_first = False
            self._here().capture(save, self._saves + 1)
            save.local_error = self._misfit()
        except Exception as error:
            # The save itself tells the others: raising here would leave them waiting for this worker.
            save.local_error = error
        return save

    def _describe(self, save: Save, metadata: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None) -> None:
        """Add the chief's description to its save. As with the snapshot, an error is reported by the save itself."""
        if not self._session.this_task.is_chief:
            return
        try:
            save.metadata, save.metrics = as_json("metadata", metadata), as_metrics(metrics)
            save.strategy, save.cost_before = self._here().strategy, self._cost
        except Exception as error:
            save.local_error = save.local_error or error

    def _settle(self, for_ever: bool = False) -> bool:
        """Wait until no save is in flight, whoever began it.

        Unless `for_ever`, give up if the coordinator is unreachable and the snapshot is not a collective. The save then
        stays in flight.
        """

        def given_up(_: float) -> bool:
            since = self._session.unreachable_since
            if for_ever or self._here().collective or since is None:
                return False
            return time.monotonic() - since > PATIENCE

        return self._wait(self._lane.submit(lambda: None), "the save in flight", given_up)

    def _wait(self, pending: Pending[T], what: str, given_up: Callable[[float], bool] = lambda seconds: False) -> bool:
        return wait_for(self._session, pending, what, given_up)

    def _untold(self) -> Save | None:
        """Return a failed save whose error has not been raised yet.

        An error that was raised has a traceback, from that very instruction on, so no interrupt can come between.
        """
        untold = (save for save in self._failed if save.error is not None and save.error.__traceback__ is None)
        return next(untold, None)

    def _raise(self, failed: Save | None) -> None:
        """Raise the error of a failed save and forget it, since it keeps the caller's frames alive."""
        if failed is not None and failed.error is not None and failed in self._failed:
            try:
                raise failed.error
            finally:
                self._forget(failed)

    def _forget(self, failed: Save | None) -> None:
        """Forget a failed save, unless a signal handler that saves has been told of it meanwhile."""
        if failed is not None:
            with suppress(ValueError):
                self._failed.remove(failed)

    # -- on the lane --

    def _make(self, save: Save, step: int | None, begun: Pending[bool]) -> None:
        """Run a save. `step` is what `checkpoint_interval` counts by; None without an interval."""
        if step is not None and step == self._last_checkpoint_step:
            begun.set(False)  # a signal handler has saved it while this call was on its way
            return
        self._agreed, self._last_checkpoint_step = None, step if step is not None else self._last_checkpoint_step
        self._saves += 1
        save.ordinal = self._saves
        begun.set(True)
        self._turns.take(save)
        self._saves += save.missed
        if save.error is not None:
            self._failed.append(save)

    def _skip(self, step: int | None) -> None:
        """Count a save call of which nothing was done: the other workers count it, too."""
        self._saves += 1
        self._forget_increments()
        self._last_checkpoint_step = step if step is not None else self._last_checkpoint_step

    def _agree(self, target: str, reading: Reading) -> Any:
        """Agree on what all workers restore. What an interrupted call has agreed on, and not applied, still counts."""
        if self._agreed is None or self._agreed[0] != target:
            self._agreed = None
            self._restores += 1
            self._forget_increments()
            timeout = self._given.join_timeout
            stage = reading(self._restores, target, timeout)
            staged = agree(self._session, self._store, self._restores, target, timeout, stage=stage)
            self._agreed = (target, staged)
        return self._agreed[1]

    def _forget_increments(self) -> None:
        """Let the next save be full: the variables, or what is committed, may not be what the last save has left."""
        if self._increments is not None:
            self._increments.forget()

    # -- errors --

    def _give_up(self, number: int) -> SaveFailed:
        return SaveFailed(
            f"the save of step {number} was given up: the coordinator has been out of reach for more than "
            f"{PATIENCE:.0f} s, and the outcome of the save before is not known yet. Training can go on",
            workers=[str(self._session.this_task.task)],
            phase="vote",
        )

    def _final(self, failure: HoldfastError | None) -> HoldfastError | None:
        """Return the error after which nothing can be saved any more, if there is one."""
        if isinstance(failure, Superseded):
            self._session.superseded = self._session.superseded or failure
        return self._session.superseded

    # -- restoring --

    @eager
    def restore_or_initialize(self) -> str | None:
        """Restore the newest checkpoint that all workers can read and verify. This call is collective.

        Returns the checkpoint's prefix. Without any checkpoint, stock ones included, calls `init_fn` and returns None.

        Raises what `restore` raises, and InvalidRequest if nothing fits: no trained variable has got a value. If there
        are no trained variables yet, because the model is still to be built, the next `save` fails instead. If this is
        intended, call `restore().expect_partial()` instead. If the checkpoint fits in part, the rest is logged.
        """
        prefix, _ = self._restore("")
        misfit = self._misfit(so_far=True)
        if misfit is not None:
            raise misfit
        if prefix is None and self._given.init_fn is not None:
            self._given.init_fn()
        return prefix

    @eager
    def restore(self, path_or_step: str | os.PathLike[str] | int | None = None) -> Any:
        """Restore a checkpoint, by default the newest, and return TensorFlow's load status. This call is collective.

        It is named by its step, its path, or a tag that `holdfast tag` has given it. A tag is looked up once for all
        workers, so they restore the same checkpoint even if somebody moves it meanwhile. One word is a path if a
        checkpoint is there.

        If it is older than the newest, it becomes the newest with the next save. Variables that are created later are
        restored when they are created. If no trained variable has got a value by the next save, that save fails. Values
        and objects without a counterpart are logged by name, when the program lets go of the status if all objects
        exist by then, otherwise at the next save or `close`. If it has called `expect_partial()`, none of this happens.

        Raises:
            InvalidRequest: there is no such checkpoint, or the workers ask for different ones.
            CheckpointDamaged: the checkpoint is damaged, or, without an argument, all existing checkpoints are.
            StorageError: some worker cannot read the checkpoint. Nothing was restored anywhere.
        """
        status = self._restore(self._target(path_or_step))[1]
        for fit in self._staged[-1].fits if self._staged else ():
            fit.judge_when_let_go(status)
        return status

    def _restore(self, target: str) -> tuple[str | None, Any]:
        from holdfast.restoring.apply import apply

        self._check_inherited()
        with self._calls:
            self._check_open()
            self._join()
            agreed = self._lane.submit(partial(self._agree, target, self._here().reading()))
            self._wait(agreed, "all workers to restore")
            staged = agreed.result()
            if staged is None:
                status = self._checkpoint.restore(None)
                self._agreed = None
                return None, status
            # It stays open from here on, even if it does not fit: TensorFlow goes on reading it.
            if staged not in self._staged:
                self._staged.append(staged)
            try:
                status = apply(self._checkpoint, self._per_worker, staged)
            except Exception:
                self._agreed = None  # this is the same on all workers, unless this one was interrupted
                raise
            while len(self._staged) > 1:
                self._staged.pop(0).close()
            if self._given.checkpoint_interval is not None:
                self._last_checkpoint_step = value_of(self._given.step_counter)
            self._agreed = None
            prefix = staged.record.prefix
            return f"{self.directory}/{prefix}" if not os.path.isabs(prefix) else prefix, status

    def _here(self) -> World:
        """Return the world that this task is of. A task that is found late, by its variables, is of it by the join."""
        if self._world is None:
            self._world = world_of(self._session, self._checkpoint, self._given, self._terms)
        return self._world

    def _join(self) -> None:
        if self._session.has_joined:
            return  # nothing is handed over: the coordinator may be away, and training goes on
        check_internals(self._checkpoint)
        if self._session.this_task == ALONE:  # the variables may have been made since
            self._session.this_task = self._find_task()
        self._await_made()
        if not self._session.this_task.reader:
            # This comes before the join: the others hear, within its timeout, that this worker has not come.
            self._here().check()
        joined = self._lane.submit(self._here().join)
        if not self._wait(joined, "all workers to join", lambda _: bool(self._requested.ends_early)):
            raise Preempted(self._requested.exit_code, f"{self._requested.ends_early}, before all workers had joined")
        joined.result()
        self._requested.take_signals()

    def _await_made(self) -> None:
        """Wait until no save of this task is in flight here, whichever manager of this program has begun it.

        A notebook makes a new manager where the one before has just saved, and goes on from that save.
        """
        for session in open_sessions.beside(self._session):
            if session.made is not None:
                wait_for(session, session.made, "the save in flight")

    def _misfit(self, so_far: bool = False) -> InvalidRequest | None:
        """Return an error if nothing of what was restored last fits: then it must not be saved over.

        If it fits in part, what is left over is logged, once.
        so_far: wait with the judgement if objects may still come.
        """
        # All of them count if several could not be applied: the objects hold a part of each.
        for fit in self._fits:
            complaint: InvalidRequest | None = fit.complaint(so_far)
            if complaint is not None:
                return complaint
            fit.warn(so_far)
        return None

    @property
    def _fits(self) -> list[Any]:
        """What is known of how each restored checkpoint fits this program."""
        return [fit for staged in self._staged for fit in staged.fits]

    def _target(self, path_or_step: str | os.PathLike[str] | int | None) -> str:
        if path_or_step is None:
            return ""
        step = integer_in(path_or_step)
        if step is not None:
            return str(step)
        if not isinstance(path_or_step, (str, os.PathLike)):
            raise InvalidRequest(f"a checkpoint to restore is a path or a step, not {path_or_step!r}")
        path = os.fspath(path_or_step)
        if path.isdigit():
            return path
        if isinstance(path_or_step, str) and is_tag(path) and not os.path.exists(index_object(path)):
            return f"@{path}"  # the coordinator looks it up, once for all workers
        folder, _, name = path.rpartition("/")
        full = f"{normalise(folder or '.')}/{name}"
        return full.removeprefix(f"{self.directory}/")

    # -- looking --

    @property
    def checkpoints(self) -> list[str]:
        """The prefixes of the committed checkpoints that are not marked as damaged, oldest first, read from storage.

        Deltas are left out, since `tf.train.Checkpoint.restore` cannot read them; `restore` of a manager can, by their
        step. First waits for the outcome of the save in flight, so that a program finds what it has just saved, also
        with another manager. If that save fails, its error is still raised where it would be otherwise.

        Raises InvalidRequest if the run was moved: a program that finds no checkpoint would begin anew.
        """
        self._await_made()
        state = read_run(self._store)
        if state and state.closed:
            raise InvalidRequest(f"{self.directory}: {state.closed}", object=self.directory)
        return [f"{self.directory}/{c.prefix}" for c in state.stock_readable] if state else []

    @property
    def latest_checkpoint(self) -> str | None:
        """The last of `checkpoints`; None if there is none."""
        checkpoints = self.checkpoints
        return checkpoints[-1] if checkpoints else None

    @property
    def directory(self) -> str:
        """The run directory, normalised."""
        return self._store.url

    @property
    def checkpoint(self) -> Any:
        """The `tf.train.Checkpoint` that is saved."""
        return self._checkpoint

    @property
    def checkpoint_interval(self) -> int | None:
        return self._given.checkpoint_interval

    @property
    def last_checkpoint_step(self) -> int | None:
        return self._last_checkpoint_step

    # -- the end --

    def close(self) -> None:
        """Finish the save in flight, leave the world and release everything. Raises the error of a failed save."""
        if self._is_inherited:
            return
        if open_sessions.is_ours(threading.current_thread()):
            open_sessions.leave(self._session)  # the garbage collector calls: this thread would wait for itself
            return
        with self._calls:
            if not self._closed:
                left = open_sessions.leave(self._session)
                self._gate.seen = None  # the next call of save_if_requested is refused
                try:
                    if open_sessions.await_end(self._session, left):
                        left.result()
                finally:
                    self._requested.close()  # not before: a signal would end the process amid the save in flight
                for staged in self._staged:
                    staged.close()
                self._closed = True
                for fit in self._fits:
                    fit.tell()  # to a program that has not saved since
            self._raise(self._untold())

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except HoldfastError as failure:
            if error is None:
                raise
            log.warning("%s", failure)

    @property
    def _is_inherited(self) -> bool:
        """Whether this manager belongs to another process, of which this one is a copy."""
        return self._session.process != process_id()

    def _check_inherited(self) -> None:
        if self._is_inherited:
            raise InvalidRequest(
                "this CheckpointManager belongs to the process from which this one was forked or restored: make a new "
                "one here"
            )

    def _check_saves(self) -> None:
        reader = self._session.this_task.reader
        if reader:
            raise InvalidRequest(f"{reader} has no part in saves: only chief and workers save; it can only restore")

    def _check_open(self) -> None:
        if self._closed:
            raise closed()


def _increments(policy: Incremental | None) -> Increments | None:
    """Return what incremental saves hand on. It needs numpy, which comes with TensorFlow."""
    if policy is None:
        return None
    from holdfast.saving.increments import Increments

    return Increments(policy)
