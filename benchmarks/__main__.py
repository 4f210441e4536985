"""Command line of the benchmark; see the package's docstring for what is compared and why it is fair."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks import environment, peers
from benchmarks.cases import FULL, Case, cases
from benchmarks.memory import touch
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.storages import Files, Objects, Storage, memory_needed

_RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every contestant finished, 1 when one did not, 2 when it cannot run here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Holdfast beside others that save the same. Half an hour on two cores; --quick: two minutes.",
    )
    parser.add_argument(
        "--storage", choices=("files", "s3"), default="files", help="file systems, or an S3 server started here"
    )
    parser.add_argument("--quick", action="store_true", help="64 MiB, few rounds: a smoke test, not a measurement")
    parser.add_argument("--rounds", type=int, help="rounds to take (default 5; with --quick 2, or 1 on s3)")
    parser.add_argument("--case", choices=[case.name for case in FULL], help="one case instead of all")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="folder in memory (default %(default)s)")
    parser.add_argument(
        "--disk", type=Path, default=_RESULTS, help="folder on the disk to measure (default %(default)s)"
    )
    parser.add_argument("--peers", action="store_true", help="install PyTorch for s3, apart from the project: 5.4 GB")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where reports go (default %(default)s)")
    options = parser.parse_args(arguments)

    if options.peers:
        peers.install()
    options.results.mkdir(parents=True, exist_ok=True)
    storage: Storage
    if options.storage == "files":
        storage = Files({"tmpfs": options.tmpfs, "disk": options.disk})
    else:
        storage = Objects(pause=0.0 if options.quick else 4.0)
    chosen = [case for case in cases(options.storage, options.quick) if options.case in (None, case.name)]
    rounds = options.rounds or ((2 if options.storage == "files" else 1) if options.quick else 5)
    if problem := _problem(storage, chosen):
        print(problem, file=sys.stderr)
        return 2

    # Several GiB may lie in memory and on the disk: being told to end is no reason to leave them there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    # For the contestants' processes: they are about memory and files, on the processor, and need no start-up messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    results = Results(
        environment.describe(), chosen, storage.media, rounds, options.quick, storage.contestants, storage.absent
    )
    begin = time.monotonic()
    touch(memory_needed(storage, chosen))
    storage.run(results, say=lambda line: print(line, file=sys.stderr, flush=True))
    results.environment = {
        **results.environment,
        "load after it": environment.load(),
        "duration": f"{time.monotonic() - begin:.0f} s",
    }
    _write(results, options.results)
    return 1 if results.failures else 0


def _problem(storage: Storage, chosen: Sequence[Case]) -> str | None:
    if not chosen:
        return "there is no such case on this storage"
    if problem := storage.problem():
        return problem
    need, available = memory_needed(storage, chosen), environment.available_memory()
    if available < need:
        return f"about {need / 2**30:.0f} GiB of memory are needed and {available / 2**30:.0f} available; try --quick"
    return None


def _write(results: Results, folder: Path) -> None:
    text = markdown(results)
    stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}{'-quick' if results.quick else ''}"
    if results.contestants.name != "files":
        stem += f"-{results.contestants.name}"
    (folder / f"{stem}.md").write_text(text)
    (folder / f"{stem}.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    print(text)
    print(f"Written to {folder / stem}.md and .json")


if __name__ == "__main__":
    sys.exit(main())
