"""What a save costs under ParameterServerStrategy: `python -m benchmarks.parameter_servers [--mib 1024] [--rounds 5]`.

Holdfast, with its defaults and `max_to_keep=1`, into a folder and on an S3 server that is started here, if one is
installed; beside `tf.train.Checkpoint.write` into a folder that all servers share, which is the way that TensorFlow
has. Each contestant has a cluster of its own, one after the other: a chief, a worker, and two or three servers. A
training step changes every value before each turn. The first turn counts for memory alone, which only fresh processes
show.

The figures of a turn:

blocked      from the call of `save` until it returns.
durable      until the commit, as another process sees it; of TensorFlow's, until all files are synchronised, which the
             benchmark does for it.
through the chief
             bytes that the chief's process has sent and received by TCP and read from and written to files, from the
             call until all is over; for Holdfast that includes the read-back of the new checkpoint.
peak         the most memory of the chief, and of the server that takes most, beside what each had before the first
             turn, in which a training step changes every value once more as soon as `save` has returned.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import environment
from benchmarks.contestants.tensorflow_manager import fsync
from benchmarks.process import PATIENCE, ContestantProcess, answers

if TYPE_CHECKING:
    from servers.base import Location

VARIABLES, WIDTH = 4, 256
BETWEEN_LOOKS = 0.02
"""Seconds between two looks at a process's memory and connections."""

QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_FAIL_FAST": "use_caller"}


class Follower:
    """A worker or a parameter server, in its process."""

    def __init__(self, config: str, variables: Mapping[str, str]) -> None:
        os.environ.update({"TF_CONFIG": config, **QUIET, **variables})

    def serve(self) -> None:
        """Serve until the process is killed."""
        import tensorflow as tf

        import holdfast

        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if resolver.task_type == "ps":
            holdfast.serve_parameter_server()
        task = {"job_name": resolver.task_type, "task_index": resolver.task_id}
        tf.distribute.Server(resolver.cluster_spec(), protocol="grpc", **task).join()


