"""Asks another coordinator whether its workers live."""

from __future__ import annotations

import socket

import grpc
import grpc.aio

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

PATIENCE = 3.0
LOOPBACK = ("127.", "localhost", "[::1]")


async def living_workers(address: str, host: str, run: str) -> str:
    """Names of the living workers of a run, as the coordinator at `address` tells them; empty if nobody answers."""
    if address.startswith(LOOPBACK) and host != socket.gethostname():
        return ""  # a loopback address of another machine: not ours to ask
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.CoordinatorStub(channel)
        try:
            status = await stub.Status(pb.StatusRequest(run=run), timeout=PATIENCE)
        except grpc.aio.AioRpcError:
            return ""
    return ", ".join(f"{p.task.type}-{p.task.index}" for p in status.presence if p.alive)
