"""Whether a save may be written: the workers' ballots, compared before a byte goes to storage.

Three questions, in order. Do all save the same step? Have all the same tensors? Do all have the same values where
they must? A *guarded* tensor (trainable, or of an optimizer) that differs is silent corruption. Any other tensor
that differs is worker-local: the checkpoint carries the chief's value, and each worker keeps its own beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast_storage.records import Task

from .values import Ballot, Divergence, Failure, Go, TensorSpec


@dataclass(frozen=True, slots=True)
class NeedSpecs:
    """The tensors differ; these workers, one of each opinion, must say what theirs are."""

    tasks: tuple[Task, ...]


def judge(ballots: Mapping[Task, Ballot]) -> Go | NeedSpecs | Failure:
    """The verdict on a complete set of ballots. `log_entry` of a Go is left to the caller."""
    chief = min(ballots)
    mine = ballots[chief]
    for task, ballot in sorted(ballots.items()):
        if (ballot.step, ballot.checkpoint_name) != (mine.step, mine.checkpoint_name):
            return Failure(
                "invalid_request",
                f"the workers do not save the same checkpoint: {chief} saves {mine.checkpoint_name}-{mine.step}, "
                f"{task} saves {ballot.checkpoint_name}-{ballot.step}; all must call save() at the same step",
                phase="vote",
                tasks=(chief, task),
            )
    opinions = {b.spec_digest: task for task, b in sorted(ballots.items(), reverse=True)}
    if len(opinions) > 1:
        speakers = tuple(sorted(opinions.values()))
        if any(not ballots[task].specs for task in speakers):
            return NeedSpecs(speakers)
        return _first_difference(chief, ballots, speakers)
    return _compare_values(chief, ballots)


def _first_difference(chief: Task, ballots: Mapping[Task, Ballot], speakers: tuple[Task, ...]) -> Failure:
    other = next(task for task in speakers if task != chief)
    mine = {spec.key: spec for spec in ballots[chief].specs}
    theirs = {spec.key: spec for spec in ballots[other].specs}
    key = min((k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)), default="")
    if key not in theirs:
        what = f"{key!r}, which {other} does not have"
    elif key not in mine:
        what = f"{key!r}, which {chief} does not have"
    else:
        what = f"{_shape(mine[key])} on {chief} and {_shape(theirs[key])} on {other}"
    if not key:
        what = "which of them must be equal on all workers (trainable variables and optimizer state)"
    return Failure(
        "invalid_request",
        f"the workers' checkpoints do not have the same variables; the first that differs: {what}. "
        "All workers must build the same model and optimizer and pass them to the same checkpoint",
        phase="vote",
        tasks=(chief, other),
        object=key,
    )


def _shape(spec: TensorSpec) -> str:
    return f"{spec.key!r} of shape {list(spec.shape)} (dtype {spec.dtype})"


def _compare_values(chief: Task, ballots: Mapping[Task, Ballot]) -> Go | Failure:
    mine = ballots[chief]
    differing = sorted(
        {p for ballot in ballots.values() if ballot.crcs != mine.crcs for p in _unequal(mine.crcs, ballot.crcs)}
    )
    guarded = [p for p in differing if mine.guarded[p]]
    suspects = tuple(Divergence(p, _minority(ballots, p)) for p in guarded)
    if suspects and mine.on_divergence != "warn":
        who = sorted({task for d in suspects for task in d.tasks})
        return Failure(
            "replica_divergence",
            f"{len(suspects)} variable(s) that must be equal on all workers are not",
            phase="vote",
            tasks=tuple(who),
            positions=tuple(d.position for d in suspects),
        )
    return Go(local=tuple(p for p in differing if not mine.guarded[p]), warned=suspects)


def _unequal(a: bytes, b: bytes) -> list[int]:
    """Positions at which two arrays of 4-byte numbers differ."""
    x, y = memoryview(a).cast("I"), memoryview(b).cast("I")
    return [i for i, (p, q) in enumerate(zip(x, y, strict=True)) if p != q]


def _minority(ballots: Mapping[Task, Ballot], position: int) -> tuple[Task, ...]:
    """Who does not have the value of more than half of the workers; all of them where no value has that."""
    values = {task: ballot.crcs[4 * position : 4 * position + 4] for task, ballot in ballots.items()}
    value, count = Counter(values.values()).most_common(1)[0]
    if 2 * count <= len(values):
        return tuple(sorted(values))
    return tuple(sorted(task for task, v in values.items() if v != value))