class Chief:
    """The chief, in its process."""

    def __init__(self, config: str, variables: Mapping[str, str], mib: int) -> None:
        os.environ.update({"TF_CONFIG": config, **QUIET, **variables})
        import tensorflow as tf

        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        servers = len(resolver.cluster_spec().as_dict()["ps"])
        partitioner = tf.distribute.experimental.partitioners.FixedShardsPartitioner(servers)
        strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        shape = ((mib << 20) // 4 // VARIABLES // WIDTH, WIDTH)

        def noise(shape: Any, dtype: Any, partition_shape: Any = None, **_: Any) -> Any:
            return tf.random.uniform(partition_shape or shape, dtype=dtype)  # made where it lies

        with strategy.scope():
            tables = [tf.Variable(partial(noise, shape, tf.float32), shape=shape) for _ in range(VARIABLES)]
        self._checkpoint = tf.train.Checkpoint(tables=tables)

        @tf.function  # type: ignore[untyped-decorator]
        def step() -> None:
            for table in tables:
                for part in table.variables:
                    with tf.device(part.device):
                        part.assign_add(tf.ones(part.shape))

        self._step = step
        self._manager: Any = None

    def train(self) -> None:
        """Change every value."""
        self._coordinator.schedule(self._step)
        self._coordinator.join()

    def save(self, run: str, step: int, trains: bool) -> dict[str, float]:
        """Save by Holdfast, and wait until all is over. trains: meanwhile."""
        import holdfast

        if self._manager is None:
            self._manager = holdfast.CheckpointManager(self._checkpoint, run, max_to_keep=1)
        with _Traffic() as traffic:
            begin = time.perf_counter()
            self._manager.save(checkpoint_number=step)
            blocked = time.perf_counter() - begin
            if trains:
                self.train()
            self._manager.wait()
        return {"blocked": blocked, "chief_bytes": traffic.bytes}

    def write(self, folder: str, trains: bool) -> dict[str, float]:
        """Save by TensorFlow, and have it synchronised. trains: afterwards, since it blocks."""
        with _Traffic() as traffic:
            begin = time.perf_counter()
            self._checkpoint.write(f"{folder}/ckpt")
            blocked = time.perf_counter() - begin
        for file in Path(folder).iterdir():
            fsync(file)
        fsync(Path(folder))
        durable = time.perf_counter() - begin
        if trains:
            self.train()
        return {"blocked": blocked, "durable": durable, "chief_bytes": traffic.bytes}


class _Traffic:
    """Bytes that pass through this process meanwhile, by TCP and files. A connection that is shorter than two looks is
    not seen."""

    def __enter__(self) -> _Traffic:
        self._seen: dict[str, int] = {}
        self._look()
        self._before = {name: -count for name, count in self._seen.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self.bytes = float(sum(self._seen.values()) + sum(self._before.values()))

    def _watch(self) -> None:
        while not self._over.wait(BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError, ValueError):
                name = os.readlink(link)
                if name.startswith("socket:"):
                    with socket.socket(fileno=os.dup(int(link.name))) as each:
                        info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                    # tcp_info(7): tcpi_bytes_acked and tcpi_bytes_received.
                    self._seen[name] = sum(struct.unpack_from("=2Q", info, 120))
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, count = line.partition(": ")
            if name in ("rchar", "wchar"):
                self._seen[name] = int(count)


class Cluster:
    """The processes of a cluster."""

    def __init__(self, servers: int, mib: int, variables: Mapping[str, str]) -> None:
        sizes = {"chief": 1, "worker": 1, "ps": servers}
        sockets = {job: [socket.create_server(("127.0.0.1", 0)) for _ in range(size)] for job, size in sizes.items()}
        cluster = {job: [f"127.0.0.1:{s.getsockname()[1]}" for s in each] for job, each in sockets.items()}
        for each in sockets.values():
            for one in each:
                one.close()

        def config(job: str, index: int) -> str:
            return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})

        self._followers = [
            ContestantProcess(partial(Follower, config(job, index), variables))
            for job in ("worker", "ps")
            for index in range(sizes[job])
        ]
        for follower in self._followers:
            follower.tell("serve")
        self.chief = ContestantProcess(partial(Chief, config("chief", 0), variables, mib))
        self.ask("train")
        self._servers = [psutil.Process(follower.pid) for follower in self._followers[1:]]

    def ask(self, method: str, *arguments: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Call a method of the chief's."""
        self.chief.tell(method, *arguments)
        meanwhile()
        return answers([self.chief])[0]

    def turn(self, contestant: Holdfast | TensorFlow, number: int) -> dict[str, float]:
        """Train, take a turn, and look at the memory meanwhile."""
        self.ask("train")
        processes = [psutil.Process(self.chief.pid), *self._servers]
        before, peaks = [p.memory_info().rss for p in processes], [0] * len(processes)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(BETWEEN_LOOKS):
                peaks[:] = [max(peak, p.memory_info().rss) for peak, p in zip(peaks, processes, strict=True)]

        looking = threading.Thread(target=watch)
        looking.start()
        try:
            figures = contestant.take(self, trains=number == 0)
        finally:
            over.set()
            looking.join()
        chief, *servers = (float(max(0, peak - floor)) for peak, floor in zip(peaks, before, strict=True))
        return {**figures, "chief_peak": chief, "server_peak": max(servers)}

    def stop(self) -> None:
        """Kill all processes."""
        for each in (self.chief, *self._followers):
            each.kill()


class Holdfast:
    """Saves into a folder or on an object store. The commit is seen from here."""

    def __init__(self, run: str, options: Mapping[str, Any]) -> None:
        self._run, self._options, self._step = run, options, 0

    def take(self, cluster: Cluster, trains: bool) -> dict[str, float]:
        """Save once."""
        from holdfast_storage.run_directory import read_run
        from holdfast_storage.store import open_store

        self._step += 1
        store, begin, durable = open_store(self._run, self._options), time.perf_counter(), 0.0

        def await_commit() -> None:
            nonlocal durable
            while time.perf_counter() - begin < PATIENCE and not cluster.chief.connection.poll():
                state = read_run(store)
                if state is not None and state.checkpoints and state.checkpoints[-1].step == self._step:
                    break
                time.sleep(0.05 if self._options else 0.005)
            durable = time.perf_counter() - begin

        figures: dict[str, float] = cluster.ask("save", self._run, self._step, trains, meanwhile=await_commit)
        return {**figures, "durable": durable}


class TensorFlow:
    """Saves into an empty folder, which is removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, cluster: Cluster, trains: bool) -> dict[str, float]:
        """Save once."""
        self._folder.mkdir()
        try:
            figures: dict[str, float] = cluster.ask("write", str(self._folder), trains)
        finally:
            shutil.rmtree(self._folder)
        return figures


COLUMNS = {
    "blocked": ("blocked, ms", 1e3),
    "durable": ("durable, ms", 1e3),
    "chief_bytes": ("through the chief, KiB", 1 / 1024),
    "chief_peak": ("chief's peak, MiB", 1 / 2**20),
    "server_peak": ("a server's peak, MiB", 1 / 2**20),
}


def row(turns: Sequence[Mapping[str, float]]) -> str:
    """Return the cells of a contestant: median, lowest and highest of each figure."""
    first, *others = turns
    cells = []
    for figure, (_, scale) in COLUMNS.items():
        values = [turn[figure] * scale for turn in ([first] if figure in ("chief_peak", "server_peak") else others)]
        low, middle, high = (f"{v:,.0f}" for v in (min(values), statistics.median(values), max(values)))
        cells.append(f"{middle} ({low} - {high})" if len(values) > 1 else middle)
    return " | ".join(cells)


def measure(servers: int, mib: int, rounds: int, folder: Path, bucket: Location | None) -> None:
    """Take all turns, and print the rows."""
    contestants: dict[str, Holdfast | TensorFlow] = {
        "Holdfast, folder": Holdfast(str(folder / "run"), {}),
        "`Checkpoint.write`, folder": TensorFlow(folder / "stock"),
    }
    if bucket:
        contestants["Holdfast, S3"] = Holdfast(bucket.url, bucket.storage_options)
    for who, contestant in contestants.items():
        cluster = Cluster(servers, mib, bucket.environment if bucket else {})
        turns = []
        try:
            for number in range(rounds + 1):
                turns.append(cluster.turn(contestant, number))
                figures = ", ".join(f"{name} {value:.4g}" for name, value in turns[-1].items())
                print(f"{servers} servers, turn {number}, {who}: {figures}", file=sys.stderr, flush=True)
        finally:
            cluster.stop()
        print(f"| {servers} | {who} | {row(turns)} |", flush=True)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parameter_servers", description=__doc__.split(":")[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the state (default %(default)s)")
    parser.add_argument("--servers", type=int, nargs="+", default=[2, 3], help="numbers of servers (default 2 3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where to save (default %(default)s)")
    options = parser.parse_args()

    from benchmarks.server import Server

    # Several GiB may lie in memory: being told to end is no reason to leave them there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for key, value in environment.describe().items():
        print(f"- {key}: {value}")
    print(f"- state: {options.mib} MiB; folder on {environment.file_system(options.folder)}; {options.rounds} rounds\n")
    print(f"| servers | | {' | '.join(name for name, _ in COLUMNS.values())} |")
    print("| --- " * (2 + len(COLUMNS)) + "|", flush=True)
    with ExitStack() as stack:
        server = None
        if not Server.missing():
            server = Server(0.0)
            stack.callback(server.stop)
        for servers in options.servers:
            with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.folder) as folder:
                location = server.location() if server else None
                measure(servers, options.mib, options.rounds, Path(folder), location)
                if server and location:
                    server.clear(location)


if __name__ == "__main__":
    main()
