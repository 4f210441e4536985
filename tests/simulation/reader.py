"""An evaluator: it reads the run while jobs train it, and what it has leased must stay whole."""

from __future__ import annotations

import random

import holdfast.reading
from holdfast_storage.errors import HoldfastError
from simulation.fakes import time
from simulation.faults import READER
from simulation.processes import Process
from simulation.storage import URL
from simulation.world import World

LEASE = 30.0  # seconds


def reader(world: World, draw: random.Random) -> Process:
    """Begin one on a host of its own. It goes on to the end of the story, or until something befalls it."""
    process = world.process(READER, "reader-host")
    process.main = process.spawn("main", _main, world, process, draw)
    return process


def _main(world: World, process: Process, draw: random.Random) -> None:
    interval = draw.choice([0, 5])
    try:
        for prefix in holdfast.reading.checkpoints_iterator(URL, interval, lease_secs=LEASE):
            _work(world, process, draw, prefix.removeprefix(f"{URL}/"))
    except HoldfastError as error:
        world.tell(process, f"ends: {error}")


def _work(world: World, process: Process, draw: random.Random, prefix: str) -> None:
    checks = world.checks
    lease = next((each for each in checks.state.leases if each.prefix == prefix), None) if checks.state else None
    world.tell(process, f"works on {prefix}, {'with' if lease else 'without'} a lease")
    world.counts[f"reads {'with' if lease else 'without'} a lease"] += 1
    if lease is None:
        return
    record = checks.entries[lease.taken].state.find(prefix)
    assert record is not None
    for _ in range(4):
        time.sleep(draw.choice([0.1, 2.0, LEASE / 4]))
        if world.scheduler.now - checks.times[lease.taken] >= LEASE:
            return
        if record.folder not in world.bucket.rotten:
            with world.scheduler.undisturbed():
                checks.verify(record)
