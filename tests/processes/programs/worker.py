"""One light worker as a process, told what to do line by line.

Arguments: run directory, index, number of workers, address of the coordinator (empty: embedded in worker 0), and
other arguments of a `LightWorker`, as JSON.
"save STEP" starts a save, "hold" holds up what is written from now on, "open" lets it go on, "stop CALL PATTERN" has
the process stop itself (see `support.stopping`), "restore", "close".
"""

from __future__ import annotations

import json
import sys
import threading

from holdfast.saving.save import Save
from holdfast_storage.store import open_store
from support.gated_store import Gate, GatedStore
from support.light_worker import LightWorker, cluster_of
from support.stopping import stop_before


def main(directory: str, index: str, size: str, coordinator: str, options: str) -> None:
    store = open_store(directory)
    worker = LightWorker(store, int(index), cluster_of(int(size)), coordinator=coordinator, **json.loads(options))
    gate = Gate("write", ".data-")

    def tell(text: str) -> None:
        print(text + "\n", end="", flush=True)  # in one write: threads that log write to the same pipe

    def outcome(save: Save) -> None:
        save.wait()
        tell(f"step {save.step}: {'committed' if save.error is None else f'{type(save.error).__name__}: {save.error}'}")

    def reached() -> None:
        gate.reached.wait()
        tell("writing")

    worker.join()
    tell(f"joined {worker.session.generation}")
    for line in sys.stdin:
        match line.split():
            case ["save", step]:
                threading.Thread(target=outcome, args=(worker.save(int(step)),), daemon=True).start()
            case ["hold"]:
                worker.store = GatedStore(store, gate)
                threading.Thread(target=reached, daemon=True).start()
            case ["open"]:
                worker.store = store
                gate.open()
            case ["stop", call, pattern]:
                stop_before(call, pattern)
                tell("will stop")
            case ["restore"]:
                staged = worker.restore()
                tell(f"restored {staged.record.step if staged else None}")
                if staged:
                    staged.close()
            case ["close"]:
                worker.close()
                tell("closed")
                return


main(*sys.argv[1:])
