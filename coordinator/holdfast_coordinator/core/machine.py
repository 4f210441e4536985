"""The state machine of one run: see the package's docstring for how it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast_storage.records import Leader

from . import events as ev
from .attempt import Phase
from .attendance import Attendance
from .damage import Damage
from .effects import Effect
from .joining import Joining
from .leading import Leading
from .ledger import Ledger
from .membership import Forming, World
from .messages import Caller, Now
from .restoring import Restoring
from .run import Run
from .saving import Saving
from .status import survey
from .upkeep import Upkeep


class Machine:
    """One run: its worlds of workers, its save on the way, and the lead of its log.

    Everything but `handle` only looks.
    """

    def __init__(self, leader: Leader) -> None:
        run = self._run = Run(leader)
        self._upkeep = Upkeep(run)
        leading = self._leading = Leading(run, self._upkeep)
        self._damage = Damage(run, leading)
        self._restoring = Restoring(run, self._damage, self._upkeep)
        self._joining = Joining(run, self._restoring)
        self._attendance = Attendance(run)
        self._saving = Saving(run, leading, self._upkeep)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.Join: self._joining.join,
            ev.Rejoin: self._joining.rejoin,
            ev.Cancelled: self._joining.cancelled,
            ev.Attached: self._attendance.attached,
            ev.Heartbeat: self._attendance.heartbeat,
            ev.Detached: self._attendance.detached,
            ev.AwaitUpkeep: self._upkeep.await_over,
            ev.Leave: self._attendance.leave,
            ev.Restore: self._restoring.restore,
            ev.Vote: self._saving.vote,
            ev.Reported: self._saving.reported,
            ev.GaveUp: self._saving.gave_up,
            ev.Finalized: self._saving.finalized,
            ev.StateFileWritten: self._state_file_written,
            ev.Probed: leading.probed,
            ev.ReadBack: self._read_back,
            ev.OrphansFound: self._upkeep.orphans_found,
            ev.Deleted: self._upkeep.deleted,
            ev.LogRead: self._log_read,
            ev.Appended: self._appended,
            ev.Ask: self._ask,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event, now: Now) -> list[Effect]:
        """Take one event; the effects that it has, in the order in which they are to be begun."""
        self._run.begin(now)
        self._handlers[type(event)](event)
        self._upkeep.watch()
        return self._run.effects

    # -- what may be looked at --

    @property
    def leader(self) -> Leader:
        """This coordinator process, as its lead entries name it."""
        return self._run.leader

    @property
    def leading(self) -> str:
        """The generation that this coordinator leads the run with, empty for none."""
        return self._run.leading

    @property
    def ledger(self) -> Ledger:
        return self._run.ledger

    @property
    def worlds(self) -> Mapping[str, World]:
        """By generation."""
        return self._run.worlds

    @property
    def forming(self) -> Forming | None:
        """The world that is not complete yet."""
        return self._joining.forming

    @property
    def busy(self) -> bool:
        """Whether something is going on that an orderly end should wait for."""
        return self.ledger.busy or self._upkeep.busy or any(world.attempt for world in self.worlds.values())

    @property
    def deserted(self) -> bool:
        """Whether nobody is there and nothing goes on. What it knows then, another machine reads from the log."""
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
        """Whether a save waits for its index and its manifest, and for all objects to be seen."""
        world = self.worlds.get(generation)
        attempt = world.attempt if world else None
        return attempt is not None and attempt.ordinal == ordinal and attempt.phase is Phase.FINALIZING

    def knows(self, caller: Caller) -> bool:
        """Whether a worker is of a world that this coordinator has met."""
        return self._run.present(caller) is not None

    # -- what concerns more than one part --

    def _log_read(self, e: ev.LogRead) -> None:
        if e.entry:
            self._leading.meet(e.entry)
        self.ledger.was_read(e)

    def _appended(self, e: ev.Appended) -> None:
        if e.taken_by:
            self._leading.meet(e.taken_by)
        self.ledger.was_appended(e, self._run.now)

    def _state_file_written(self, e: ev.StateFileWritten) -> None:
        self._saving.state_file_written(e)
        self._upkeep.state_file_written(e)

    def _read_back(self, e: ev.ReadBack) -> None:
        # All may have asked for it; the first answer serves all.
        self._damage.read_back(e)
        self._restoring.read_back(e)
        self._upkeep.read_back(e)

    def _tick(self, _: ev.Tick) -> None:
        run = self._run
        self._joining.watch()
        for world in list(run.worlds.values()):
            gone = world.gone(run.now.monotonic)
            all_gone = len(gone) == len(world.presence)
            self._saving.watch(world, gone)
            self._restoring.watch(world, gone)
            self._attendance.watch(world, all_gone=all_gone)
            over = world.fenced or world.generation.id != run.leading
            if over and all_gone and not (world.attempt or world.unsettled) and world.joining is None:
                del run.worlds[world.generation.id]
        run.ledger.retry(run.now)

    def _ask(self, e: ev.Ask) -> None:
        self._run.reply(e.request, survey(self._run, self.forming, self._upkeep.reason()))
