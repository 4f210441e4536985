"""The constants on which workers and coordinator agree, in addition to the messages."""

from __future__ import annotations

FAILURE_TRAILER = "holdfast-failure-bin"
"""The key of the trailing metadata in which a refusal carries its Failure."""

HELLO_HEADER = "holdfast-hello-bin"
"""The key of a Hello's metadata that holds its request."""

RUN_HEADER = "holdfast-run-bin"
"""The key of a call's metadata that names the run directory, as the caller names it."""

PROOF_HEADER = "holdfast-proof-bin"
"""The key of a call's metadata with the proof that the caller reads the run's key."""

SECRET_HEADER = "holdfast-secret-bin"
"""The key of a call's metadata with the secret of the worker's process."""

UNIX = "unix:"
"""How the address of a socket begins that only this host's own user reaches. Any other is HOST:PORT."""

LARGEST_MESSAGE = 256 << 20
"""The largest message in bytes. A vote has four for every tensor."""

CONNECTION = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    # A process that was stopped, or whose host has vanished, is noticed although nothing closes the connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # this counts where the kernel still answers; it would be a minute
    ("grpc.keepalive_permit_without_calls", 1),
)
"""gRPC's settings of a connection, the same at both ends."""

LARGEST_CLUSTER = 20_000
"""The tasks of the largest cluster."""

LARGEST_TRAILER = 1 << 20
"""The bytes that a worker accepts as trailing metadata."""

LONGEST_REASON = 128 << 10
"""The characters of a Failure's message, so that it fits into that trailer whatever they are."""

LONGEST_WAIT = 366 * 86_400.0
"""The longest deadline in seconds. One that never comes is none."""
