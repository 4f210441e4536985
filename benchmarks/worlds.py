"""How a coordinator bears a world of thousands of workers: `python -m benchmarks.worlds [WORKERS [TENSORS [SAVES]]]`.

The workers are coroutines of this process, on few connections. They call as real ones do, one after the other in each
worker and all at once in the world, and write what the plan gives them. The coordinator is a process of its own, whose
processor time and memory are told beside the times. Both share the machine: the coordinator alone would be faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc.aio
import psutil

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # where light workers are

from holdfast.saving.digest import pack, spec_digest, tensor_crcs
from holdfast.saving.plan import plan
from holdfast.saving.report import report_chunks
from holdfast.saving.write import write_objects
from holdfast.session.session import beat_every
from holdfast_protos.conventions import CONNECTION
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage import layout
from holdfast_storage.cluster import digest
from holdfast_storage.store import open_store
from support.light_worker import cluster_of, state, tensor

CHANNELS = 200
TIMEOUT = 120.0
IDLE_FOR = 20.0


class Coordinator:
    """A coordinator process that admits everybody, and what it has used."""

    def __init__(self, root: str) -> None:
        program = Path(sys.executable).with_name("holdfast")
        arguments = ["coordinator", "--root", root, "--listen", "127.0.0.1:0", "--insecure"]
        self._process = subprocess.Popen([program, *arguments], stderr=subprocess.PIPE, text=True)
        self._seen = psutil.Process(self._process.pid)
        assert self._process.stderr is not None
        line = next(line for line in self._process.stderr if " listens on " in line)
        self.address = line.split(" listens on ")[1].split()[0]

    def processor_time(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        return float(self._seen.memory_info().rss) / (1 << 20)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class World:
    """The workers of one world, and what they save."""

    def __init__(self, run: str, address: str, size: int, tensors: int) -> None:
        self.store = open_store(run)
        self.cluster = cluster_of(size)
        self.callers = [pb.Caller(run=run, task=f"worker-{n}", incarnation=f"{n:012x}.1") for n in range(size)]
        options = [*CONNECTION, ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(min(size, CHANNELS))]
        stubs = [rpc.CoordinatorStub(channel) for channel in self._channels]  # type: ignore[no-untyped-call,unused-ignore]
        self._stubs = {c.task: stubs[n % len(stubs)] for n, c in enumerate(self.callers)}
        self.snapshot = state(more=[tensor(f"model/v{n:06d}", (4, 4)) for n in range(tensors)])
        self.crcs = tensor_crcs(self.snapshot.tensors)
        self.whole = plan(self.snapshot.specs, size)
        self._attending: list[asyncio.Task[None]] = []

    async def all(self, call: Callable[[pb.Caller], Awaitable[object]]) -> list[object]:
        return list(await asyncio.gather(*map(call, self.callers)))

    async def join(self, caller: pb.Caller) -> None:
        described = False
        while True:
            request = pb.JoinRequest(caller=caller, cluster_digest=digest(self.cluster), timeout_s=TIMEOUT)
            if described:
                request.cluster.extend(pb.ClusterJob(type=job, addresses=hosts) for job, hosts in self.cluster)
            reply = await self._stubs[caller.task].Join(request, timeout=TIMEOUT)
            described |= reply.cluster_wanted
            if reply.generation:
                break
        caller.generation = reply.generation
        self._attending.append(asyncio.create_task(self._attend(caller)))

    async def _attend(self, caller: pb.Caller) -> None:
        async def beats() -> AsyncIterator[pb.Heartbeat]:
            every = beat_every(len(self.callers))
            while True:
                yield pb.Heartbeat(caller=caller, phase="train", step=1)
                await asyncio.sleep(every * random.uniform(0.8, 1.2))

        async for _ in self._stubs[caller.task].Attend(beats()):
            pass

    async def vote(self, caller: pb.Caller, ordinal: int) -> None:
        guarded = bytes(t.guarded for t in self.snapshot.tensors)
        request = pb.VoteRequest(
            caller=caller,
            ordinal=ordinal,
            step=ordinal,
            checkpoint_name="ckpt",
            spec_digest=spec_digest(self.snapshot.specs, guarded.hex(), "refuse"),
            crcs=pack(self.crcs),
            guarded=guarded,
            on_divergence="refuse",
            timeout_s=TIMEOUT,
        )
        reply = await self._stubs[caller.task].Vote(request, timeout=TIMEOUT)
        assert reply.HasField("go"), reply

    def write(self, caller: pb.Caller, number: int, ordinal: int) -> list[pb.ReportChunk]:
        prefix = layout.prefix("ckpt", ordinal, caller.generation, ordinal)
        written = write_objects(self.store, prefix, self.whole, number, self.snapshot, crcs=self.crcs, threads=1)
        head = pb.ReportHead(
            caller=caller,
            ordinal=ordinal,
            step=ordinal,
            checkpoint_name="ckpt",
            num_shards=self.whole.num_shards,
            timeout_s=TIMEOUT,
        )
        if number == 0:
            empty: dict[str, object] = {"versions": {}, "metadata": {}, "metrics": {}, "local_keys": []}
            described = {"time": time.time(), "strategy": "", "git_commit": "", **empty}
            head.description_json = json.dumps(described)
        entries = (pb.IndexEntry(key=key, record=entry.SerializeToString()) for key, entry in written.entries)
        return report_chunks(head, written.objects, entries)

    async def report(self, chunks: list[pb.ReportChunk]) -> None:
        caller = chunks[0].head.caller
        outcome = await self._stubs[caller.task].Report(iter(chunks), timeout=TIMEOUT)
        assert outcome.committed, outcome

    async def close(self) -> None:
        for task in self._attending:
            task.cancel()
        await asyncio.gather(*self._attending, return_exceptions=True)
        for channel in self._channels:
            await channel.close()


@contextlib.contextmanager
def measured(what: str, coordinator: Coordinator) -> Iterator[None]:
    begun, used = time.perf_counter(), coordinator.processor_time()
    yield
    took, used = time.perf_counter() - begun, coordinator.processor_time() - used
    memory = coordinator.memory()
    print(f"{what:34} {took:7.2f} s   coordinator: {used:6.2f} s of processor time, {memory:5.0f} MiB", flush=True)


async def measure(root: str, size: int, tensors: int, saves: int) -> None:
    coordinator = Coordinator(root)
    try:
        world = World(f"{root}/run", coordinator.address, size, tensors)
        print(f"{size:,} workers, {tensors:,} small tensors", flush=True)
        with measured("join", coordinator):
            await world.all(world.join)
        with measured("idle", coordinator):
            await asyncio.sleep(IDLE_FOR)
        for ordinal in range(1, saves + 1):
            with measured(f"save {ordinal}: vote", coordinator):
                await world.all(lambda caller, ordinal=ordinal: world.vote(caller, ordinal))  # type: ignore[misc]
            reports = [world.write(caller, number, ordinal) for number, caller in enumerate(world.callers)]
            *others, last = reports
            with measured(f"save {ordinal}: all reports but one", coordinator):
                waiting = [asyncio.create_task(world.report(chunks)) for chunks in others]
                await asyncio.sleep(1.0 + size / 1000)
            with measured(f"save {ordinal}: last report to answer", coordinator):
                await world.report(last)
            await asyncio.gather(*waiting)
        await world.close()
    finally:
        coordinator.stop()


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    size, tensors, saves = (*map(int, sys.argv[1:]), *(4_000, 200, 2)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        asyncio.run(measure(root, size, tensors, saves))


if __name__ == "__main__":
    main()
