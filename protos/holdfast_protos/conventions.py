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

TOKEN_HEADER = "holdfast-token-bin"
"""The key of a call's metadata with the caller's token, for a coordinator that wants one."""

UNIX = "unix-abstract:"
"""How the address of an abstract Unix socket begins, which only this host's processes reach. Others are HOST:PORT."""

LARGEST_MESSAGE = 16 << 20
"""The largest message in bytes. The largest is the answer to a vote about a million tensors that all differ."""

CONNECTION = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    # A message that is small on the way and large in memory is refused before it is decompressed. 1: identity alone.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A process that was stopped, or whose host has vanished, is noticed although nothing closes the connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # this counts where the kernel still answers; it would be a minute
    ("grpc.keepalive_permit_without_calls", 1),
)
"""gRPC's settings of a connection, the same at both ends."""

LARGEST_REQUEST = {"Join": 4 << 20, "Vote": 8 << 20, "Report": 4 << 20}
"""The bytes of the largest request, or message of one, by method. It is refused before it is parsed, since two bytes on
the wire may be an object of sixty."""

LARGEST_OTHER_REQUEST = 1 << 20

LARGEST_CLUSTER = 4_000
"""The tasks of the largest cluster. A description has some 30 bytes for each. Each is a connection, and those of
strangers cost a coordinator 45 KiB as well."""

MOST_TENSORS = 1_000_000
"""The tensors of the largest state. A vote has five bytes for each."""

MOST_SPECS, LARGEST_SPECS = 20_000, 1 << 20
"""The specs, and their bytes, that a vote may have."""

REPORT_CHUNK = 1 << 20
"""The bytes, with those of one more entry, of a report's message."""

MOST_OBJECTS, MOST_ENTRIES, LARGEST_REPORT = 4_096, 2 * MOST_TENSORS, 256 << 20
"""The objects, the index entries and the bytes of the largest report."""

LARGEST_DESCRIPTION = 3 << 20
"""The bytes of the chief's description of a save, in which metadata and metrics are."""

LARGEST_TRAILER = 1 << 20
"""The bytes that a worker accepts as trailing metadata."""

LONGEST_REASON = 128 << 10
"""The characters of a Failure's message, so that it fits into that trailer whatever they are."""

LONGEST_WAIT = 366 * 86_400.0
"""The longest deadline in seconds. One that never comes is none."""

MOST_RULES = 16
"""The rules of retention that a save may have."""
