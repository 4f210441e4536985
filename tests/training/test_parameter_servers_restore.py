"""What parameter servers saved is restored everywhere, and what was saved anywhere by parameter servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.checkpoint.index import data_objects, read_index
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.server_world import ServerWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], ServerWorld]]:
    """Clusters by their number of servers, each time with another chief: the servers outlive it."""
    made: dict[int, ServerWorld] = {}

    def cluster(servers: int) -> ServerWorld:
        if servers not in made:
            made[servers] = ServerWorld(tmp_path_factory.mktemp(f"{servers}-servers"), servers)
        made[servers].restart()
        return made[servers]

    yield cluster
    for each in made.values():
        each.close()


HOPS = (
    *((1, "given"), (-2, "parts"), (-3, "parts"), (-2, "whole"), (2, "given")),
    *((-3, "parts"), (1, "mirrored"), (-3, "whole"), (1, "given")),
)
"""Processes, or minus the number of servers, and how the state lies there. Each restores what the one before saved."""


def test_a_state_goes_everywhere(worlds: Any, clusters: Callable[[int], ServerWorld], tmp_path: Path) -> None:
    """A state that passes from one process to servers, to more of them, to whole variables, to
    MultiWorkerMirroredStrategy and so on is the same after each hop, and stock TensorFlow reads what each has saved.

    Guards against rows that get lost, or to another place, where other tasks restore than saved.
    """
    directory = str(tmp_path / "run")
    for number, (size, kind) in enumerate(HOPS):
        arguments = {"directory": directory, "kind": kind}
        if size > 0:
            answers = worlds.fresh(size).run("spread.pass_on", **arguments)
        else:
            answers = [clusters(-size).run("spread.pass_on", **arguments)]
        assert {str(each["wrong"]) for each in answers} == {"[]" if number else "None"}, (size, kind)
        assert worlds.get(1).run("spread.read", path=answers[0]["saved"]) == [[]], (size, kind)


def test_odd_restores_onto_servers(worlds: Any, clusters: Callable[[int], ServerWorld], tmp_path: Path) -> None:
    """Servers restore a variable that is made later. Damage in what nobody wants is found before anything changes: no
    variable is touched, and the error names the object. A program of which nothing fits is refused, although its
    variables lie in parts. A partitioned checkpoint of TensorFlow 1 is restored by name.

    Guards against bytes that nobody verifies, and against training from scratch after a rename.
    """
    runs = [str(tmp_path / name) for name in ("run", "damaged")]
    for directory in runs:
        worlds.get(1).run("spread.pass_on", directory=directory, kind="given")
    damage(runs[1], "half/.ATTRIBUTES/VARIABLE_VALUE")
    named = str(tmp_path / "named" / "model")
    worlds.get(1).run("spread.write_named", path=named)
    told = clusters(2).run("spread.restore_what_is_odd", directory=runs[0], damaged=runs[1], named=named)
    assert told["late"] == told["named"] == []
    assert told["damaged"]["type"] == "CheckpointDamaged"
    assert ".data-0" in told["damaged"]["message"]
    assert told["untouched"] is False
    assert told["misfit"]["type"] == "InvalidRequest"
    assert "nothing of" in told["misfit"]["message"]


def damage(directory: str, key: str) -> None:
    """Flip a bit of a tensor in the newest checkpoint of a run."""
    store = open_store(directory)
    run = read_run(store)
    assert run is not None
    record = run.checkpoints[-1]
    index = read_index(store, record.prefix, read_manifest(store, record))
    _, entry = index.pieces(key)[0]
    name = data_objects(index, record.prefix)[entry.shard]
    data = bytearray(store.read(name))
    data[entry.offset] ^= 1
    Path(directory, name).write_bytes(data)
