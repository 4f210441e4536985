"""The calls of a save, and its way from the first ballot to the commit entry. `attempt` has its phases."""

from __future__ import annotations

from dataclasses import replace

from holdfast_storage.cluster import Task, names
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry

from . import events as ev
from .attempt import Phase, SaveAttempt
from .effects import Finalize
from .intents import Commit, GoBack, Lead, Mark
from .leading import Leading
from .membership import LEAP, LOST_AFTER, World, last_seen
from .messages import Ballot, Go, SaveOutcome, SaveReport, SpecsWanted
from .rules import metrics_of
from .run import RunState
from .vote import NeedSpecs, judge
from .waits import Fail, Nobody, SaveId, Seek, Settle

LOOK = 10.0
"""Seconds after which a save whose objects are not all seen yet checks whether this coordinator still leads."""


class Saving:
    """Keeps `World.attempt`."""

    def __init__(self, run: RunState, leading: Leading) -> None:
        self._run = run
        self._leading = leading

    # -- what workers call --

    def call(self, e: ev.SaveCall) -> None:
        match e:
            case ev.Vote():
                self.vote(e)
            case ev.Reported():
                self.reported(e)
            case ev.GaveUp():
                self.gave_up(e)

    def vote(self, e: ev.Vote) -> None:
        world = self._run.world(e.caller, e.request)
        if world is None:
            return
        b = e.ballot
        attempt = self._attempt(world, e, b)
        if attempt is None:
            return
        if self._is_refused(e, attempt, attempt.contradicts(e.caller.task, b)):
            return
        attempt.voters[e.request] = e.caller.task
        if attempt.phase is Phase.VOTING:
            attempt.ballots[e.caller.task] = b
            attempt.must_end_within(b.timeout)
            if e.caller.task == attempt.chief:
                attempt.takeover = b.takeover
            if attempt.all_voted:
                self._judge(world, attempt)
        elif attempt.phase is not Phase.LEADING:
            self._answer_voters(attempt)

    def reported(self, e: ev.Reported) -> None:
        world = self._run.world(e.caller, e.request)
        if world is None:
            return
        r = e.report
        attempt = self._attempt(world, e, r)
        if attempt is None:
            return
        if self._is_refused(e, attempt, attempt.disagrees(e.caller.task, r)):
            return
        attempt.take(e.caller.task, r)
        attempt.must_end_within(r.timeout)
        attempt.reporters[e.request] = e.caller.task
        if attempt.go is None:
            # This coordinator was restarted: the report shows that the vote had passed, and whether all is written.
            self._go(world, attempt, Go(worker_local=r.worker_local, full=not r.base))
        else:
            self._finalize(world, attempt)

    def _is_refused(self, e: ev.SaveCall, attempt: SaveAttempt, why: str) -> bool:
        """Refuse a call, if there is a reason, and take nothing from it. Its worker gives up the save then."""
        if why:
            message, phase = f"{why}; all workers must run the same version of Holdfast", attempt.phase.value
            self._run.refuse(e.request, Failure(Kind.INVALID_REQUEST, message, phase=phase, tasks=(e.caller.task,)))
        return bool(why)

    def gave_up(self, e: ev.GaveUp) -> None:
        world = self._run.world(e.caller, e.request)
        attempt = world and self._attempt(world, e, None)
        if not world or not attempt:
            return
        attempt.reporters[e.request] = e.caller.task
        if attempt.undecided:
            self._fail(attempt, replace(e.failure, tasks=e.failure.tasks or (e.caller.task,)))

    def _attempt(self, world: World, e: ev.SaveCall, terms: Ballot | SaveReport | None) -> SaveAttempt | None:
        """Return the save of a call, and begin it if it is new. None: the call is, or will be, answered."""
        run, attempt = self._run, world.attempt
        outcome = world.outcomes.get(e.ordinal)
        if outcome is not None:
            world.saves(e.caller.task, e.ordinal)
            run.reply(e.request, outcome)
            return None
        if attempt and attempt.ordinal == e.ordinal:
            world.saves(e.caller.task, e.ordinal)
            return attempt
        if world.fenced:
            run.refuse(e.request, world.fenced)
            return None
        if not self._is_settled(world, e):
            return None
        last = max(attempt.ordinal if attempt else 0, *world.outcomes, 0)
        if e.ordinal > max(last, world.committed) + LEAP:
            self._refuse_ordinal(e, f"the run is at save {last}")
            return None
        if world.committed < e.ordinal < last:
            if not isinstance(terms, Ballot) and run.leading != world.generation.id:
                # It may have been committed by another coordinator, in an entry that is not seen here yet.
                message = f"what became of save {e.ordinal} is not known here: the others have gone on to save {last}"
                run.refuse(e.request, Failure(Kind.COORDINATOR_UNAVAILABLE, message, phase="commit"))
                return None
            # All committed saves of this world are known, or this worker's part was missing. So this one was not
            # committed, and cannot be any more.
            message = f"the other workers have gone on to save {last} without it"
            failure = Failure(Kind.SAVE_FAILED, message, phase="vote", tasks=(e.caller.task,))
            outcome = SaveOutcome(e.ordinal, False, failure)
            world.saves(e.caller.task, e.ordinal)
            world.remember(outcome)
            run.reply(e.request, outcome)
            return None
        if attempt and attempt.undecided and e.ordinal > attempt.ordinal and e.caller.task not in attempt.reports:
            message = f"{e.caller.task} has gone on to save {e.ordinal} without its part of save {attempt.ordinal}"
            failure = Failure(Kind.SAVE_FAILED, message, phase=attempt.phase.value, tasks=(e.caller.task,))
            run.fail_save(world, attempt, failure)
            attempt = None
        if attempt is None and e.ordinal > last:
            world.saves(e.caller.task, e.ordinal)
            run.saves += 1
            world.attempt = SaveAttempt(
                SaveId(world.generation.id, e.ordinal, run.saves),
                terms.step if terms else -1,
                terms.checkpoint_name if terms else "",
                world.tasks,
                deadline=run.now.monotonic + (terms.timeout if terms else 0.0),
                begun=run.now.monotonic,
                base=terms.base if terms else "",
            )
            return world.attempt
        if attempt and e.ordinal > attempt.ordinal and not attempt.undecided:
            message = f"what became of save {attempt.ordinal} is not known yet: {attempt.reason()}"
            run.refuse(e.request, Failure(Kind.SAVE_FAILED, message, phase="commit"))
            return None
        self._refuse_ordinal(e, f"the run is at save {attempt.ordinal}" if attempt else "that save is over")
        return None

    def _refuse_ordinal(self, e: ev.SaveCall, at: str) -> None:
        message = f"{e.caller.task} speaks of save {e.ordinal}, but {at}; all workers must make the same save() calls"
        self._run.refuse(e.request, Failure(Kind.INVALID_REQUEST, message, phase="vote", tasks=(e.caller.task,)))

    def _is_settled(self, world: World, e: ev.SaveCall) -> bool:
        """Return whether the outcomes of this world's earlier saves are known. If not, the call waits for them.

        Another coordinator process may have led the world. A rejoin alone does not take the lead from it: it may be
        ending in good order, with some of the workers still there.
        """
        if world.unsettled is None:
            return True
        world.unsettled.append(e)
        if len(world.unsettled) == 1:
            self._run.ledger.read(Settle(world.generation.id))
        return False

    def settle(self, wait: Settle, failure: Failure | None) -> None:
        """Go on after the log was read for calls that wait until a world's earlier saves are known."""
        world = self._run.worlds.get(wait.generation)
        if world and world.unsettled is not None and (failure or self._leading.settle(world)):
            self._settled(world, world.unsettled, failure)

    def _settled(self, world: World, calls: list[ev.SaveCall], failure: Failure | None) -> None:
        world.unsettled = [] if failure else None
        for call in calls:
            if failure:
                self._run.refuse(call.request, replace(failure, phase="lead"))
            else:
                self.call(call)

    # -- from phase to phase --

    def _judge(self, world: World, attempt: SaveAttempt) -> None:
        verdict = judge(attempt.ballots)
        if isinstance(verdict, Failure):
            self._run.fail_save(world, attempt, verdict)
        elif isinstance(verdict, NeedSpecs):
            for task in verdict.tasks:
                del attempt.ballots[task]
            for request, task in list(attempt.voters.items()):
                if task in verdict.tasks:
                    del attempt.voters[request]
                    self._run.reply(request, SpecsWanted())
        else:
            self._go(world, attempt, verdict)

    def _go(self, world: World, attempt: SaveAttempt, go: Go) -> None:
        attempt.go = go
        if self._run.leading == world.generation.id:
            self._begin_writing(world, attempt)
        else:
            attempt.advance(Phase.LEADING)
            self._run.ledger.read(Seek(attempt.id))

    def sought(self, wait: Seek, failure: Failure | None) -> None:
        """Go on after the log was read for a save that needs the lead."""
        found = self._run.attempt(wait.save)
        if not found or found[1].phase is not Phase.LEADING:
            return
        world, attempt = found
        if failure and failure.kind is Kind.SUPERSEDED:
            self._run.ledger.read(wait)  # somebody was faster: read what stands there and decide again
        elif failure:
            self._run.fail_save(world, attempt, replace(failure, phase="lead"))
        elif self._run.leading == world.generation.id:
            self._begin_writing(world, attempt)
        else:
            self._leading.consider(world, attempt)

    def led(self, intent: Lead, made: Entry | Failure) -> None:
        """Go on with those who needed a lead entry, now that its result is known."""
        failure = self._leading.took(intent, made)
        world = self._run.worlds.get(intent.generation)
        if intent.save:
            self.sought(Seek(intent.save), failure)
        elif world and world.unsettled is not None:
            if failure and failure.kind is Kind.SUPERSEDED:
                self._run.ledger.read(Settle(intent.generation))
            else:
                self._settled(world, world.unsettled, failure)

    def _begin_writing(self, world: World, attempt: SaveAttempt) -> None:
        attempt.advance(Phase.WRITING)
        assert attempt.go is not None
        attempt.go = replace(attempt.go, log_entry=self._run.ledger.number)
        state = self._run.ledger.state
        if not attempt.reports and state and self._run.is_doubtful(attempt.base, state):
            attempt.base, attempt.go = "", replace(attempt.go, full=True)
        if self._is_without_base(world, attempt):
            return
        self._roll_back(world, attempt)
        self._answer_voters(attempt)
        self._finalize(world, attempt)

    def _is_without_base(self, world: World, attempt: SaveAttempt) -> bool:
        """Return whether a save is a delta on what it cannot be a delta on, and give it up then."""
        state = self._run.ledger.state
        assert state is not None
        failure = self._run.no_base(attempt.prefix, attempt.base, state)
        if failure:
            self._run.fail_save(world, attempt, replace(failure, phase=attempt.phase.value))
        return failure is not None

    def _answer_voters(self, attempt: SaveAttempt) -> None:
        assert attempt.go is not None
        voters, attempt.voters = attempt.voters, {}
        for request in voters:
            self._run.reply(request, attempt.go)

    def _roll_back(self, world: World, attempt: SaveAttempt) -> None:
        """Write into the log what is damaged and what the world went back to, before it writes on from there."""
        run, state = self._run, self._run.ledger.state
        assert state is not None
        marked = state.condemn(run.condemned)
        if marked != state:
            note = ", ".join(marked.damaged[len(state.damaged) :])
            run.ledger.append(Mark(generation=run.leading, note=note))
        back, world.went_back_to = world.went_back_to, ""
        record = state.find(back) if back else None
        if record is None or marked.restorable[-1:] == (record,):
            return
        attempt.went_back_to = back
        run.ledger.append(GoBack(generation=run.leading, note=back, save=attempt.id, prefix=back))

    def went_back(self, intent: GoBack, made: Entry | Failure) -> None:
        """Go on after the result of an entry about a rollback is known."""
        found = self._run.attempt(intent.save)
        if found and isinstance(made, Entry) and made.kind == "restored":
            found[1].went_back_to = ""
        self._run.published(made)

    def _finalize(self, world: World, attempt: SaveAttempt) -> None:
        if attempt.phase is not Phase.WRITING or not attempt.all_reported or self._is_without_base(world, attempt):
            return
        state = self._run.ledger.state
        attempt.advance(Phase.FINALIZING)
        attempt.looked = self._run.now.monotonic
        self._run.emit(
            Finalize(
                world.generation,
                world.cluster,
                attempt.ordinal,
                attempt.step,
                attempt.checkpoint_name,
                tuple(sorted(attempt.reports.items())),
                attempt.ballots[attempt.chief].crcs if attempt.all_voted else None,
                state.find(attempt.base) if state and attempt.base else None,
            )
        )

    def finalized(self, e: ev.Finalized) -> None:
        run = self._run
        world = run.worlds.get(e.generation)
        attempt = world.attempt if world else None
        if not world or not attempt or attempt.ordinal != e.ordinal or attempt.phase is not Phase.FINALIZING:
            return
        if e.failure:
            self._fail(attempt, e.failure)
            return
        attempt.advance(Phase.COMMITTING)
        given = dict(e.metrics)
        record = CheckpointRecord(
            e.prefix,
            attempt.step,
            run.now.wall,
            manifest_crc32c=e.manifest_crc32c,
            metrics=tuple((name, given.get(name)) for name in metrics_of(attempt.retention)),
            base=attempt.base,
        )
        run.ledger.append(Commit(generation=e.generation, note=record.prefix, save=attempt.id, record=record))

    def committed(self, intent: Commit, made: Entry | Failure) -> None:
        """Go on after the result of a commit entry is known."""
        run, found = self._run, self._run.attempt(intent.save)
        if not found or found[1].phase not in (Phase.COMMITTING, Phase.ABORTING):
            return
        world, attempt = found
        if isinstance(made, Failure):
            why = world.fenced if world.fenced and made.kind is Kind.SUPERSEDED else made
            run.end_save(world, attempt, SaveOutcome(attempt.ordinal, False, replace(why, phase="commit")))
        elif made.kind == "abort":
            late = Failure(Kind.SAVE_FAILED, "the commit entry could not be created in time", phase="commit")
            run.end_save(world, attempt, SaveOutcome(attempt.ordinal, False, late))
        else:
            attempt.advance(Phase.PUBLISHING)
            attempt.entry = made
            run.retention = attempt.retention
            run.published(made)

    def _fail(self, attempt: SaveAttempt, failure: Failure) -> None:
        """End a save that could not be written, after looking into the log for the reason: whoever takes the run from a
        job that still writes removes what it has written."""
        if failure.kind is Kind.STORAGE and attempt.phase in (Phase.WRITING, Phase.FINALIZING):
            self._run.ledger.read(Fail(attempt.id, failure))
        else:
            self.failed(Fail(attempt.id, failure))

    def failed(self, wait: Fail, _: Failure | None = None) -> None:
        """Go on after the log was read for a save that could not be written."""
        found = self._run.attempt(wait.save)
        if found and found[1].undecided:
            self._run.fail_save(*found, wait.failure)

    def state_file_written(self, e: ev.StateFileWritten) -> None:
        for world in self._run.worlds.values():
            attempt = world.attempt
            if attempt and attempt.phase is Phase.PUBLISHING and attempt.entry and attempt.entry.number <= e.number:
                self._publish(world, attempt)

    def _publish(self, world: World, attempt: SaveAttempt) -> None:
        self._run.end_save(world, attempt, SaveOutcome(attempt.ordinal, True))

    # -- the clock --

    def watch(self, world: World, gone: set[Task]) -> None:
        """End a save whose time is over, or that lacks the part of somebody who is gone."""
        attempt = world.attempt
        if attempt is None:
            return
        late = self._run.now.monotonic >= attempt.deadline
        if attempt.phase is Phase.PUBLISHING and late:
            # The commit stands in the log. The file is derived, and no reason to refuse the next save.
            self._publish(world, attempt)
        elif attempt.phase is Phase.COMMITTING and late:
            attempt.advance(Phase.ABORTING)
            self._give_up(attempt)
        elif attempt.undecided and late:
            told = last_seen(world, attempt.missing if attempt.waits_for_workers else (), self._run.now.monotonic)
            self._run.fail_save(world, attempt, attempt.timed_out(told))
            self._give_up(attempt)
        elif attempt.phase is Phase.FINALIZING and self._run.now.monotonic - attempt.looked >= LOOK:
            # Whoever has taken the run may have removed the objects: then the workers are told so.
            attempt.looked = self._run.now.monotonic
            self._run.ledger.read(Nobody())
        elif attempt.waits_for_workers:
            lost = tuple(task for task in attempt.missing if task in gone) if gone else ()
            if lost:
                self._run.fail_save(world, attempt, _lost(world, lost, attempt.phase))
                self._give_up(attempt)

    def _give_up(self, attempt: SaveAttempt) -> None:
        """Drop the entries that a save wanted. Its job may be gone; the next one would find the run led by nobody
        alive, or with another newest checkpoint than it has restored."""
        self._run.ledger.give_up(attempt.id, attempt.timed_out())


def _lost(world: World, lost: tuple[Task, ...], phase: Phase) -> Failure:
    left = [task for task in lost if task in world.left]
    how = (
        f"{names(left)} closed its manager" if left else f"{names(lost)} lost (connection gone for {LOST_AFTER:.0f} s)"
    )
    return Failure(Kind.SAVE_FAILED, f"{how} before its part of the save was done", phase=phase.value, tasks=lost)
