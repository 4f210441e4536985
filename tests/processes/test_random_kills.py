"""Workers and embedded coordinators killed at random instants, again and again, and restarted."""

from __future__ import annotations

import random
import re
import time
from collections import Counter

import pytest

from holdfast_storage.layout import STATE_FILE, index_object
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.child import Child
from support.figures import Figure
from support.light_job import PROGRAMS, Start
from support.light_worker import committed

pytestmark = pytest.mark.processes

KILLS = 40
SIZE = 2


def test_forty_kills(start: Start, store: Store, figure: Figure) -> None:
    """After each of forty random kills all promises hold. Guards against an instant of a start, a restore, a save, a
    commit or a clean-up at which a kill does damage."""
    chance, victims, during = random.Random(40), Counter[str](), Counter[str]()
    newest = resumed = 0
    for life in range(KILLS + 1):
        workers = [start(PROGRAMS / "endless.py", store.url, index, SIZE) for index in range(SIZE)]
        if life == KILLS or chance.random() < 0.8:
            for worker in workers:
                assert worker.expect("restored") == f"restored {newest}"
            resumed += 1
            workers[chance.randrange(SIZE)].expect(f"saving {newest + chance.randint(1, 4)}")
            time.sleep(chance.uniform(0.0, 0.1))
        else:
            time.sleep(chance.uniform(0.4, 1.5))  # while it starts, joins and restores
        first = chance.randrange(SIZE)
        workers[first].kill()
        time.sleep(chance.choice([0.0, chance.uniform(0.0, 0.3)]))
        for worker in workers:
            worker.kill()
        if life < KILLS:
            victims["chief" if first == 0 else "worker"] += 1
            saying = any(line.startswith("saving") for line in workers[first].output)
            during["in a save" if saying else "while it started, joined or restored"] += 1
        newest = check(store, workers, newest)
    assert newest > KILLS

    figure("light workers killed", f"{KILLS} times: {', '.join(f'{n} {who}' for who, n in victims.items())}")
    figure("... and when", ", ".join(f"{n} {when}" for when, n in during.items()))
    figure("... all resumed at the newest commit", f"{resumed} times, {newest} steps in the end")


def check(store: Store, workers: list[Child], before: int) -> int:
    """Whether all invariants hold after a kill; the step that is newest now."""
    if read_run(store) is None:
        return 0
    steps = [record.step for record in committed(store)]  # each of which verifies
    newest = steps[-1] if steps else 0
    said = [line.split() for worker in workers for line in worker.output]
    told = max([int(line[1]) for line in said if line[0] == "committed"], default=before)
    begun = max([int(line[1]) for line in said if line[0] == "saving"], default=before)
    assert before <= told <= newest <= begun, "what was told as committed is there, and nothing that was not begun"
    assert not [line for line in said if line[0] == "failed" and int(line[1].rstrip(":")) in steps]
    assert steps == list(range(newest - len(steps) + 1, newest + 1))
    assert len(steps) >= min(newest, 3)
    if steps:
        # What TensorFlow alone would restore: at most one commit behind, and whole.
        named = re.match(rb'model_checkpoint_path: "(.*)"', store.read(STATE_FILE))
        assert named is not None
        prefix = named[1].decode()
        assert int(prefix.rpartition("-")[2]) in (newest - 1, newest)
        assert store.size(index_object(prefix)) is not None
    return newest
