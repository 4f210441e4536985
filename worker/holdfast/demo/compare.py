"""Compares an interrupted run with an uninterrupted one. Equal means equal in every bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.demo.progress import final_losses, read_lives
from holdfast_storage.checkpoint.index import data_objects, read_index
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store

# The kinds of arrays in a worker's final state, and their names for people.
GROUPS = {
    "weights": "weights",
    "optimizer": "optimizer (Adam's moments, iterations)",
    "statistics": "batch normalisation statistics",
    "random": "random generators (noise, dropout)",
    "input": "input position (shuffled iterator, next batch)",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of one kind of state between two runs."""

    what: str
    compared: int  # variables, tensors or steps, over all workers
    size: int  # bytes of each side
    differing: tuple[str, ...]  # names of those that differ in a bit, or exist on one side only
    local: int = 0  # how many of the compared names differ between the workers

    @property
    def equal(self) -> bool:
        """Whether there was something to compare, and all of it is the same."""
        return self.compared > 0 and not self.differing


def compare_states(first: Path, second: Path, workers: int) -> list[Comparison]:
    """Compare what the workers of two runs wrote to these folders at their end, by kind of state."""
    ours = [_load(first / f"final-{worker}.npz") for worker in range(workers)]
    theirs = [_load(second / f"final-{worker}.npz") for worker in range(workers)]
    comparisons = []
    for group, what in GROUPS.items():
        local = sum(len({state.get(name) for state in ours}) > 1 for name in ours[0] if name.startswith(f"{group}/"))
        comparisons.append(_compare(what, _members(ours, group), _members(theirs, group), local))
    return comparisons


def compare_losses(first: Path, second: Path, workers: int) -> Comparison:
    """Compare the losses of the workers of two runs, step by step. If a step was done twice, the second time counts."""
    return _compare("loss of every step", _losses(first, workers), _losses(second, workers))


def compare_checkpoints(first: Path, second: Path) -> Comparison:
    """Compare the newest checkpoints of two run directories, tensor by tensor, worker-local ones included."""
    ours, theirs = (dict(_stored(open_store(directory))) for directory in (first, second))
    return _compare("last checkpoint, as stored", ours, theirs)


def _compare(what: str, ours: Mapping[str, bytes], theirs: Mapping[str, bytes], local: int = 0) -> Comparison:
    names = ours.keys() | theirs.keys()
    differing = tuple(sorted(name for name in names if ours.get(name) != theirs.get(name)))
    return Comparison(what, len(names), sum(map(len, ours.values())), differing, local)


def _load(path: Path) -> dict[str, bytes]:
    """Read the arrays of a final state. Dtype and shape are part of the comparison."""
    import numpy as np

    with np.load(path) as arrays:
        return {name: _encode(arrays[name]) for name in arrays.files}


def _encode(array: Any) -> bytes:
    encoded: bytes = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    return encoded


def _members(states: list[dict[str, bytes]], group: str) -> dict[str, bytes]:
    """Return the state of one kind on all workers."""
    return {
        f"worker {worker}: {name}": value
        for worker, state in enumerate(states)
        for name, value in state.items()
        if name.startswith(f"{group}/")
    }


def _losses(folder: Path, workers: int) -> dict[str, bytes]:
    return {
        f"worker {worker}: step {step}": loss.hex().encode()
        for worker in range(workers)
        for step, loss in final_losses(read_lives(folder / f"progress-{worker}.jsonl")).items()
    }


def _stored(store: Store) -> Iterator[tuple[str, bytes]]:
    """Yield every piece of a tensor of the newest checkpoint: its name, and dtype, shape and bytes."""
    state = read_run(store)
    if state is None or not state.checkpoints:
        return
    newest = state.checkpoints[-1]
    manifest = read_manifest(store, newest)
    names = [f"{newest.folder}/{o.name}" for o in manifest.objects if o.name.endswith(".index")]
    for name in names:
        prefix = name.removesuffix(".index")
        index = read_index(store, prefix, manifest)
        objects = data_objects(index, prefix)
        owner = prefix.removeprefix(f"{newest.folder}/")
        for key in index.tensors:
            for extents, entry in index.pieces(key):
                data = bytearray(entry.size)
                store.read_into(objects[entry.shard], entry.offset, memoryview(data))
                yield f"{owner}: {key} {extents or ''}", f"{entry.dtype} {entry.shape} ".encode() + data
