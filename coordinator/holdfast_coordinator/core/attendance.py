"""The presence of workers: connections, heartbeats, and leaving in good order."""

from __future__ import annotations

from . import events as ev
from .membership import World
from .messages import Left
from .run import RunState


class Attendance:
    """Keeps `World.presence`, `left` and `lingering`."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def attached(self, e: ev.Attached) -> None:
        if world := self._run.present(e.caller):
            connections = world.presence[e.caller.task].connections + 1
            world.update(e.caller.task, connections=connections, heard=self._run.now.monotonic, lost=None)

    def heartbeat(self, e: ev.Heartbeat) -> None:
        if world := self._run.present(e.caller):
            now, before = self._run.now.monotonic, world.presence[e.caller.task]
            begins = before.since is None or (e.phase, e.step) != (before.phase, before.step)
            world.update(
                e.caller.task,
                # Its connection may be older than what is known of its world here, which went to another coordinator
                # process and came back.
                connections=max(1, before.connections),
                lost=None,
                heard=now,
                since=now if begins else before.since,
                progressed=now if begins or e.bytes_done != before.bytes_done else before.progressed,
                phase=e.phase,
                step=e.step,
                bytes_done=e.bytes_done,
                bytes_total=e.bytes_total,
            )

    def detached(self, e: ev.Detached) -> None:
        if world := self._run.present(e.caller):
            # A worker may connect again before the end of its old connection is noticed.
            connections = max(0, world.presence[e.caller.task].connections - 1)
            world.update(e.caller.task, connections=connections, lost=None if connections else self._run.now.monotonic)

    def leave(self, e: ev.Leave) -> None:
        run = self._run
        world = run.present(e.caller)
        if world:
            world.left.add(e.caller.task)
        if world and e.wait_for_others:
            world.lingering[e.request] = run.now.monotonic + e.wait_for_others
        else:
            run.reply(e.request, Left())
        if world and len(world.left) == len(world.presence):
            run.release(world)

    def watch(self, world: World, *, all_gone: bool) -> None:
        """Answer those who wait for the others to leave, once these have left or the wait has been long enough."""
        if all_gone:
            self._run.release(world)
        for request, until in list(world.lingering.items()):
            if self._run.now.monotonic >= until:
                del world.lingering[request]
                self._run.reply(request, Left())
