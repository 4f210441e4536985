"""One light worker that restores what there is and then saves step after step, until it is killed.

Arguments: run directory, index, number of workers. The coordinator is embedded in worker 0.
"""

from __future__ import annotations

import sys

from holdfast_storage.store import open_store
from support.light_worker import LightWorker, cluster_of


def main(directory: str, index: str, size: str) -> None:
    worker = LightWorker(open_store(directory), int(index), cluster_of(int(size)), max_to_keep=3).join()
    staged = worker.restore()
    step = staged.record.step if staged else 0
    print(f"restored {step}", flush=True)
    if staged:
        staged.close()
    while True:
        step += 1
        print(f"saving {step}", flush=True)
        save = worker.save(step)
        save.wait()
        told = f"failed {step}: {save.error}" if save.error else f"committed {step}"
        print(told + "\n", end="", flush=True)  # in one write: threads that log write to the same pipe


main(*sys.argv[1:])
