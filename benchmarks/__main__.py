"""Command line of the benchmark; see the package's docstring for what is compared and why it is fair."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import environment
from benchmarks.cases import FULL, QUICK, Case
from benchmarks.contestants import LABELS
from benchmarks.memory import touch
from benchmarks.race import Race
from benchmarks.report import markdown
from benchmarks.results import Results

_RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every contestant finished, 1 when one did not, 2 when it cannot run here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Holdfast beside TensorFlow's own checkpoints. Half an hour on two cores; --quick: two minutes.",
    )
    parser.add_argument("--quick", action="store_true", help="64 MiB and 2 rounds: a smoke test, not a measurement")
    parser.add_argument("--rounds", type=int, help="rounds to take (default 5; 2 with --quick)")
    parser.add_argument("--case", choices=[case.name for case in FULL], help="one case instead of all")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="folder in memory (default %(default)s)")
    parser.add_argument(
        "--disk", type=Path, default=_RESULTS, help="folder on the disk to measure (default %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where reports go (default %(default)s)")
    options = parser.parse_args(arguments)

    cases = [case for case in (QUICK if options.quick else FULL) if options.case in (None, case.name)]
    rounds = options.rounds or (2 if options.quick else 5)
    media = {"tmpfs": options.tmpfs, "disk": options.disk}
    options.results.mkdir(parents=True, exist_ok=True)
    if problem := _problem(cases, media):
        print(problem, file=sys.stderr)
        return 2

    # Several GiB may lie in memory and on the disk: being told to end is no reason to leave them there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    # For the contestants' processes: they are about memory and files, on the processor, and need no start-up messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    where = {name: environment.file_system(path) for name, path in media.items()}
    results = Results(environment.describe(), cases, where, rounds, quick=options.quick)
    begin = time.monotonic()
    touch(_memory_needed(cases))
    with ExitStack() as stack:
        # Removed at the end whatever happens, also what a process that was killed has left.
        scratch = {
            name: Path(stack.enter_context(TemporaryDirectory(prefix="holdfast-bench-", dir=path)))
            for name, path in media.items()
        }
        for case in cases:
            Race(case, scratch, results, say=lambda line: print(line, file=sys.stderr, flush=True)).run()
    results.environment = {
        **results.environment,
        "load after it": environment.load(),
        "duration": f"{time.monotonic() - begin:.0f} s",
    }
    _write(results, options.results)
    return 1 if results.failures else 0


def _problem(cases: Sequence[Case], media: Mapping[str, Path]) -> str | None:
    for path in media.values():
        if not path.is_dir():
            return f"{path} is not a folder"
    need, available = _memory_needed(cases), environment.available_memory()
    if available < need:
        return f"about {need / 2**30:.0f} GiB of memory are needed and {available / 2**30:.0f} available; try --quick"
    return None


def _memory_needed(cases: Sequence[Case]) -> int:
    # Each contestant's process: TensorFlow itself, the state, and gradients or a copy that it keeps; besides, four
    # saves of the one whose turn it is, on tmpfs.
    return max(case.state_bytes for case in cases) * (2 * len(LABELS) + 4) + len(LABELS) * 700 * 2**20


def _write(results: Results, folder: Path) -> None:
    text = markdown(results)
    stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}{'-quick' if results.quick else ''}"
    (folder / f"{stem}.md").write_text(text)
    (folder / f"{stem}.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    print(text)
    print(f"Written to {folder / stem}.md and .json")


if __name__ == "__main__":
    sys.exit(main())
