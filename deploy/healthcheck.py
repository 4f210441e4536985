"""Ask the coordinator at HOST:PORT by the gRPC health protocol how it is: status 0 if it serves, 1 if it does not.

For health checks that are commands. What gRPC probes of Kubernetes speak is no TLS, which a coordinator listens by. It
tells everybody about its health, and nothing else to somebody who proves nothing, as this does. So this believes the
certificate that it meets. Where clients need one, this shows that of HOLDFAST_TLS_CERT and HOLDFAST_TLS_KEY.
"""

import ssl
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast_protos import tls
from holdfast_protos.settings import Settings

SERVICE = "holdfast_protos.v1.Coordinator"
TIMEOUT_S = 3


def main(address: str) -> int:
    try:
        with connect(address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_S
            )
    except (OSError, tls.Distrust) as error:
        print(f"{address}: {error}")
        return 1
    except grpc.RpcError as error:
        print(f"{address}: {error.code().name}: {error.details()}")
        return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}")
    return int(reply.status != health_pb2.HealthCheckResponse.SERVING)


def connect(address: str) -> grpc.Channel:
    """Return a channel to whoever listens there. Raises OSError if nobody does, and tls.Distrust."""
    try:
        peer = tls.meet(address, Settings.of().for_anybody(), TIMEOUT_S)
    except ssl.SSLError:  # started with --insecure
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, peer.credentials, [("grpc.ssl_target_name_override", peer.name)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
