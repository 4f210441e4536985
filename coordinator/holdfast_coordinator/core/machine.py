"""The state machine of one run. The package's docstring says how it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

from holdfast_storage.cluster import Task
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, Leader

from . import events as ev
from . import intents, waits
from .asking import Asking
from .attempt import Phase
from .attendance import Attendance
from .damage import Damage
from .effects import Effect, ReadLog
from .frozen import frozen
from .joining import Joining
from .leading import Leading
from .membership import Forming, World
from .messages import Caller, Now
from .restoring import Restoring
from .run import RunState
from .saving import Saving
from .upkeep import Upkeep
from .waits import Seek
from .young_daly import Advice


class Machine:
    """One run: its worlds of workers, its save in flight, and the lead of its log.

    Only `handle` changes anything.
    """

    def __init__(self, leader: Leader) -> None:
        run = self._run = RunState(leader)
        self.leader = leader  # this coordinator process as its lead entries name it
        self.ledger = run.ledger
        self.worlds: Mapping[str, World] = run.worlds  # by generation
        self._upkeep = Upkeep(run)
        self._leading = Leading(run, self._upkeep)
        self._damage = Damage(run, self._leading)
        self._restoring = Restoring(run, self._damage, self._upkeep)
        self._joining = Joining(run, self._restoring)
        self._attendance = Attendance(run)
        self._saving = Saving(run, self._leading)
        self._asking = Asking(run)

    def handle(self, event: ev.Event, now: Now) -> list[Effect]:
        """Take one event. Return its effects, in the order in which they must be begun."""
        self._run.begin(now)
        self._HANDLERS[type(event)](self, event)
        self._run.meet_leases()
        self._go_on()
        self._upkeep.watch()
        return self._run.effects

    def _go_on(self) -> None:
        """Pass on the results of entries to those who need them, and begin the next entry and read."""
        run, ledger = self._run, self._run.ledger
        while True:
            if ledger.made:
                intent, made = ledger.made.popleft()
                self._MADE[type(intent)](self, intent, made)
            elif (following := ledger.next()) and ledger.state:
                changed = run.change(following, ledger.state)
                if isinstance(changed, Failure):
                    ledger.made.append((following, changed))
                else:
                    run.emit(ledger.begin(following, changed, run.now))
            elif not ledger.made:
                break
        if ledger.begin_reading():
            run.emit(ReadLog())

    def state(self) -> Hashable:
        """Return everything that the machine decides by, as a value. Machines of equal state do the same from then on.

        The payloads of reports, which it hands on unread, are not a part of it.
        """
        return frozen((self._run, self._upkeep))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Machine) and self.state() == other.state()

    def __hash__(self) -> int:
        """Return the hash of the present state."""
        return hash(self.state())

    def __repr__(self) -> str:
        return f"Machine({self._run}, {self._upkeep})"

    # -- what may be looked at --

    @property
    def leading(self) -> str:
        """The generation with which this coordinator leads the run; empty if it does not."""
        return self._run.leading

    @property
    def forming(self) -> Forming | None:
        """The world that is not complete yet."""
        return self._run.forming

    def advice(self, world: World) -> Advice | None:
        """How often a world had better save, as far as that is known."""
        return self._run.advice(world)

    @property
    def upkeep(self) -> str:
        """What is being removed, in words; empty if nothing is."""
        return self._upkeep.reason()

    @property
    def busy(self) -> bool:
        """Whether something is going on for which an orderly end should wait."""
        return self.ledger.busy or self._upkeep.busy or any(world.attempt for world in self.worlds.values())

    @property
    def deserted(self) -> bool:
        """Whether nobody is there and nothing is going on. The log has all that this machine knows then."""
        if self.busy or self.forming:
            return False
        now = self._run.now.monotonic
        return not any(
            len(world.gone(now)) < len(world.presence)
            or world.lingering
            or world.unsettled
            or world.joining is not None
            for world in self.worlds.values()
        )

    def finalizes(self, generation: str, ordinal: int) -> bool:
        """Return whether a save waits for its index and manifest, and for all objects to be seen."""
        world = self.worlds.get(generation)
        attempt = world.attempt if world else None
        return attempt is not None and attempt.ordinal == ordinal and attempt.phase is Phase.FINALIZING

    def knows(self, caller: Caller) -> bool:
        """Return whether a worker belongs to a world that this coordinator knows."""
        return self._run.present(caller) is not None

    def is_chief(self, caller: Caller) -> bool:
        """Return whether a worker is the chief of a world that this coordinator knows."""
        world = self._run.present(caller)
        return world is not None and world.chief == caller.task

    def awaited_chief(self, generation: str) -> Task | None:
        """Return a world's chief if it does not attend yet, and is not lost either.

        Until then the others are not told of their world. The chief alone can tell a restarted coordinator who is in
        it, so whoever knows the world must not be there before the chief knows it as well.
        """
        world = self._run.worlds.get(generation)
        if world is None or world.presence[world.chief].heard is not None:
            return None
        return None if world.chief in world.gone(self._run.now.monotonic) else world.chief

    def awaits(self, caller: Caller) -> bool:
        """Return whether a worker must join, or join again, before its other calls count."""
        world = self._run.present(caller)
        return world is None or world.awaits(caller.task)

    # -- what concerns more than one part --

    def _heartbeat(self, e: ev.Heartbeat) -> None:
        self._attendance.heartbeat(e)
        self._asking.heartbeat(e)

    def _log_read(self, e: ev.LogRead) -> None:
        if e.entry:
            self._leading.meet(e.entry)
        waited, failure = self.ledger.was_read(e)
        for wait in waited:
            self._READ[type(wait)](self, wait, failure)

    def _appended(self, e: ev.Appended) -> None:
        if e.taken_by:
            self._leading.meet(e.taken_by)
        self.ledger.was_appended(e)

    def _cancelled(self, e: ev.Cancelled) -> None:
        """Forget a call: what it said stands, and nobody waits for its answer any more."""
        self._joining.cancelled(e)
        for world in self._run.worlds.values():
            waiting: list[dict[int, Any]] = [
                world.lingering,
                world.requests.waiting,
                *(round_.waiting for round_ in world.rounds.values()),
            ]
            if world.attempt:
                waiting += [world.attempt.voters, world.attempt.reporters]
            for calls in waiting:
                calls.pop(e.request, None)

    def _probed(self, e: ev.Probed) -> None:
        for wait in self._leading.probed(e):
            if isinstance(wait, Seek):
                self._leading.told(wait, e)
            else:
                self._damage.show(e.living)

    def _state_file_written(self, e: ev.StateFileWritten) -> None:
        self._saving.state_file_written(e)
        self._upkeep.state_file_written(e)

    def _read_back(self, e: ev.ReadBack) -> None:
        # All may have asked for it; the first answer serves all.
        for prefix in self._damage.read_back(e):
            self._restoring.read_back(prefix, e.verdict)
        self._upkeep.read_back(e)

    def _tick(self, _: ev.Tick) -> None:
        run = self._run
        self._joining.watch()
        self._upkeep.tick()
        for world in list(run.worlds.values()):
            gone = world.gone(run.now.monotonic)
            all_gone = len(gone) == len(world.presence)
            self._saving.watch(world, gone)
            self._restoring.watch(world, gone)
            self._asking.watch(world, gone)
            self._attendance.watch(world, all_gone=all_gone)
            over = world.fenced or world.generation.id != run.leading
            restores = any(each.waiting for each in world.rounds.values())
            asked = world.attempt or world.unsettled or world.requests.waiting or restores
            if over and all_gone and not asked and world.joining is None:
                del run.worlds[world.generation.id]
        if again := run.ledger.retry(run.now):
            run.emit(again)

    _HANDLERS: ClassVar[dict[type, Callable[[Machine, Any], None]]] = {
        ev.Join: lambda m, e: m._joining.join(e),
        ev.Rejoin: lambda m, e: m._joining.rejoin(e),
        ev.Cancelled: _cancelled,
        ev.Attached: lambda m, e: m._attendance.attached(e),
        ev.Heartbeat: _heartbeat,
        ev.Detached: lambda m, e: m._attendance.detached(e),
        ev.AwaitUpkeep: lambda m, e: m._upkeep.await_over(e),
        ev.Leave: lambda m, e: m._attendance.leave(e),
        ev.AskSave: lambda m, e: m._asking.ask(e),
        ev.Decided: lambda m, e: m._asking.decided(e),
        ev.Restore: lambda m, e: m._restoring.restore(e),
        ev.Vote: lambda m, e: m._saving.vote(e),
        ev.Reported: lambda m, e: m._saving.reported(e),
        ev.GaveUp: lambda m, e: m._saving.gave_up(e),
        ev.Finalized: lambda m, e: m._saving.finalized(e),
        ev.StateFileWritten: _state_file_written,
        ev.Probed: _probed,
        ev.ReadBack: _read_back,
        ev.Listed: lambda m, e: m._upkeep.listed(e),
        ev.Examined: lambda m, e: m._upkeep.examined(e),
        ev.ObjectsRead: lambda m, e: m._upkeep.objects_read(e),
        ev.MetricsRead: lambda m, e: m._upkeep.measured(e),
        ev.OrphansFound: lambda m, e: m._upkeep.orphans_found(e),
        ev.Deleted: lambda m, e: m._upkeep.deleted(e),
        ev.LogRead: _log_read,
        ev.Appended: _appended,
        ev.Tick: _tick,
    }
    _READ: ClassVar[dict[type, Callable[[Machine, Any, Failure | None], None]]] = {
        waits.Form: lambda m, wait, failure: m._joining.formed(wait, failure),
        ev.Rejoin: lambda m, wait, failure: m._joining.rejoined(wait, failure),
        waits.Seek: lambda m, wait, failure: m._saving.sought(wait, failure),
        waits.Settle: lambda m, wait, failure: m._saving.settle(wait, failure),
        waits.Fail: lambda m, wait, failure: m._saving.failed(wait, failure),
        waits.Look: lambda m, wait, failure: m._restoring.looked(wait, failure),
        waits.Confirm: lambda m, wait, failure: m._restoring.confirmed(wait, failure),
        waits.Nobody: lambda m, wait, failure: None,
    }
    _MADE: ClassVar[dict[type, Callable[[Machine, Any, Entry | Failure], None]]] = {
        intents.Import: lambda m, intent, made: None,
        intents.Lead: lambda m, intent, made: m._saving.led(intent, made),
        intents.Mark: lambda m, intent, made: m._run.published(made),
        intents.GoBack: lambda m, intent, made: m._saving.went_back(intent, made),
        intents.Commit: lambda m, intent, made: m._saving.committed(intent, made),
        intents.Retire: lambda m, intent, made: m._upkeep.retired(intent, made),
        intents.Discard: lambda m, intent, made: m._upkeep.discarded(intent, made),
    }
