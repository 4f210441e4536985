"""Asks the coordinator at another leader's address who is there."""

from __future__ import annotations

import socket

import grpc
import grpc.aio

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

PATIENCE = 3.0
LOOPBACK = ("127.", "localhost", "[::1]")
OPTIONS = [("grpc.enable_http_proxy", 0)]


async def ask_status(address: str, host: str, run: str) -> pb.StatusReply:
    """What the coordinator at `address` says of a run; an empty reply if nobody there knows it."""
    if address.startswith(LOOPBACK) and host != socket.gethostname():
        return pb.StatusReply()  # a loopback address of another machine: not ours to ask
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = rpc.CoordinatorStub(channel)
        try:
            return await stub.Status(pb.StatusRequest(run=run), timeout=PATIENCE)
        except grpc.aio.AioRpcError:
            return pb.StatusReply()
