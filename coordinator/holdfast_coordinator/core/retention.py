"""Retention: which checkpoints go, by the rules of a policy (`rules`), and which are kept for ever from now on.

This is a function of the log's state, of the policy, and of what readers hold. Stock checkpoints are not ours: they
stay, and do not count. Damaged checkpoints do not count, are not kept for ever, and go when they would have gone.
Pinned and tagged ones stay and do not count, like those that are kept for ever. Leased ones count, and do not go for
now. What a delta needs stays for as long as the delta does, whatever keeps that, and counts as any other.

What a rule keeps for ever is marked in the log once nothing else keeps it, or once a later one is marked. From then on
it stays, whatever policy follows. TensorFlow's manager does the same with its `keep_checkpoint_every_n_hours`. See
docs/design/022-what-to-keep.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from holdfast_storage.records import CheckpointRecord, LogState

from .rules import Every, History, Policy, metrics_of


@dataclass(frozen=True, slots=True)
class Sweep:
    """The prefixes to retire and to preserve, and the new last preserved time (seconds since the epoch)."""

    retire: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    last_preserved: float | None = None

    def __bool__(self) -> bool:
        return bool(self.retire or self.preserve)


def unmeasured(state: LogState, policy: Policy) -> tuple[CheckpointRecord, ...]:
    """Return the good checkpoints of which the log does not say the metrics that a policy needs.

    They are of a job with another policy, or were imported. Their manifests say it.
    """
    if not (needed := metrics_of(policy)):
        return ()
    return tuple(c for c in state.restorable if not c.stock and any(all(n != m for m, _ in c.metrics) for n in needed))


def sweep(state: LogState, policy: Policy, verified: str, leased: Collection[str] = ()) -> Sweep:
    """Return what may go now that the checkpoint `verified` has been committed and read back.

    Only what is older than `verified` in commit order may go, and the rules see nothing that is newer: what nobody has
    read back replaces nothing. leased: the prefixes of checkpoints that readers are at work on.
    """
    newest, lost = state.find(verified), state.built_on(state.damaged)
    if not policy or newest is None or newest.stock or verified in lost:
        return Sweep(last_preserved=state.last_preserved)
    chosen = state.kept
    newer = next(number for number, record in enumerate(reversed(state.checkpoints)) if record is newest)
    records = tuple(record for record in state.checkpoints[: len(state.checkpoints) - newer] if not record.stock)
    good = tuple(record for record in records if record.prefix not in lost) if lost else records
    last = None if state.last_preserved is None else min(state.last_preserved, newest.time)
    history = History(records, good, chosen, last)

    kept = {verified, *chosen, *leased}
    for_ever: set[str] = set()
    timed: set[str] = set()  # of these, what moves the last preserved time
    for rule in policy:
        found = {record.prefix for record in rule.keeps(history)}
        (for_ever if rule.for_ever else kept).update(found)
        if isinstance(rule, Every):
            timed |= found

    retire: list[str] = []
    preserve: list[str] = []
    undecided: list[str] = []  # kept for ever by a rule, and by something else for now
    for record in records:
        prefix = record.prefix
        if prefix in for_ever and not record.preserved:
            undecided.append(prefix)
            if prefix not in kept:
                preserve += undecided
                undecided.clear()
        elif prefix not in kept and (not record.preserved or prefix in lost):
            retire.append(prefix)
    # What stays needs its chain, whatever keeps it.
    gone = set(retire)
    bases = {record.prefix: record.base for record in state.checkpoints if record.base}
    needed = [base for prefix, base in bases.items() if prefix not in gone]
    while needed:
        if (base := needed.pop()) in gone:
            gone.remove(base)
            needed.append(bases.get(base, ""))
    marked = timed.intersection(preserve)
    times = [min(record.time, newest.time) for record in records if record.prefix in marked] if marked else ()
    return Sweep(tuple(prefix for prefix in retire if prefix in gone), tuple(preserve), max(times, default=last))
