"""The main job without a shared file system: real TensorFlow on object stores, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from holdfast_storage.layout import parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from servers.base import BUCKET, Location, Server
from servers.fixtures import ObjectStore
from support.coordinator_process import coordinator
from support.light_worker import until
from support.training_world import PROGRAMS, QUIET, TrainingWorld

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SIZE = 2
EVERY = 4
STEPS = 12


class Cluster:
    """Worlds of workers that share nothing but an object store and a coordinator, which has a folder of its own."""

    def __init__(self, folder: Path, credentials: Location, address: str) -> None:
        self._folder = folder
        self._credentials = credentials
        self._address = address
        self._worlds = 0

    @contextmanager
    def world(self) -> Iterator[TrainingWorld]:
        self._worlds += 1
        folder = self._folder / f"world-{self._worlds}"
        environments = []
        for index in range(SIZE):
            own = {name: str(folder / f"{name}-{index}") for name in ("HOME", "TMPDIR")}
            for path in own.values():
                Path(path).mkdir(parents=True)
            environments.append({**own, **self._credentials.environment, "HOLDFAST_COORDINATOR": self._address})
        world = TrainingWorld(SIZE, folder, environments)
        try:
            yield world
        finally:
            world.close()
        left = {path.name for each in environments for path in Path(each["TMPDIR"]).rglob("*") if path.is_file()}
        assert {name for name in left if "autograph" not in name} == set(), "a state on a worker's own disk"


@contextmanager
def new_cluster(folder: Path, server: Server) -> Iterator[Cluster]:
    with coordinator(folder, root=f"{server.protocol}://{BUCKET}") as address:
        assert address is not None
        yield Cluster(folder, server.location(), address)


def attempts(server: Server, location: Location) -> set[str]:
    """Folders of checkpoints, committed or not."""
    names = [path.rpartition("/")[2] for path in server.files.ls(location.url, detail=False)]
    return {attempt.prefix for name in names if (attempt := parse_folder(name))}


@pytest.mark.parametrize("case", [("s3", 0, "writing"), ("azure", 1, "between")], ids=lambda case: case[0])
def test_a_killed_run_ends_bit_equal(
    object_store: ObjectStore, tell: Callable[[Location], None], tmp_path: Path, case: tuple[str, int, str]
) -> None:
    """A killed and resumed run on an object store ends bit-equal. Guards against going on from anything but the last
    common save, and needing a shared disk."""
    kind, killed, when = case
    server = object_store(kind)
    one, two = server.location(), server.location()
    tell(two)  # the coordinator takes its credentials from its environment, as the workers do
    store = open_store(two.url, two.storage_options)
    arguments: dict[str, Any] = {"steps": STEPS, "save_every": EVERY}
    with new_cluster(tmp_path, server) as cluster:
        with cluster.world() as world:
            uninterrupted = world.run("training.train", directory=one.url, **arguments)
            world.start("training.train", directory=two.url, killed=killed, when=when, **arguments)
            assert world.workers[killed].wait(60.0) == -SIGKILL
            if when == "writing":
                until(lambda: len(attempts(server, two)) == 2)
            committed = read_run(store)
            assert committed is not None
            assert [c.step for c in committed.checkpoints] == ([4] if when == "writing" else [4, 8])
        with cluster.world() as world:
            resumed = world.run("training.train", directory=two.url, **arguments)
        run = read_run(store)
        assert run is not None
        live = {record.prefix for record in run.checkpoints}
        until(lambda: attempts(server, two) == live)  # nothing of the save that was cut short

    newest = committed.checkpoints[-1]
    for before, after in zip(uninterrupted, resumed, strict=True):
        assert before["restored"] is None
        assert after["restored"] == f"{two.url}/{newest.prefix}"
        assert after["first"] == newest.step
        assert after["losses"] == before["losses"][newest.step :]
        assert after["state"] == before["state"]
        assert all(after["state"].values())


def test_a_downloaded_run_is_read_without_holdfast(
    object_store: ObjectStore, tell: Callable[[Location], None], tmp_path: Path
) -> None:
    """A downloaded run is read without Holdfast. Guards against checkpoints that only Holdfast can read in a bucket."""
    server = object_store("s3")
    location = server.location()
    tell(location)
    with new_cluster(tmp_path, server) as cluster, cluster.world() as world:
        saved = world.run("saving.save", directory=location.url, kind="various")
        restored = world.run("saving.restore", directory=location.url, kind="various")
    assert [each["values"] for each in restored] == [each["values"] for each in saved]
    copy = tmp_path / "copy"
    server.files.get(location.url, str(copy), recursive=True)
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAMS / "stock_reader.py"), json.dumps([[str(copy), "various"]])],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["latest"] == saved[0]["prefix"].replace(location.url, str(copy))
    assert found["restored"] == saved[0]["values"]
