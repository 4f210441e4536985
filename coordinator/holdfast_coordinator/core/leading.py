"""Who leads the run: the first save of a world takes the lead from whoever had it, by an entry in the log.

What is considered before spares people mistakes (two jobs on one directory, a job that comes back to a run that has
moved on). Safety is the log's alone: whoever does not lead cannot create the next entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holdfast_storage.cluster import names
from holdfast_storage.records import Entry, LogState

from . import events as ev
from .attempt import Attempt, Phase
from .effects import Probe, Remark
from .ledger import Intent
from .membership import World
from .messages import Failure, Outcome, RetentionPolicy
from .run import Run, generation_of, superseded, unknown
from .upkeep import Upkeep


class Leading:
    """Keeps `Run.leading`, and fences the worlds that have lost it."""

    def __init__(self, run: Run, upkeep: Upkeep) -> None:
        self._run = run
        self._upkeep = upkeep
        self._probing: list[tuple[str, Callable[[str], None]]] = []  # by address

    # -- for a save that needs the lead --

    def seek(self, world: World, attempt: Attempt, won: Callable[[], None]) -> None:
        """Have a save go on with `won` once its world leads; otherwise it is ended."""

        def then(failure: Failure | None) -> None:
            if attempt.phase is not Phase.LEADING:
                return
            if failure:
                self._run.fail_save(world, attempt, replace(failure, phase="lead"))
            elif self._run.leading == world.generation.id:
                won()
            else:
                self._consider(world, attempt, won)

        self._run.ledger.read(then)

    def _consider(self, world: World, attempt: Attempt, won: Callable[[], None]) -> None:
        """Take the lead unless another job is at work here."""
        run, state = self._run, self._run.ledger.state
        assert state is not None
        world.learn(state)
        if world.committed >= attempt.ordinal:
            # This very world has been going on with another coordinator process.
            if world.committed == attempt.ordinal:
                run.end_save(world, attempt, world.outcomes[attempt.ordinal])
            else:
                self._hand_over(world)
            return
        if self._is_elsewhere(world):
            self._hand_over(world)
            return
        if self._is_over(world):
            return
        rival, reign = state.leader, state.generation
        restarted = reign is not None and reign.id == world.generation.id
        if attempt.takeover or restarted or rival is None or reign is None or world.same_processes(reign):
            self._take_for(world, attempt, won)
        else:
            address = rival.address
            self.ask_who_lives(lambda living: self._decide(world, attempt, won, address, living))

    def ask_who_lives(self, then: Callable[[str], None]) -> None:
        """Call `then` with the names of the living workers of the generation that leads by the log; empty for none."""
        run, state = self._run, self._run.ledger.state
        rival, reign = (state.leader, state.generation) if state else (None, None)
        if rival is None or reign is None:
            then("")
        elif rival.id == run.leader.id:
            world = run.worlds.get(reign.id)
            then(names(world.living(run.now.monotonic)) if world else "")
        elif rival.address:
            self._probing.append((rival.address, then))
            run.emit(Probe(rival.address, rival.host, reign.id))
        else:
            then("")

    def probed(self, e: ev.Probed) -> None:
        asking = [asked for asked in self._probing if asked[0] == e.address]
        self._probing = [asked for asked in self._probing if asked[0] != e.address]
        for _, then in asking:
            then(e.living)

    def _decide(self, world: World, attempt: Attempt, won: Callable[[], None], address: str, living: str) -> None:
        state = self._run.ledger.state
        if attempt.phase is not Phase.LEADING:
            return
        if living:
            failure = Failure(
                "invalid_request",
                f"another training job is running on this directory: its coordinator at {address or 'this process'} "
                f"has living workers ({living}). End that job, use another directory, or pass takeover=True",
                phase="lead",
            )
            self._run.fail_save(world, attempt, failure)
        elif self._run.fork_point != world.base:
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else "nothing"
            failure = superseded(
                "the run has moved on since this job restored its state: generation "
                f"{generation_of(state)} leads it and its newest checkpoint is {newest}. Restart this job to go on "
                "from there"
            )
            self._run.fail_save(world, attempt, failure)
        else:
            self._take_for(world, attempt, won)

    def _take_for(self, world: World, attempt: Attempt, won: Callable[[], None]) -> None:
        def then(failure: Failure | None) -> None:
            if attempt.phase is not Phase.LEADING:
                return
            if failure is None:
                won()
            elif failure.kind == "superseded":
                self.seek(world, attempt, won)  # somebody was faster: read what stands there and consider again
            else:
                self._run.fail_save(world, attempt, replace(failure, phase="lead"))

        attempt.intents.append(self._take(world, then))

    # -- for a world that was led by another coordinator process --

    def settle(self, world: World, settled: Callable[[Failure | None], None]) -> None:
        """Have it known what became of a world's earlier saves, then call `settled`.

        What another coordinator process committed stands in the log, and once this one has taken the lead from it, it
        commits nothing more.
        """

        def then(failure: Failure | None) -> None:
            state = self._run.ledger.state
            if failure or state is None:
                done(failure)
                return
            world.learn(state)
            if self._is_elsewhere(world):
                self._hand_over(world)
                done(unknown(world.generation.id))
            elif generation_of(state) != world.generation.id:
                if not self._is_over(world) and self._run.fork_point != world.base:
                    why = f"generation {generation_of(state)} has taken the run over since"
                    self._fence(world, superseded(why))
                done(None)
            else:
                self._take(world, done)

        def done(failure: Failure | None) -> None:
            if failure and failure.kind == "superseded":
                self.settle(world, settled)
            else:
                settled(failure)

        self._run.ledger.read(then)

    def _is_elsewhere(self, world: World) -> bool:
        """Whether yet another coordinator process has led this very world since its workers told this one who they are.

        What that one has told them, this one does not know: a report that it holds may be of a save that is over. So it
        has them begin again, and repeat what they still wait for.
        """
        state = self._run.ledger.state
        if state is None or state.leader is None or generation_of(state) != world.generation.id:
            return False
        return state.leader.id not in (self._run.leader.id, world.led_by)

    def _is_over(self, world: World) -> bool:
        """Whether a world has led and lost the lead; it is then fenced. What it left behind may be deleted by now."""
        state = self._run.ledger.state
        over = state is not None and world.generation.id in state.superseded
        if over:
            self._fence(world, superseded(f"generation {generation_of(state)} has taken the run over since"))
        return over

    # -- taking and losing it --

    def _take(self, world: World, then: Callable[[Failure | None], None]) -> Intent:
        """Create a lead entry on top of the state last read. "superseded": somebody else was faster."""
        run = self._run

        def change(state: LogState) -> LogState:
            # As TensorFlow: where the clock was set back, what was preserved in its future does not count.
            preserved = run.now.wall if state.last_preserved is None else min(state.last_preserved, run.now.wall)
            return replace(state.lead(run.leader, world.generation), last_preserved=preserved)

        def done(entry: Entry | Failure) -> None:
            if isinstance(entry, Failure):
                then(entry)
                return
            if entry.kind == "abort":
                then(Failure("save_failed", "the lead entry could not be created in time"))
                return
            for other in run.worlds.values():
                if other is not world and run.leading == other.generation.id:
                    self._fence(other, superseded(_why_over(other, world)))
            if run.leading != world.generation.id:
                self._upkeep.policy = RetentionPolicy()
            run.leading, run.led_since = world.generation.id, entry.number
            run.published(entry)
            self._upkeep.delete(entry.state)
            self._upkeep.look_for_orphans(entry)
            then(None)

        generation = world.generation.id
        if run.ledger.number < 0:
            run.append("import", generation, lambda state: state, lambda _: None, note="first entry")
        return run.append("lead", generation, change, done, note=f"generation {generation}")

    def meet(self, entry: Entry) -> None:
        """An entry of the log was seen: if somebody newer leads, this coordinator leads no more."""
        run, leader = self._run, entry.state.leader
        if run.leading and leader and leader.id != run.leader.id and entry.number > run.led_since:
            world, run.leading = run.worlds.get(run.leading), ""
            if world and generation_of(entry.state) == world.generation.id:
                self._hand_over(world)
            elif world and not world.fenced:
                at = leader.address or leader.host
                self._fence(world, superseded(f"a newer leader (coordinator at {at}) has taken the run"))

    def _fence(self, world: World, failure: Failure) -> None:
        world.fenced = failure
        self._run.emit(Remark(f"generation {world.generation.id}: {failure.message}"))
        if world.attempt and world.attempt.undecided:
            self._run.end_save(world, world.attempt, Outcome(world.attempt.ordinal, False, failure))
        self._run.notify(world, failure)

    def _hand_over(self, world: World) -> None:
        """Another coordinator process goes on with this very world: what becomes of its calls is known there alone."""
        run = self._run
        del run.worlds[world.generation.id]
        attempt = world.attempt
        if attempt and attempt.phase is Phase.PUBLISHING:
            run.end_save(world, attempt, Outcome(attempt.ordinal, True))
        elif attempt:
            attempt.advance(Phase.FAILED)
            world.attempt = None
            for request in (*attempt.voters, *attempt.reporters):
                run.refuse(request, unknown(world.generation.id))
        for talk in world.talks.values():
            waiting, talk.waiting = talk.waiting, {}
            for request in waiting:
                run.refuse(request, unknown(world.generation.id))
        run.release(world)


def _why_over(before: World, after: World) -> str:
    """Why a world has lost the lead to another of the same coordinator."""
    if before.same_processes(after.generation):
        return (
            "another manager of this program has saved into the same directory since, and leads the run now; a run is "
            "saved by one manager at a time: give each a directory of its own, such as RUN/latest and RUN/best"
        )
    return f"generation {after.generation.id} leads the run now"
