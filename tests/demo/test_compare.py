"""The comparison of two runs, and what is read and drawn for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from holdfast.demo.cast import Workers
from holdfast.demo.compare import GROUPS, compare_checkpoints, compare_losses, compare_states
from holdfast.demo.picture import draw
from holdfast.demo.progress import final_losses, read_lives
from holdfast.demo.sabotage import Kill
from holdfast.demo.story import Story
from holdfast_storage.errors import InvalidRequest


def dump(folder: Path, worker: int, **changed: np.ndarray) -> None:
    """A final state in which each group has one array, the same on all workers but for the input."""
    folder.mkdir(exist_ok=True)
    arrays = {f"{group}/a": np.arange(4.0) for group in GROUPS} | {"input/a": np.full(3, worker)}
    np.savez(folder / f"final-{worker}.npz", **arrays | {k.replace("_", "/", 1): v for k, v in changed.items()})


def write_progress(folder: Path, worker: int, lines: list[dict[str, float]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"progress-{worker}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def life(begin: int, end: int, time: float) -> list[dict[str, float]]:
    """A start and its steps."""
    start: list[dict[str, float]] = [{"restored": begin, "step": begin, "time": time}]
    return start + [{"step": n, "loss": 1.0 / n, "time": time + n} for n in range(begin + 1, end + 1)]


def test_equal_states_are_equal_and_local_ones_counted(tmp_path: Path) -> None:
    """Equal states are equal, and worker-local ones are counted. Guards against comparing only the chief's values."""
    for side in ("a", "b"):
        for worker in (0, 1):
            dump(tmp_path / side, worker)
    found = {c.what: c for c in compare_states(tmp_path / "a", tmp_path / "b", workers=2)}
    assert all(c.equal and c.compared == 2 for c in found.values())
    assert found[GROUPS["input"]].local == 1
    assert found[GROUPS["weights"]].local == 0


@pytest.mark.parametrize(
    "changed",
    [
        np.nextafter(np.arange(4.0), 9.0),  # the last bit
        np.arange(4.0).astype(np.float32),  # equal values of another type
        np.arange(4.0).reshape(2, 2),
        np.array([-0.0, 1.0, 2.0, 3.0]),  # equal to `==`
    ],
)
def test_any_difference_is_found(tmp_path: Path, changed: np.ndarray) -> None:
    """Any difference in a bit is found. Guards against a comparison by tolerance or by `==`."""
    dump(tmp_path / "a", 0)
    dump(tmp_path / "b", 0, optimizer_a=changed)
    found = {c.what: c for c in compare_states(tmp_path / "a", tmp_path / "b", workers=1)}
    assert found[GROUPS["optimizer"]].differing == ("worker 0: optimizer/a",)
    assert not found[GROUPS["optimizer"]].equal
    assert found[GROUPS["weights"]].equal


def test_nothing_to_compare_is_not_equal(tmp_path: Path) -> None:
    """Two runs without anything to compare are not equal. Guards against a success without a loss or a checkpoint."""
    for side in ("a", "b"):
        write_progress(tmp_path / side, 0, [])
    assert not compare_losses(tmp_path / "a", tmp_path / "b", workers=1).equal
    assert not compare_checkpoints(tmp_path / "a", tmp_path / "b").equal


def test_of_a_step_done_twice_the_second_time_counts(tmp_path: Path) -> None:
    """Of a step that was done twice, the second time counts. Guards against comparing lost steps, which are part of no
    history."""
    twice = life(0, 7, 0.0) + life(4, 10, 100.0)
    twice[6]["loss"] = 5.0
    write_progress(tmp_path / "a", 0, twice)
    write_progress(tmp_path / "b", 0, life(0, 10, 0.0))
    assert compare_losses(tmp_path / "a", tmp_path / "b", workers=1).equal
    twice[-1]["loss"] = 5.0
    write_progress(tmp_path / "a", 0, twice)
    assert compare_losses(tmp_path / "a", tmp_path / "b", workers=1).differing == ("worker 0: step 10",)


def test_an_unfinished_line_is_left_out(tmp_path: Path) -> None:
    """An unfinished line of progress is left out. Guards against an error while a worker is writing."""
    path = write_progress(tmp_path, 0, life(0, 3, 0.0))
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    (only,) = read_lives(path)
    assert only.reached == 3
    assert list(final_losses([only])) == [1, 2, 3]


def test_draws_a_picture(tmp_path: Path) -> None:
    """The picture is drawn. Guards against an error at the very end that throws away the whole demo."""
    first = read_lives(write_progress(tmp_path, 0, life(0, 7, 1000.0) + life(4, 10, 1020.0)))
    second = read_lives(write_progress(tmp_path, 1, life(0, 10, 2000.0)))
    draw(tmp_path / "loss.png", first, second, "worker 1", Kill(step=6, time=1008.0, objects=1, size=5, misses=0))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_refuses_somebody_elses_directory(tmp_path: Path) -> None:
    """A directory that no demo made is refused. Guards against emptying a wrong directory."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidRequest, match="not empty and not of an earlier demo"):
        Story(tmp_path, Workers(2), print).tell()
    assert (tmp_path / "thesis.txt").exists()
