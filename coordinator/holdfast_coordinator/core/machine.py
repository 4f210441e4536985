"""The state machine of one run: see the package's docstring for how it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from holdfast_storage.records import CheckpointRecord, Entry, EntryKind, Generation, Leader, LogState, Task

from . import events as ev
from .attempt import Attempt, Phase
from .effects import (
    DeleteFolder,
    Effect,
    Finalize,
    Notify,
    Probe,
    ReadBackCheckpoint,
    Refuse,
    Remark,
    Reply,
    WriteStateFile,
)
from .ledger import Intent, Ledger
from .membership import ALIVE_FOR, LOST_AFTER, POLL, REMEMBERED, Forming, Joiner, World, disagreement
from .restoring import Decision, RestoreTalk
from .retention import sweep
from .values import (
    Answer,
    Apply,
    Ballot,
    Caller,
    Failure,
    Go,
    Left,
    Now,
    Outcome,
    Read,
    Report,
    RequestId,
    RetentionPolicy,
    SpecsWanted,
    Status,
    Waiting,
    names,
)
from .vote import NeedSpecs, judge

UNKNOWN_GENERATION = "unknown_generation"
"""Kind of the refusal that tells a worker to rejoin: this coordinator process has not met its generation."""


class Machine:
    """One run: its worlds of workers, its save on the way, and the lead of its log."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.worlds: dict[str, World] = {}
        self.forming: Forming | None = None
        self.leading = ""  # generation that this coordinator leads the run with
        self.led_since = -1  # number of the entry that took the lead
        self._now = Now(0.0, 0.0)
        self._effects: list[Effect] = []
        self.ledger = Ledger(leader.id, self._emit)
        self._probing: list[tuple[str, World, Attempt]] = []  # by address
        self._policy = RetentionPolicy()
        self._reading_back = ""
        self._deleting: set[str] = set()

    def handle(self, event: ev.Event, now: Now) -> list[Effect]:
        """Take one event; the effects that it has, in the order in which they are to be begun."""
        self._now = Now(now.monotonic, max(now.wall, self._now.wall))
        self._effects = []
        self._HANDLERS[type(event)](self, event)
        return self._effects

    @property
    def busy(self) -> bool:
        """Whether something is going on that an orderly end should wait for."""
        return bool(
            self.ledger.busy or self._reading_back or self._deleting or any(w.attempt for w in self.worlds.values())
        )

    # -- joining --

    def _join(self, e: ev.Join) -> None:
        for world in self.worlds.values():
            if world.has(Caller("", e.task, e.incarnation)):
                if world.joining is None:
                    self._reply(e.request, world.joined())
                else:
                    world.joining.append(e.request)
                return
        forming = self.forming or Forming(e.cluster)
        failure = disagreement(forming, e.task, e.cluster)
        if failure:
            # All hear of it: the others would wait in vain for a worker that can never join them.
            for joiner in forming.joiners.values():
                self._refuse(joiner.request, failure)
            self._refuse(e.request, failure)
            self.forming = None
            return
        self.forming = forming
        before = forming.joiners.get(e.task)
        if before and before.incarnation != e.incarnation:
            self._refuse(before.request, _replaced(e.task))
        elif before and before.request is not None:
            self._reply(before.request, Waiting(forming.missing))
        forming.joiners[e.task] = Joiner(e.incarnation, e.request, self._now.monotonic)
        if forming.is_complete:
            self._form(forming, e.fresh_generation)

    def _form(self, forming: Forming, generation: str) -> None:
        self.forming = None
        world = forming.complete(generation)
        world.joining = [joiner.request for joiner in forming.joiners.values() if joiner.request is not None]
        self._admit(world)

        def then(failure: Failure | None) -> None:
            requests, world.joining = world.joining or [], None
            if failure:
                del self.worlds[generation]
            else:
                world.base = self._fork_point()
            for request in requests:
                if failure:
                    self._refuse(request, failure)
                else:
                    self._reply(request, world.joined())

        self.ledger.read(then)

    def _admit(self, world: World) -> None:
        # Not attached yet is as good as lost: who does not show up soon is not waited for.
        for task in world.tasks:
            world.update(task, lost=self._now.monotonic)
        self.worlds[world.generation.id] = world

    def _rejoin(self, e: ev.Rejoin) -> None:
        known = self.worlds.get(e.caller.generation)
        if known:
            if self._world(e.caller, e.request):
                self._reply(e.request, known.joined())
            return

        def then(failure: Failure | None) -> None:
            state = self.ledger.state
            led = state.generation.id if state and state.generation else ""
            if not failure and led != e.caller.generation and self._fork_point() != e.base:
                failure = _superseded(f"the run has been taken over by generation {led or 'unknown'} since")
            if failure:
                self._refuse(e.request, failure)
                return
            if e.caller.generation not in self.worlds:
                recorded = state.generation if state and led == e.caller.generation else None
                generation = recorded or Generation(e.caller.generation, e.members)
                self._admit(World(generation, e.cluster, base=e.base, unsettled=[]))
            self._rejoin(e)

        self.ledger.read(then)

    def _cancelled(self, e: ev.Cancelled) -> None:
        if self.forming:
            gone = [task for task, joiner in self.forming.joiners.items() if joiner.request == e.request]
            for task in gone:
                del self.forming.joiners[task]
            if not self.forming.joiners:
                self.forming = None

    # -- presence --

    def _attached(self, e: ev.Attached) -> None:
        if world := self._present(e.caller):
            connections = world.presence[e.caller.task].connections + 1
            world.update(e.caller.task, connections=connections, heard=self._now.monotonic, lost=None)

    def _heartbeat(self, e: ev.Heartbeat) -> None:
        if world := self._present(e.caller):
            world.update(
                e.caller.task,
                heard=self._now.monotonic,
                phase=e.phase,
                step=e.step,
                bytes_done=e.bytes_done,
                bytes_total=e.bytes_total,
            )

    def _detached(self, e: ev.Detached) -> None:
        if world := self._present(e.caller):
            # A worker that connects again may do so before the end of its old connection is noticed.
            connections = max(0, world.presence[e.caller.task].connections - 1)
            world.update(e.caller.task, connections=connections, lost=None if connections else self._now.monotonic)

    def _present(self, caller: Caller) -> World | None:
        world = self.worlds.get(caller.generation)
        return world if world and world.has(caller) else None

    def knows(self, caller: Caller) -> bool:
        """Whether a worker is of a world that this coordinator has met."""
        return self._present(caller) is not None

    def _leave(self, e: ev.Leave) -> None:
        world = self._present(e.caller)
        if world:
            world.left.add(e.caller.task)
        if world and e.wait_for_others:
            world.lingering[e.request] = self._now.monotonic + e.wait_for_others
        else:
            self._reply(e.request, Left())
        if world and len(world.left) == len(world.presence):
            self._release_lingering(world)

    def _release_lingering(self, world: World) -> None:
        requests, world.lingering = world.lingering, {}
        for request in requests:
            self._reply(request, Left())

    # -- a save: vote --

    def _vote(self, e: ev.Vote) -> None:
        world = self._world(e.caller, e.request)
        if world is None:
            return
        b = e.ballot
        attempt = self._attempt(world, e, b)
        if attempt is None:
            return
        attempt.voters[e.request] = e.caller.task
        if attempt.phase is Phase.VOTING:
            attempt.ballots[e.caller.task] = b
            attempt.takeover |= b.takeover
            if attempt.all_voted:
                self._judge(world, attempt)
        elif attempt.phase is not Phase.LEADING:
            self._answer_voters(attempt)

    def _attempt(self, world: World, e: ev.SaveCall, terms: Ballot | Report | None) -> Attempt | None:
        """The save that a call is about, begun if it is the first; None if the call is, or will be, answered."""
        attempt = world.attempt
        if e.ordinal in world.outcomes:
            self._reply(e.request, world.outcomes[e.ordinal])
            return None
        if attempt and attempt.ordinal == e.ordinal:
            return attempt
        if world.fenced:
            self._refuse(e.request, world.fenced)
            return None
        if not self._settle(world, e):
            return None
        last = max(attempt.ordinal if attempt else 0, *world.outcomes, 0)
        if world.committed < e.ordinal < last:
            # Every save of this world that was committed is known: this one was not, and cannot be any more.
            message = f"the other workers have gone on to save {last} without it"
            failure = Failure("save_failed", message, phase="vote", tasks=(e.caller.task,))
            world.remember(Outcome(e.ordinal, False, failure))
            self._reply(e.request, world.outcomes[e.ordinal])
            return None
        if attempt and attempt.undecided and e.ordinal > attempt.ordinal and e.caller.task not in attempt.reports:
            message = f"{e.caller.task} has gone on to save {e.ordinal} without its part of save {attempt.ordinal}"
            failure = Failure("save_failed", message, phase=attempt.phase.value, tasks=(e.caller.task,))
            self._fail(world, attempt, failure)
            attempt = None
        if attempt is None and e.ordinal > last:
            world.attempt = Attempt(
                e.ordinal,
                terms.step if terms else -1,
                terms.checkpoint_name if terms else "",
                world.tasks,
                deadline=self._now.monotonic + (terms.timeout if terms else 0.0),
                retention=terms.retention if terms else RetentionPolicy(),
            )
            return world.attempt
        at = f"the run is at save {attempt.ordinal}" if attempt else "that save is over"
        self._refuse(
            e.request,
            Failure(
                "invalid_request",
                f"{e.caller.task} speaks of save {e.ordinal}, but {at}; all workers must make the same save() calls",
                phase="vote",
                tasks=(e.caller.task,),
            ),
        )
        return None

    def _settle(self, world: World, e: ev.SaveCall) -> bool:
        """Whether all that became of this world's earlier saves is known; if not yet, the call waits for it.

        Another coordinator process led the world. What it committed stands in the log, and once this one has taken the
        lead from it, it commits nothing more. A rejoin alone does not take the lead: the other may be ending in good
        order, with some of the workers still there.
        """
        if world.unsettled is None:
            return True
        world.unsettled.append(e)
        if len(world.unsettled) == 1:
            self._read_past(world)
        return False

    def _read_past(self, world: World) -> None:
        def then(failure: Failure | None) -> None:
            state = self.ledger.state
            if failure or state is None:
                settled(failure)
            elif state.generation is None or state.generation.id != world.generation.id:
                if self._fork_point() != world.base:
                    self._fence(world, _superseded(f"generation {_generation(state)} has taken the run over since"))
                settled(None)
            else:
                world.learn(state)
                self._take_lead(world, settled)

        def settled(failure: Failure | None) -> None:
            if failure and failure.kind == "superseded":
                self._read_past(world)
                return
            calls = world.unsettled or []
            world.unsettled = [] if failure else None
            for call in calls:
                if failure:
                    self._refuse(call.request, replace(failure, phase="lead"))
                else:
                    self._HANDLERS[type(call)](self, call)

        self.ledger.read(then)

    def _judge(self, world: World, attempt: Attempt) -> None:
        verdict = judge(attempt.ballots)
        if isinstance(verdict, Failure):
            self._fail(world, attempt, verdict)
        elif isinstance(verdict, NeedSpecs):
            for task in verdict.tasks:
                del attempt.ballots[task]
            for request, task in list(attempt.voters.items()):
                if task in verdict.tasks:
                    del attempt.voters[request]
                    self._reply(request, SpecsWanted())
        else:
            self._go(world, attempt, verdict)

    def _go(self, world: World, attempt: Attempt, go: Go) -> None:
        attempt.go = go
        if self.leading == world.generation.id:
            self._begin_writing(world, attempt)
        else:
            attempt.advance(Phase.LEADING)
            self._lead(world, attempt)

    def _begin_writing(self, world: World, attempt: Attempt) -> None:
        attempt.advance(Phase.WRITING)
        assert attempt.go is not None
        attempt.go = replace(attempt.go, log_entry=self.ledger.number)
        self._roll_back(world)
        self._answer_voters(attempt)
        self._finalize(world, attempt)

    def _answer_voters(self, attempt: Attempt) -> None:
        assert attempt.go is not None
        voters, attempt.voters = attempt.voters, {}
        for request in voters:
            self._reply(request, attempt.go)

    def _roll_back(self, world: World) -> None:
        """Put into the log that the world went back to an older checkpoint, before it writes on from there."""
        back, world.went_back_to = world.went_back_to, ""
        state = self.ledger.state
        if back and state and state.find(back) and state.checkpoints[-1].prefix != back:
            self._append("restored", self.leading, lambda s: s.restored(back), self._published, note=back)

    # -- a save: the lead --

    def _lead(self, world: World, attempt: Attempt) -> None:
        def then(failure: Failure | None) -> None:
            if attempt.phase is not Phase.LEADING:
                return
            if failure:
                self._fail(world, attempt, replace(failure, phase="lead"))
            elif self.leading == world.generation.id:
                self._begin_writing(world, attempt)
            else:
                self._consider_lead(world, attempt)

        self.ledger.read(then)

    def _consider_lead(self, world: World, attempt: Attempt) -> None:
        """Take the lead unless another job is at work here. The check spares mistakes; safety is the log's alone."""
        state = self.ledger.state
        assert state is not None
        world.learn(state)
        if world.committed >= attempt.ordinal:
            # This very world has been going on with another coordinator process.
            if world.committed == attempt.ordinal:
                self._end(world, attempt, world.outcomes[attempt.ordinal])
            else:
                self._hand_over(world)
            return
        rival, reign = state.leader, state.generation
        restarted = reign is not None and reign.id == world.generation.id
        if attempt.takeover or restarted or rival is None or reign is None or world.same_processes(reign):
            self._lead_attempt(world, attempt)
        elif rival.id == self.leader.id:
            other = self.worlds.get(reign.id)
            living = other.living(self._now.monotonic) if other else ()
            self._decide_lead(world, attempt, rival.address, names(living))
        elif rival.address:
            self._probing.append((rival.address, world, attempt))
            self._emit(Probe(rival.address, rival.host))
        else:
            self._decide_lead(world, attempt, rival.address, "")

    def _probed(self, e: ev.Probed) -> None:
        asking = [(world, attempt) for address, world, attempt in self._probing if address == e.address]
        self._probing = [asked for asked in self._probing if asked[0] != e.address]
        for world, attempt in asking:
            if attempt.phase is Phase.LEADING:
                self._decide_lead(world, attempt, e.address, e.living)

    def _decide_lead(self, world: World, attempt: Attempt, address: str, living: str) -> None:
        state = self.ledger.state
        if living:
            failure = Failure(
                "invalid_request",
                f"another training job is running on this directory: its coordinator at {address or 'this process'} "
                f"has living workers ({living}). End that job, use another directory, or pass takeover=True",
                phase="lead",
            )
            self._fail(world, attempt, failure)
        elif self._fork_point() != world.base:
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else "nothing"
            failure = _superseded(
                "the run has moved on since this job restored its state: generation "
                f"{_generation(state)} leads it and its newest checkpoint is {newest}. Restart this job to go on from "
                "there"
            )
            self._fail(world, attempt, failure)
        else:
            self._lead_attempt(world, attempt)

    def _lead_attempt(self, world: World, attempt: Attempt) -> None:
        """Take the lead for a save that waits for it."""

        def then(failure: Failure | None) -> None:
            if attempt.phase is not Phase.LEADING:
                return
            if failure is None:
                self._begin_writing(world, attempt)
            elif failure.kind == "superseded":
                self._lead(world, attempt)  # somebody was faster: read what stands there and consider again
            else:
                self._fail(world, attempt, replace(failure, phase="lead"))

        self._take_lead(world, then)

    def _take_lead(self, world: World, then: Callable[[Failure | None], None]) -> None:
        """Create a lead entry on top of the state last read. "superseded": somebody else was faster."""

        def change(state: LogState) -> LogState:
            # As TensorFlow: where the clock was set back, what was preserved in its future does not count.
            preserved = self._now.wall if state.last_preserved is None else min(state.last_preserved, self._now.wall)
            return replace(state.lead(self.leader, world.generation), last_preserved=preserved)

        def done(entry: Entry | Failure) -> None:
            if isinstance(entry, Failure):
                then(entry)
                return
            self._fence_others(world)
            if self.leading != world.generation.id:
                self._policy = RetentionPolicy()
            self.leading, self.led_since = world.generation.id, entry.number
            self._emit(WriteStateFile(entry))
            self._delete(entry.state)
            then(None)

        generation = world.generation.id
        if self.ledger.number < 0:
            self._append("import", generation, lambda state: state, lambda _: None, note="first entry")
        self._append("lead", generation, change, done, note=f"generation {generation}")

    def _fence_others(self, world: World) -> None:
        for other in self.worlds.values():
            if other is not world and self.leading == other.generation.id:
                self._fence(other, _superseded(f"generation {world.generation.id} leads the run now"))

    def _fence(self, world: World, failure: Failure) -> None:
        world.fenced = failure
        if world.attempt and world.attempt.undecided:
            self._end(world, world.attempt, Outcome(world.attempt.ordinal, False, failure))
        for task, presence in world.presence.items():
            if presence.attached:
                self._emit(Notify(Caller(world.generation.id, task, presence.incarnation), failure))

    def _hand_over(self, world: World) -> None:
        """Another coordinator process goes on with this very world: what becomes of its calls is known there alone."""
        del self.worlds[world.generation.id]
        attempt = world.attempt
        if attempt and attempt.phase is Phase.PUBLISHING:
            self._end(world, attempt, Outcome(attempt.ordinal, True))
        elif attempt:
            attempt.advance(Phase.FAILED)
            world.attempt = None
            for request in (*attempt.voters, *attempt.reporters):
                self._refuse(request, _unknown(world.generation.id))
        for talk in world.talks.values():
            for request in talk.waiting:
                self._refuse(request, _unknown(world.generation.id))
        self._release_lingering(world)

    # -- a save: reports and the commit --

    def _reported(self, e: ev.Reported) -> None:
        world = self._world(e.caller, e.request)
        if world is None:
            return
        r = e.report
        attempt = self._attempt(world, e, r)
        if attempt is None:
            return
        attempt.reports.setdefault(e.caller.task, r)
        attempt.reporters[e.request] = e.caller.task
        if attempt.go is None:
            # This coordinator was restarted: the report shows that the vote had passed.
            self._go(world, attempt, Go(local=r.local))
        else:
            self._finalize(world, attempt)

    def _gave_up(self, e: ev.GaveUp) -> None:
        world = self._world(e.caller, e.request)
        attempt = world and self._attempt(world, e, None)
        if not world or not attempt:
            return
        attempt.reporters[e.request] = e.caller.task
        if attempt.undecided:
            self._fail(world, attempt, replace(e.failure, tasks=e.failure.tasks or (e.caller.task,)))

    def _finalize(self, world: World, attempt: Attempt) -> None:
        if attempt.phase is not Phase.WRITING or not attempt.all_reported:
            return
        attempt.advance(Phase.FINALIZING)
        self._emit(
            Finalize(
                world.generation,
                world.cluster,
                attempt.ordinal,
                attempt.step,
                attempt.checkpoint_name,
                tuple(sorted(attempt.reports.items())),
            )
        )

    def _finalized(self, e: ev.Finalized) -> None:
        world = self.worlds.get(e.generation)
        attempt = world.attempt if world else None
        if not world or not attempt or attempt.ordinal != e.ordinal or attempt.phase is not Phase.FINALIZING:
            return
        if e.failure:
            self._fail(world, attempt, e.failure)
            return
        attempt.advance(Phase.COMMITTING)
        record = CheckpointRecord(e.prefix, attempt.step, self._now.wall, manifest_crc32c=e.manifest_crc32c)

        def done(entry: Entry | Failure) -> None:
            if attempt.phase not in (Phase.COMMITTING, Phase.ABORTING):
                return
            if isinstance(entry, Failure):
                self._end(world, attempt, Outcome(attempt.ordinal, False, replace(entry, phase="commit")))
                return
            if entry.kind == "abort":
                late = Failure("save_failed", "the commit entry could not be created in time", phase="commit")
                self._end(world, attempt, Outcome(attempt.ordinal, False, late))
                return
            attempt.advance(Phase.PUBLISHING)
            attempt.entry = entry
            self._policy = attempt.retention
            self._emit(WriteStateFile(entry))

        attempt.intent = self._append("commit", e.generation, lambda s: s.commit(record), done, note=record.prefix)

    def _state_file_written(self, e: ev.StateFileWritten) -> None:
        for world in self.worlds.values():
            attempt = world.attempt
            if attempt and attempt.phase is Phase.PUBLISHING and attempt.entry and attempt.entry.number <= e.number:
                self._end(world, attempt, Outcome(attempt.ordinal, True))
                self._consider_retention()

    def _fail(self, world: World, attempt: Attempt, failure: Failure) -> None:
        if failure.kind not in ("superseded", "replica_divergence", "invalid_request", "storage"):
            failure = replace(failure, kind="save_failed")
        self._end(world, attempt, Outcome(attempt.ordinal, False, failure))

    def _end(self, world: World, attempt: Attempt, outcome: Outcome) -> None:
        attempt.advance(Phase.COMMITTED if outcome.committed else Phase.FAILED)
        world.attempt = None
        world.remember(outcome)
        calls = {**attempt.voters, **attempt.reporters}
        for request in calls:
            self._reply(request, outcome)
        answered = set(calls.values())
        if outcome.failure:
            for task, presence in world.presence.items():
                if presence.attached and task not in answered:
                    caller = Caller(world.generation.id, task, presence.incarnation)
                    self._emit(Notify(caller, outcome.failure, outcome.ordinal))

    # -- after a commit: retention --

    def _consider_retention(self) -> None:
        state = self.ledger.state
        if not state or not state.checkpoints or self._reading_back or not self.leading:
            return
        newest = state.checkpoints[-1]
        if not newest.stock and sweep(state, self._policy, newest.prefix):
            self._reading_back = newest.prefix
            self._emit(ReadBackCheckpoint(newest))

    def _read_back(self, e: ev.ReadBack) -> None:
        self._reading_back = ""
        state = self.ledger.state
        if not e.good:
            self._emit(
                Remark(f"{e.prefix} was committed but could not be read back: nothing that it replaces is removed")
            )
            return
        if not self.leading or state is None or not sweep(state, self._policy, e.prefix):
            return

        def change(s: LogState) -> LogState:
            plan = sweep(s, self._policy, e.prefix)
            return s.retire(plan.retire, plan.preserve, plan.last_preserved)

        def done(entry: Entry | Failure) -> None:
            if isinstance(entry, Entry):
                self._published(entry)
                self._delete(entry.state)
                self._consider_retention()

        self._append("retire", self.leading, change, done, note=f"replaced by {e.prefix}")

    def _published(self, entry: Entry | Failure) -> None:
        if isinstance(entry, Entry):
            self._emit(WriteStateFile(entry))

    def _delete(self, state: LogState) -> None:
        for folder in state.retired:
            if folder not in self._deleting:
                self._deleting.add(folder)
                self._emit(DeleteFolder(folder))

    def _deleted(self, e: ev.Deleted) -> None:
        self._deleting.discard(e.folder)
        if e.done:
            self.ledger.deleted(e.folder)

    # -- restoring --

    def _restore(self, e: ev.Restore) -> None:
        world = self._world(e.caller, e.request)
        if world is None:
            return
        talk = world.talks.get(e.ordinal)
        if talk is None and world.fenced:
            self._refuse(e.request, world.fenced)
            return
        if talk is None and e.ordinal < max(world.talks, default=0):
            self._refuse(e.request, Failure("invalid_request", f"restore {e.ordinal} is over", phase="restore"))
            return
        talk = talk or self._begin_talk(world, e)
        if e.target != talk.target:
            failure = Failure(
                "invalid_request",
                f"the workers do not restore the same checkpoint: {e.caller.task} asks for "
                f"{e.target or 'the newest'!r}, others for {talk.target or 'the newest'!r}",
                phase="restore",
                tasks=(e.caller.task,),
            )
            self._refuse(e.request, failure)
            if talk.decision is None:
                talk.decision = failure
                self._announce(talk, failure)
            return
        talk.waiting[e.request] = e.caller.task
        if talk.decision is not None:
            self._announce(talk, talk.decision)
        elif talk.candidates is not None:
            if e.prefix != talk.current.prefix:
                del talk.waiting[e.request]
                self._reply(e.request, Read(talk.current))
            else:
                decision = talk.hear(e.caller.task, e.verdict, e.reason)
                if decision is not None:
                    self._decide_restore(world, talk, decision)

    def _begin_talk(self, world: World, e: ev.Restore) -> RestoreTalk:
        for earlier in world.talks.values():
            if earlier.decision is None:
                message = f"{e.caller.task} has gone on to restore {e.ordinal}"
                earlier.decision = Failure("invalid_request", message, phase="restore", tasks=(e.caller.task,))
                self._announce(earlier, earlier.decision)
        talk = RestoreTalk(e.ordinal, e.target, world.tasks, deadline=self._now.monotonic + e.timeout)
        world.talks[e.ordinal] = talk
        for ordinal in sorted(world.talks)[:-REMEMBERED]:
            del world.talks[ordinal]

        def then(failure: Failure | None) -> None:
            if failure and talk.decision is None:
                talk.decision = replace(failure, phase="restore")
            if talk.decision is None:
                self._decide_restore(world, talk, talk.propose(self.ledger.state) or Read(talk.current))
            else:
                self._announce(talk, talk.decision)

        self.ledger.read(then)
        return talk

    def _decide_restore(self, world: World, talk: RestoreTalk, decision: Decision) -> None:
        if isinstance(decision, Apply):
            state = self.ledger.state
            ours = state.find(decision.record.prefix) if state and decision.record else None
            newest = state.checkpoints[-1] if state and state.checkpoints else None
            world.base = talk.base
            world.went_back_to = ours.prefix if ours and ours != newest else ""
        self._announce(talk, decision)

    def _announce(self, talk: RestoreTalk, decision: Decision) -> None:
        waiting, talk.waiting = talk.waiting, {}
        for request in waiting:
            if isinstance(decision, Failure):
                self._refuse(request, decision)
            else:
                self._reply(request, decision)

    # -- the clock --

    def _tick(self, _: ev.Tick) -> None:
        if self.forming:
            self._poll_joiners(self.forming)
        for world in list(self.worlds.values()):
            gone = world.gone(self._now.monotonic)
            all_gone = len(gone) == len(world.presence)
            self._watch_attempt(world, gone)
            self._watch_talks(world, gone)
            if all_gone:
                self._release_lingering(world)
            for request, until in list(world.lingering.items()):
                if self._now.monotonic >= until:
                    del world.lingering[request]
                    self._reply(request, Left())
            over = world.fenced or world.generation.id != self.leading
            if over and all_gone and not (world.attempt or world.unsettled) and world.joining is None:
                del self.worlds[world.generation.id]
        self.ledger.retry(self._now)

    def _poll_joiners(self, forming: Forming) -> None:
        missing = forming.missing
        for task, joiner in list(forming.joiners.items()):
            waited = self._now.monotonic - joiner.since
            if joiner.request is not None and waited >= POLL:
                self._reply(joiner.request, Waiting(missing))
                joiner.request, joiner.since = None, self._now.monotonic
            elif joiner.request is None and waited >= ALIVE_FOR:
                del forming.joiners[task]
        if not forming.joiners:
            self.forming = None

    def _watch_attempt(self, world: World, gone: set[Task]) -> None:
        attempt = world.attempt
        if attempt is None:
            return
        late = self._now.monotonic >= attempt.deadline
        if attempt.phase is Phase.COMMITTING and late:
            attempt.advance(Phase.ABORTING)
            assert attempt.intent is not None
            self.ledger.give_up(attempt.intent, attempt.timed_out())
        elif attempt.undecided and late:
            self._fail(world, attempt, attempt.timed_out())
        elif attempt.phase in (Phase.VOTING, Phase.WRITING):
            lost = tuple(task for task in attempt.missing if task in gone) if gone else ()
            if lost:
                self._fail(world, attempt, self._lost(world, lost, attempt.phase))

    def _lost(self, world: World, lost: tuple[Task, ...], phase: Phase) -> Failure:
        left = [task for task in lost if task in world.left]
        how = (
            f"{names(left)} closed its manager"
            if left
            else f"{names(lost)} lost (connection gone for {LOST_AFTER:.0f} s)"
        )
        return Failure("save_failed", f"{how} before its part of the save was done", phase=phase.value, tasks=lost)

    def _watch_talks(self, world: World, gone: set[Task]) -> None:
        talk = next(reversed(world.talks.values()), None)
        if talk is None or talk.decision is not None:
            return
        lost = tuple(task for task in talk.missing if task in gone) if gone else ()
        if lost:
            message = f"{names(lost)} went away while the workers agreed on what to restore"
            talk.decision = Failure("coordinator_unavailable", message, phase="restore", tasks=lost)
        elif self._now.monotonic >= talk.deadline:
            talk.decision = talk.timed_out()
        if talk.decision:
            self._announce(talk, talk.decision)

    # -- answers --

    def _ask(self, e: ev.Ask) -> None:
        now = self._now.monotonic
        world = self.worlds.get(self.leading) or next(reversed(self.worlds.values()), None)
        attempt = world.attempt if world else None
        reason = "no worker has joined"
        if attempt:
            reason = attempt.reason()
        elif self.forming:
            reason = f"waiting for {names(self.forming.missing)} to join"
        elif world:
            reason = "no save is in flight"
        state = self.ledger.state
        self._reply(
            e.request,
            Status(
                state.run_id if state else "",
                world.cluster if world else (),
                world.generation.id if world else "",
                tuple((p, world.alive(task, now)) for task, p in world.presence.items()) if world else (),
                attempt.phase.value if attempt else "",
                attempt.step if attempt else 0,
                reason,
            ),
        )

    def _world(self, caller: Caller, request: RequestId) -> World | None:
        """The caller's world, if it is of it; otherwise the call has been refused.

        It may be fenced: what it has been told once, it is told again, but nothing new begins in it.
        """
        world = self.worlds.get(caller.generation)
        if world is None:
            self._refuse(request, _unknown(caller.generation))
        elif not world.has(caller):
            self._refuse(request, _replaced(caller.task))
        else:
            return world
        return None

    def _appended(self, e: ev.Appended) -> None:
        if e.taken_by:
            self._meet(e.taken_by)
        self.ledger.was_appended(e, self._now)

    def _log_read(self, e: ev.LogRead) -> None:
        if e.entry:
            self._meet(e.entry)
        self.ledger.was_read(e)

    def _meet(self, entry: Entry) -> None:
        """An entry of the log was seen: if somebody newer leads, this coordinator leads no more."""
        leader = entry.state.leader
        if self.leading and leader and leader.id != self.leader.id and entry.number > self.led_since:
            world, self.leading = self.worlds.get(self.leading), ""
            if world and _generation(entry.state) == world.generation.id:
                self._hand_over(world)
            elif world and not world.fenced:
                at = leader.address or leader.host
                self._fence(world, _superseded(f"a newer leader (coordinator at {at}) has taken the run"))

    def _append(
        self,
        kind: EntryKind,
        generation: str,
        change: Callable[[LogState], LogState],
        done: Callable[[Entry | Failure], None],
        *,
        note: str,
    ) -> Intent:
        intent = Intent(kind, change, done, generation, note, base=self._fork_point())
        self.ledger.append(intent, self._now)
        return intent

    def _fork_point(self) -> str:
        return self.ledger.state.fork_point if self.ledger.state else ""

    def _reply(self, request: RequestId, answer: Answer) -> None:
        self._emit(Reply(request, answer))

    def _refuse(self, request: RequestId | None, failure: Failure) -> None:
        if request is not None:
            self._emit(Refuse(request, failure))

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    _HANDLERS: ClassVar[dict[type, Callable[[Machine, Any], None]]] = {
        ev.Join: _join,
        ev.Rejoin: _rejoin,
        ev.Vote: _vote,
        ev.Reported: _reported,
        ev.GaveUp: _gave_up,
        ev.Restore: _restore,
        ev.Leave: _leave,
        ev.Ask: _ask,
        ev.Cancelled: _cancelled,
        ev.Attached: _attached,
        ev.Heartbeat: _heartbeat,
        ev.Detached: _detached,
        ev.LogRead: _log_read,
        ev.Appended: _appended,
        ev.Probed: _probed,
        ev.Finalized: _finalized,
        ev.StateFileWritten: _state_file_written,
        ev.ReadBack: _read_back,
        ev.Deleted: _deleted,
        ev.Tick: _tick,
    }


def _generation(state: LogState | None) -> str:
    return state.generation.id if state and state.generation else ""


def _unknown(generation: str) -> Failure:
    return Failure(UNKNOWN_GENERATION, f"generation {generation} is not known here")


def _replaced(task: Task) -> Failure:
    return Failure("superseded", f"a newer process of {task} has taken its place", phase="join", tasks=(task,))


def _superseded(why: str) -> Failure:
    return Failure("superseded", f"{why}; this manager can save nothing any more", phase="lead")
