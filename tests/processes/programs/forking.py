"""Processes that fork, as launchers, data loaders and notebooks do. Argument: the directory, and what is done.

A line for each thing that came of it; nothing is left running.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from typing import Any

import holdfast  # as a program does at its top, before it forks
from holdfast_storage.errors import HoldfastError
from holdfast_storage.log.log import Log
from holdfast_storage.store import open_store
from support import light_manager
from support.light_worker import cluster_of

directory, what = sys.argv[1:3]
address = sys.argv[3] if len(sys.argv) > 3 else ""
fork = multiprocessing.get_context("fork")
light_manager.install()
os.environ["TF_CONFIG"] = light_manager.ALONE
logging.disable(logging.CRITICAL)


def tell(**fields: object) -> None:
    os.write(1, b"told " + json.dumps(fields).encode() + b"\n")


def told(call: Any) -> str:
    """What a call returns, relative to the directory, or the kind of its error with what it says."""
    try:
        return str(call()).removeprefix(f"{directory}/")
    except HoldfastError as error:
        return f"{error.kind}: {error}"


def worker(life: int, index: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps({"cluster": dict(cluster_of(2)), "task": {"type": "worker", "index": index}})
    manager, state = light_manager.make(directory, coordinator=address, init_fn=lambda: tell(life=life, scratch=True))
    restored = told(manager.restore_or_initialize)
    for _ in range(3):
        state.step += 1
        prefix = told(lambda: manager.save(state.step, blocking=True))
        tell(
            life=life, index=index, restored=restored, saved=prefix, there=os.path.exists(f"{directory}/{prefix}.index")
        )
    os._exit(9)  # it crashes


def crashing() -> None:
    """A launcher that forks its workers again after a crash."""
    for life in (1, 2):
        workers = [fork.Process(target=worker, args=(life, index)) for index in range(2)]
        for each in workers:
            each.start()
        for each in workers:
            each.join(50)


def job(name: str, mine: Any, other: Any) -> None:
    manager, state = light_manager.make(directory)
    manager.restore_or_initialize()
    if name == "second":
        mine.wait(20)
    state.step = 1
    tell(job=name, saved=told(lambda: manager.save(1, blocking=True)))
    other.set()
    if name == "first":
        mine.wait(20)
        tell(job=name, saved=told(lambda: manager.save(2, blocking=True)))
    manager.close()


def two_jobs() -> None:
    """One launcher forks two jobs onto one directory."""
    events = fork.Event(), fork.Event()
    jobs = [
        fork.Process(target=job, args=("first", events[0], events[1])),
        fork.Process(target=job, args=("second", events[1], events[0])),
    ]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join(50)


def child(inherited: Any) -> None:
    tell(inherited=told(lambda: inherited.save(9)), closes=told(inherited.close))
    begun = time.monotonic()
    manager, _ = light_manager.make(f"{directory}-child", coordinator=address or None)
    tell(own=told(lambda: manager.save(1, blocking=True)), quick=time.monotonic() - begun < 15.0)
    manager.close()


def own_manager() -> None:
    """A process with a manager forks one that makes its own, and goes on."""
    manager, _ = light_manager.make(directory, coordinator=address or None)
    manager.save(1, blocking=True)
    process = fork.Process(target=child, args=(manager,))
    process.start()
    process.join(50)
    tell(child=process.exitcode, parent=told(lambda: manager.save(2, blocking=True)))
    manager.close()


def amid_saves() -> None:
    """The training process forks at random instants of its saves, and the children end as children do."""
    manager, state = light_manager.make(directory, max_to_keep=None)
    manager.restore_or_initialize()
    chance, returned, hung = random.Random(5), [], 0
    for number in range(1, int(sys.argv[3]) + 1):
        state.step = number
        returned.append(manager.save(number))
        time.sleep(chance.uniform(0.0, 0.02))
        how = chance.choice(["_exit", "exit", "raise", "close", "collect"])
        pid = os.fork()
        if pid == 0:
            if how == "raise":
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115
                raise RuntimeError
            if how == "close":
                manager.close()
            if how == "collect":
                del manager, state
                gc.collect()
            if how == "_exit":
                os._exit(0)
            sys.exit(0)
        end = time.monotonic() + 20.0
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                hung += 1
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.002)
    manager.close()
    log, number, commits = Log(open_store(directory)), 0, []
    while (entry := log.read(number)) is not None:
        commits += [entry.state.checkpoints[-1].prefix] if entry.kind == "commit" else []
        number += 1
    tell(hung=hung, commits=len(commits), lost=[p for p in returned if p.removeprefix(f"{directory}/") not in commits])


{"crashing": crashing, "two jobs": two_jobs, "own manager": own_manager, "amid saves": amid_saves}[what]()
assert holdfast.__version__
