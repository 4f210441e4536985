"""Requests to join as a worker makes them, for tests that call a coordinator without a session."""

from __future__ import annotations

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Cluster, digest

ALONE: Cluster = (("worker", ("h:1",)),)


def join_request(caller: pb.Caller, cluster: Cluster = ALONE, timeout: float = 30.0) -> pb.JoinRequest:
    """A request that describes its cluster without being asked."""
    jobs = [pb.ClusterJob(type=job, addresses=hosts) for job, hosts in cluster]
    return pb.JoinRequest(caller=caller, cluster=jobs, cluster_digest=digest(cluster), timeout_s=timeout)
