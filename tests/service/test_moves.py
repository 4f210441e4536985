"""A run that is moved while a job trains in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.cli import main
from holdfast.restoring.staging import Staged
from holdfast_storage.errors import InvalidRequest, Superseded
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator
from support.light_worker import World, all_join, log_kinds, outcomes, until


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def live(store: Store) -> list[int]:
    found = read_run(store)
    return [record.step for record in found.checkpoints] if found else []


def test_a_run_moves_under_its_job(store: Store, coordinator: Coordinator, world: World, tmp_path: Path) -> None:
    """The job ends at its next save, the next one in the old place is told where the run is, and one in the new place
    goes on, with what is pinned. Guards against two runs that both go on."""
    out = tmp_path / "out"
    (worker,) = workers = world(1, coordinator, max_to_keep=1)
    all_join(workers)
    assert outcomes([worker.save(1)]) == [None]
    run("pin", f"{store.url}@1")
    assert outcomes([worker.save(2)]) == [None]
    run("mv", store.url, out)
    (end,) = outcomes([worker.save(3)])
    assert isinstance(end, Superseded)
    assert f"moved to {out}" in str(end)
    worker.close()
    (late,) = world(1, coordinator)
    with pytest.raises(InvalidRequest, match=f"moved to {out}"):
        late.join()
    assert log_kinds(store)[-1] == "move"
    (worker,) = workers = world(1, coordinator, store=open_store(out), max_to_keep=1)
    all_join(workers)
    restored = worker.restore()
    assert isinstance(restored, Staged)
    assert restored.record.step == 2
    restored.close()
    assert outcomes([worker.save(3)]) == [None]
    until(lambda: live(open_store(out)) == [1, 3])
    assert log_kinds(open_store(out))[:3] == ["import", "lead", "commit"]
