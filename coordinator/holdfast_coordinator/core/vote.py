"""The vote: compares the workers' ballots and decides whether a save may be written.

There are three questions, in order. Do all save the same step? Do all have the same tensors? Do all have the same
values where they must? A *guarded* tensor (trainable, or of an optimizer) that differs is silent corruption. Any other
tensor that differs is worker-local: the checkpoint holds the chief's value, and each worker keeps its own beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast_storage.bundle.dtypes import name as name_of_dtype
from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure

from .messages import Ballot, Divergence, Go, TensorSpec

EXAMINED = 1_000
"""The number of differing guarded tensors for which the workers are found. If more differ, the whole state is wrong."""


@dataclass(frozen=True, slots=True)
class NeedSpecs:
    """The tensors differ. The chief and one worker that differs from it must send their specs."""

    tasks: tuple[Task, ...]


def judge(ballots: Mapping[Task, Ballot]) -> Go | NeedSpecs | Failure:
    """Judge a complete set of ballots. `log_entry` of a Go is left to the caller."""
    chief = min(ballots)
    mine = ballots[chief]
    for task, ballot in sorted(ballots.items()):
        if (ballot.step, ballot.checkpoint_name) != (mine.step, mine.checkpoint_name):
            return Failure(
                Kind.INVALID_REQUEST,
                f"the workers do not save the same checkpoint: {chief} saves {mine.checkpoint_name}-{mine.step}, "
                f"{task} saves {ballot.checkpoint_name}-{ballot.step}; all must call save() at the same step",
                phase="vote",
                tasks=(chief, task),
                ahead=_ahead(ballots),
            )
    other = min((task for task, ballot in ballots.items() if ballot.base != mine.base), default=None)
    if other is not None:
        return Failure(
            Kind.SAVE_FAILED,
            f"the workers do not save what has changed since the same checkpoint: {chief} saves {_base(mine)}, {other} "
            f"{_base(ballots[other])}. The next save is a full one",
            phase="vote",
            tasks=(chief, other),
        )
    other = min((task for task, ballot in ballots.items() if ballot.spec_digest != mine.spec_digest), default=None)
    if other is not None:
        if not (mine.specs and ballots[other].specs):
            return NeedSpecs((chief, other))
        return _first_difference(chief, other, ballots)
    for task, ballot in ballots.items():
        if len(ballot.guarded) != len(mine.guarded) or len(ballot.crcs) != 4 * len(mine.guarded):
            return Failure(
                Kind.INVALID_REQUEST,
                f"{task} did not send a checksum of each tensor; all workers must run the same version of Holdfast",
                phase="vote",
                tasks=(task,),
            )
    return _compare_values(chief, ballots)


def _base(ballot: Ballot) -> str:
    return f"a delta on {ballot.base}" if ballot.base else "a full checkpoint"


def _ahead(ballots: Mapping[Task, Ballot]) -> tuple[Task, ...]:
    """Return those that are at a later step in the same save call, since a call of theirs was interrupted, or one of
    the others' was repeated. Without a correction no save would ever find all at one step again."""
    first = min(ballot.step for ballot in ballots.values())
    return tuple(sorted(task for task, ballot in ballots.items() if ballot.step > first))


def _first_difference(chief: Task, other: Task, ballots: Mapping[Task, Ballot]) -> Failure:
    mine = {spec.key: spec for spec in ballots[chief].specs}
    theirs = {spec.key: spec for spec in ballots[other].specs}
    # A vote has the specs of the first tensors only. Nothing is known of a key after the last one of those.
    cut = [b.specs[-1].key for b in (ballots[chief], ballots[other]) if len(b.specs) < len(b.guarded)]
    last = min(cut, default=None)
    keys = (k for k in mine.keys() | theirs.keys() if last is None or k <= last)
    key = min((k for k in keys if mine.get(k) != theirs.get(k)), default="")
    if not key and last is not None:
        what = f"somewhere after {last!r}"
    elif key not in theirs:
        what = f"{key!r}, which {other} does not have"
    elif key not in mine:
        what = f"{key!r}, which {chief} does not have"
    else:
        what = f"{_shape(mine[key])} on {chief} and {_shape(theirs[key])} on {other}"
    if not key and last is None:
        what = "which of them must be equal on all workers (trainable variables and optimizer state)"
    return Failure(
        Kind.INVALID_REQUEST,
        f"the workers' checkpoints do not have the same variables; the first that differs: {what}. "
        "All workers must build the same model and optimizer and pass them to the same checkpoint",
        phase="vote",
        tasks=(chief, other),
        object=key,
    )


def _shape(spec: TensorSpec) -> str:
    return f"{spec.key!r} of shape {list(spec.shape)} ({name_of_dtype(spec.dtype)})"


def _compare_values(chief: Task, ballots: Mapping[Task, Ballot]) -> Go | Failure:
    mine = ballots[chief]
    differing = _differing(mine.crcs, [ballot.crcs for ballot in ballots.values() if ballot.crcs != mine.crcs])
    guarded = [p for p in differing if mine.guarded[p]]
    suspects = tuple(_minorities(ballots, guarded[:EXAMINED]))
    if suspects and mine.on_divergence != "warn":
        who = sorted({task for d in suspects for task in d.tasks})
        return Failure(
            Kind.REPLICA_DIVERGENCE,
            f"{len(guarded)} variable(s) that must be equal on all workers are not",
            phase="vote",
            tasks=tuple(who),
            positions=tuple(guarded),
        )
    unexamined = (Divergence(position) for position in guarded[EXAMINED:])
    return Go(worker_local=tuple(p for p in differing if not mine.guarded[p]), warned=(*suspects, *unexamined))


def _differing(mine: bytes, others: list[bytes]) -> list[int]:
    """Return the positions of the 4-byte numbers that are not the same in all these arrays.

    The arrays are compared as long integers, so that 10,000 workers with 5,000 tensors need no loop over both.
    """
    number = int.from_bytes(mine, "little")
    differences = 0
    for other in others:
        differences |= number ^ int.from_bytes(other, "little")
    if not differences:
        return []
    words = memoryview(differences.to_bytes(len(mine), "little")).cast("I")
    return [position for position, word in enumerate(words) if word]


def _minorities(ballots: Mapping[Task, Ballot], positions: list[int]) -> list[Divergence]:
    """Return for each position who lacks the value of more than half of the workers; all if there is no such value."""
    tasks = sorted(ballots)
    numbers = [memoryview(ballots[task].crcs).cast("I") for task in tasks]
    everyone = tuple(tasks)
    found = []
    for position in positions:
        values = [each[position] for each in numbers]
        value, count = Counter(values).most_common(1)[0]
        most = 2 * count > len(values)
        who = tuple(task for task, v in zip(tasks, values, strict=True) if v != value) if most else everyone
        found.append(Divergence(position, who))
    return found
