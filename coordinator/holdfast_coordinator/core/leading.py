"""The lead of a run: the first save of a world takes it from whoever had it, with an entry in the log.

The checks before that protect people from mistakes (two jobs in one directory, a job that comes back to a run that has
moved on). Safety comes from the log alone: whoever does not lead cannot create the next entry.
"""

from __future__ import annotations

from holdfast_storage.cluster import listed
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, Generation, rollback_of

from . import events as ev
from .attempt import Phase, SaveAttempt
from .effects import Probe, Remark
from .intents import Import, Lead
from .membership import World
from .messages import SaveOutcome
from .run import RunState, generation_of, superseded, taken, unknown
from .upkeep import Upkeep
from .waits import ForALeader, Seek


class Leading:
    """Keeps `RunState.leading`, and fences the worlds that have lost it."""

    def __init__(self, run: RunState, upkeep: Upkeep) -> None:
        self._run = run
        self._upkeep = upkeep

    # -- before a save takes the lead --

    def consider(self, world: World, attempt: SaveAttempt) -> None:
        """Let a save's world take the lead. If another job is alive here, end the save instead."""
        run, state = self._run, self._run.ledger.state
        assert state is not None
        world.learn(state)
        if world.committed >= attempt.ordinal:
            # This very world has gone on with another coordinator process.
            if world.committed == attempt.ordinal:
                run.end_save(world, attempt, world.outcomes[attempt.ordinal])
            else:
                self.hand_over(world)
            return
        if self.is_elsewhere(world):
            self.hand_over(world)
            return
        if self.is_over(world):
            return
        rival, reign = state.leader, state.generation
        restarted = reign is not None and reign.id == world.generation.id
        if attempt.takeover and not restarted and run.fork_point != world.fork_point:
            world.went_back_to = ""  # what others have committed since it restored is not its to give up
        if attempt.takeover or restarted or rival is None or reign is None or world.same_processes(reign):
            self.take(world, attempt)
        elif (living := self.who_lives(Seek(attempt.id))) is not None:
            self._decide(world, attempt, rival.address, living)

    def who_lives(self, wait: ForALeader) -> tuple[str, ...] | None:
        """Return the living workers of the generation that leads by the log, by name. Return None while its
        coordinator is being asked; `wait` goes on when the answer is known."""
        run, state = self._run, self._run.ledger.state
        rival, reign = (state.leader, state.generation) if state else (None, None)
        if rival is None or reign is None:
            return ()
        if rival.id == run.leader.id:
            world = run.worlds.get(reign.id)
            return tuple(map(str, world.living(run.now.monotonic))) if world else ()
        if not rival.address:
            return ()
        run.asking.append((rival.address, wait))
        run.emit(Probe(rival.address, rival.host, reign.id))
        return None

    def probed(self, e: ev.Probed) -> list[ForALeader]:
        """Take another leader's answer, and return who has waited for it."""
        run = self._run
        waited = [wait for address, wait in run.asking if address == e.address]
        run.asking = [asked for asked in run.asking if asked[0] != e.address]
        return waited

    def told(self, wait: Seek, e: ev.Probed) -> None:
        """Go on with a save for which another leader was asked."""
        found = self._run.attempt(wait.save)
        if found and found[1].phase is Phase.LEADING:
            self._decide(*found, e.address, e.living)

    def _decide(self, world: World, attempt: SaveAttempt, address: str, living: tuple[str, ...]) -> None:
        state = self._run.ledger.state
        own = world.shares(state.generation) if state and state.generation else set()
        if strangers := [name for name in living if name not in own]:
            failure = Failure(
                Kind.INVALID_REQUEST,
                f"another training job is running on this directory: its coordinator at {address or 'this process'} "
                f"has living workers ({listed(strangers)}). End that job, use another directory, or pass takeover=True",
                phase="lead",
            )
            self._run.fail_save(world, attempt, failure)
        elif self._run.fork_point != world.fork_point:
            newest = state.checkpoints[-1].prefix if state and state.checkpoints else "nothing"
            failure = superseded(
                "the run has moved on since this job restored its state: generation "
                f"{generation_of(state)} leads it and its newest checkpoint is {newest}. Restart this job to go on "
                "from there"
            )
            self._run.fail_save(world, attempt, failure)
        else:
            self.take(world, attempt)

    # -- for a world that was led by another coordinator process --

    def settle(self, world: World) -> bool:
        """Return whether the outcomes of a world's earlier saves are all known. If not, take the lead, or hand it over.

        What another coordinator process has committed stands in the log. Once this one has taken the lead from it, it
        commits nothing more.
        """
        state = self._run.ledger.state
        if state is None:
            return True
        world.learn(state)
        if self.is_elsewhere(world):
            self.hand_over(world)
            return False
        if generation_of(state) == world.generation.id:
            self.take(world, None)
            return False
        if not self.is_over(world) and self._run.fork_point != world.fork_point:
            self._fence(world, superseded(taken(state)))
        return True

    def is_elsewhere(self, world: World) -> bool:
        """Return whether another coordinator process has led this very world since its workers joined this one.

        This one does not know what that one has told them: a report that it holds may belong to a save that is over. So
        it lets the workers begin again and repeat what they still wait for.
        """
        state = self._run.ledger.state
        if state is None or state.leader is None or generation_of(state) != world.generation.id:
            return False
        return state.leader.id not in (self._run.leader.id, world.led_by)

    def is_over(self, world: World) -> bool:
        """Return whether a world can lead no more, and fence it then.

        It has led and lost the lead, and what it left may be deleted by now. Or people have rolled the run back since
        it began, and what it holds is what they gave up, so not even a takeover counts. Or the run is elsewhere.
        """
        state = self._run.ledger.state
        if state is None:
            return False
        given_up = rollback_of(state.fork_point) != rollback_of(world.fork_point)
        over = world.generation.id in state.superseded or given_up or bool(state.closed)
        if over:
            self._fence(world, superseded(taken(state)))
        return over

    # -- taking and losing it --

    def take(self, world: World, attempt: SaveAttempt | None) -> None:
        """Create a lead entry on top of the state last read, for a save or to settle the earlier ones."""
        run, generation, state = self._run, world.generation, self._run.ledger.state
        if run.ledger.number < 0:
            run.ledger.append(Import(generation=generation.id, note="first entry"))
        run.ledger.append(
            Lead(
                generation=generation.id,
                note=f"generation {generation.id}",
                save=attempt.id if attempt else None,
                world=generation,
                fork_point=run.fork_point,
                leader=state.leader if state else None,
            )
        )

    def took(self, intent: Lead, made: Entry | Failure) -> Failure | None:
        """Take the result of a lead entry. Return why it does not lead, if so; SUPERSEDED: somebody else was faster."""
        run, generation = self._run, intent.world
        if isinstance(made, Failure):
            return made
        if made.kind == "abort":
            return Failure(Kind.SAVE_FAILED, "the lead entry could not be created in time")
        for other in run.worlds.values():
            if run.leading == other.generation.id != generation.id:
                self._fence(other, superseded(_why_over(other, generation)))
        if run.leading != generation.id:
            run.retention = ()
        run.leading, run.led_since = generation.id, made.number
        run.published(made)
        self._upkeep.delete(made.state)
        self._upkeep.look_for_orphans(made)
        return None

    def meet(self, entry: Entry) -> None:
        """Look at an entry of the log. If somebody newer leads, or nobody, this coordinator no longer does."""
        run, leader = self._run, entry.state.leader
        if run.leading and (leader is None or leader.id != run.leader.id) and entry.number > run.led_since:
            world, run.leading = run.worlds.get(run.leading), ""
            if world and generation_of(entry.state) == world.generation.id:
                self.hand_over(world)
            elif world and not world.fenced:
                at = leader and (leader.address or leader.host)
                newer = f"a newer leader (coordinator at {at}) has taken the run"
                self._fence(world, superseded(newer if leader else taken(entry.state)))

    def _fence(self, world: World, failure: Failure) -> None:
        world.fenced = failure
        if len(world.left) < len(world.tasks):  # otherwise nobody is there to save anything any more
            self._run.emit(Remark(f"generation {world.generation.id}: {failure.message}"))
        if world.attempt and world.attempt.undecided:
            self._run.end_save(world, world.attempt, SaveOutcome(world.attempt.ordinal, False, failure))
        self._run.notify(world, failure)

    def hand_over(self, world: World) -> None:
        """Leave this world to another coordinator process, which alone knows what becomes of its calls."""
        run = self._run
        del run.worlds[world.generation.id]
        attempt = world.attempt
        if attempt and attempt.phase is Phase.PUBLISHING:
            run.end_save(world, attempt, SaveOutcome(attempt.ordinal, True))
        elif attempt:
            attempt.advance(Phase.FAILED)
            world.attempt = None
            for request in (*attempt.voters, *attempt.reporters):
                run.refuse(request, unknown(world.generation.id))
        for call in world.unsettled or ():
            run.refuse(call.request, unknown(world.generation.id))
        for round_ in world.rounds.values():
            waiting, round_.waiting = round_.waiting, {}
            for request in waiting:
                run.refuse(request, unknown(world.generation.id))
        for request in world.requests.waiting:
            run.refuse(request, unknown(world.generation.id))
        run.release(world)


def _why_over(before: World, after: Generation) -> str:
    """Return why a world has lost the lead to another world of the same coordinator."""
    if before.same_processes(after):
        return (
            "another manager of this program has saved into the same directory since, and leads the run now; a run is "
            "saved by one manager at a time: give each a directory of its own, such as RUN/latest and RUN/best, or let "
            "one manager keep both: keep=holdfast.keep.newest(...) | holdfast.keep.best(...)"
        )
    return f"generation {after.id} leads the run now"
