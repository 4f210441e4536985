"""Somebody at a terminal: he rolls the run back, and removes checkpoints, while jobs train it."""

from __future__ import annotations

import random

from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.intervening import remove, roll_back
from holdfast_storage.records import CheckpointRecord, LogState
from simulation.fakes import time
from simulation.processes import Process
from simulation.world import World


def operator(world: World, draw: random.Random) -> Process:
    """Begin him on a host of his own, with some commands, until the storm is over or something befalls him."""
    process = world.process("operator", "operator-host")
    process.main = process.spawn("main", _main, world, process, draw)
    return process


def _main(world: World, process: Process, draw: random.Random) -> None:
    for _ in range(draw.randrange(1, 4)):
        command, back = draw.choice([roll_back, remove]), draw.choice([1, 1, 2])

        def select(state: LogState) -> CheckpointRecord:
            """One that is not the newest, and good; he has looked. What he leaves is good as well."""
            good = [each for each in state.checkpoints if world.checks.is_good(state, each)]
            if len(good) <= back:  # noqa: B023
                raise InvalidRequest("there is nothing to choose from")
            return good[-1 - back]  # noqa: B023

        time.sleep(2.0 * draw.random())
        while not world.calm and len(world.checks.good) <= back:
            time.sleep(0.5)
        if world.calm:
            return
        try:
            command(process.store, select)
            world.counts[f"commands: {command.__name__}"] += 1
        except HoldfastError as error:
            world.tell(process, f"cannot {command.__name__}: {error}")
