"""What must have happened in many stories: a simulation in which little happens proves little."""

from __future__ import annotations

from collections.abc import Mapping

FAULTS = (
    "kills", "stops", "zombies woken", "two coordinators", "partitions", "storage outages", "clock jumps",
    "fault: connect", "fault: slow", "fault: storage fail", "fault: storage refuse", "fault: storage lose",
    "fault: storage late", "fault: storage rot", "fault: a mount is behind", "fault: request cut",
    "fault: request passed_and_cut", "fault: request doubled", "fault: request silence", "fault: reply cut",
    "fault: reply passed_and_cut", "fault: reply refused", "fault: reply silence", "fault: no thread", "preemptions",
    "forks", "signals: raised", "signals: saved", "closed by another thread", "laggards",
)  # fmt: skip
"""Kinds of faults."""

RECOVERIES = (
    "saves told committed", "saves told save_failed", "saves told superseded", "saves told replica_divergence",
    "restores", "entries: lead", "entries: import", "entries: abort", "entries: retire", "entries: restored",
    "entries: damaged", "entries: lease", "entries: release", "reads with a lease", "reads without a lease",
    "entries: rollback", "entries: remove", "commits after a rollback",
    "pages needed", "requests: Examined", "programs interrupted", "saves interrupted", "ends without a rest",
    "programs: done", "programs: interrupted", "programs: superseded", "programs: coordinator_unavailable",
)  # fmt: skip
"""Ways in which the product deals with them, and what becomes of programs."""


def missed(counts: Mapping[str, int]) -> list[str]:
    """Return what has never happened."""
    return [mark for mark in (*FAULTS, *RECOVERIES) if not counts.get(mark)]
