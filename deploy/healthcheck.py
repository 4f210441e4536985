"""Ask the coordinator at HOST:PORT by the gRPC health protocol how it is: status 0 if it serves, 1 if it does not.

For container engines, whose health checks are commands. Kubernetes asks by itself.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "holdfast_protos.v1.Coordinator"
TIMEOUT_S = 3


def main(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}: {error.details()}")
            return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}")
    return int(reply.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
