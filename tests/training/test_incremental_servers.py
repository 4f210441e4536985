"""Incremental saves of tables that lie on parameter servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.chains import merged
from support.server_world import ServerWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWorld]:
    world = ServerWorld(tmp_path_factory.mktemp("cluster"))
    yield world
    world.close()


def test_each_server_saves_the_rows_that_have_changed(cluster: ServerWorld, tmp_path: Path) -> None:
    """Parts of a table on servers are saved by rows, each by its server, and come back. Guards against parts whose rows
    are counted from their own first one, and against servers that save deltas while the chief saves everything."""
    store = open_store(str(tmp_path / "run"))
    cluster.start()
    cluster.run("served_rows.begin", directory=store.url, full_every=4)
    touched = [[0, 9_999, 10_000, 19_999], [1, 10_000], [5_000], [], [12_345], [7]]
    table, expected = np.zeros((20_000, 16), np.float32), []
    for step, rows in enumerate(touched):
        assert cluster.run("served_rows.save", rows=rows, step=step) is None
        table[rows] = step
        expected.append(table.copy())
    # One server's part fails, and all is saved again.
    cluster.arrange("ps-1", "write", "refuse")
    assert "ps-1" in str(cluster.run("served_rows.save", rows=[3], step=6))
    assert cluster.run("served_rows.save", rows=[4], step=7) is None
    table[3], table[4] = 6, 7
    expected.append(table)

    run = read_run(store)
    assert run is not None
    kinds = [(record.step, bool(record.base)) for record in run.checkpoints]
    assert kinds == [(0, False), (1, True), (2, True), (3, True), (4, False), (5, True), (7, False)]
    for record, wanted in zip(run.checkpoints, expected, strict=True):
        assert merged(store, record)["table/.ATTRIBUTES/VARIABLE_VALUE"] == wanted.tobytes()
        assert (read_manifest(store, record).size < 10_000) == bool(record.base)
    assert cluster.run("served_rows.end") is None


@pytest.mark.parametrize("servers", [2, 3])
def test_a_delta_is_restored_by_as_many_servers_and_by_more(
    cluster: ServerWorld, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, servers: int
) -> None:
    """A table comes back from a full checkpoint and deltas, each server's part put together by it, in whatever parts it
    was saved. Guards against servers that restore the rows of the full checkpoint, or of other parts."""
    store = open_store(str(tmp_path / "run"))
    cluster.start()
    cluster.run("served_rows.begin", directory=store.url, full_every=10)
    table = np.zeros((20_000, 16), np.float32)
    for step, rows in enumerate(
        [list(range(0, 20_000, 7)), [0, 6_666, 6_667, 9_999, 10_000, 19_999], [13_334, 5], [6]]
    ):
        assert cluster.run("served_rows.save", rows=rows, step=step) is None
        table[rows] = step
    assert cluster.run("served_rows.end") is None
    run = read_run(store)
    assert run is not None
    assert [bool(record.base) for record in run.checkpoints] == [False, True, True, True]

    other = cluster if servers == 2 else ServerWorld(tmp_path_factory.mktemp("other"), servers)
    try:
        other.restart(*other.running)
        other.run("served_rows.begin", directory=store.url, full_every=10)
        found = other.run("served_rows.restore")
        assert found["restored"] == f"{store.url}/{run.checkpoints[-1].prefix}"
        assert (found["table"], found["vector"]) == (crc32c(table.tobytes()), [3.0] * 3)
        assert other.run("served_rows.end") is None
    finally:
        if other is not cluster:
            other.close()
