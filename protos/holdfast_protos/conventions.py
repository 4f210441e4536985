"""What workers and coordinator agree on beside the messages. Constants alone."""

from __future__ import annotations

FAILURE_TRAILER = "holdfast-failure-bin"
"""Key of the trailing metadata in which a refusal carries its Failure."""

LARGEST_MESSAGE = 256 << 20
"""Bytes: a vote carries four for every tensor."""

LARGEST_TRAILER = 1 << 20
"""Bytes that a worker takes as trailing metadata."""

LONGEST_REASON = 128 << 10
"""Characters of a Failure's message, so that it fits into that trailer whatever they are."""

LONGEST_WAIT = 366 * 86_400.0
"""Seconds: no deadline is farther away. One that never comes is none."""
