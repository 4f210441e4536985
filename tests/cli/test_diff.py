"""`holdfast diff`."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import Result

from holdfast import comparing
from holdfast.cli import diff_picture
from holdfast_storage.errors import StorageError
from holdfast_storage.log.log import Log

from .conftest import RunDirectory

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]
KERNEL, COUNTER = "kernel/.ATTRIBUTES/VARIABLE_VALUE", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def two(run_directory: RunDirectory) -> RunDirectory:
    """A run with a full step 10, and a delta 20 on it."""
    full = run_directory.save(10, 1)
    run_directory.log(full, run_directory.save_delta(20, 2, full))
    return run_directory


def test_a_full_one_and_a_delta(two: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """Status is 0 though they differ, changed tensors have their norms, and what is a worker's own is compared, too.
    Guards against a row of the delta that is taken for a tensor."""
    found = holdfast_json("diff", f"{two.path}@10", f"{two.path}@20")
    assert (found["equal"], found["reshaped"], found["added"], found["unchanged"]) == (False, [], [], 0)
    changed = {each["key"]: each for each in found["changed"]}
    assert changed.keys() == {KERNEL, COUNTER}
    kernel = changed[KERNEL]
    assert (kernel["a"], kernel["elements"]) == ({"dtype": "float32", "shape": [4, 2]}, 2)
    assert kernel["l2"] == pytest.approx(math.hypot(2.0, 17.0))  # the row (2, 3) is (0, 20) now
    assert (kernel["max_abs"], changed[COUNTER]["max_abs"]) == (17.0, 10.0)
    assert found["removed"] == [{"task": "worker-1", "key": "mean/.OWN", "dtype": "float32", "shape": [2]}]
    assert [said["name"] for said in found["said"]] == ["step", "time"]
    text = holdfast("diff", f"{two.path}@10", f"{two.path}@20").stdout
    assert "tensors: 2 changed, 0 added, 1 removed, 0 reshaped, 0 unchanged" in text
    assert "mean/.OWN of worker-1" in text


def test_equal_ones(two: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """A checkpoint is equal to itself. Guards against a tensor that is counted twice."""
    found = holdfast_json("diff", two.path, f"{two.path}@20")
    assert (found["equal"], found["changed"], found["said"], found["unchanged"]) == (True, [], [], 2)
    assert "all 2 tensors equal" in holdfast("diff", two.path, two.path).stdout


def test_two_runs(saved: RunDirectory, tmp_path: Path, holdfast_json: HoldfastJson) -> None:
    """Steps of two runs are compared. Guards against a place in one store that is taken for the same in another."""
    other = RunDirectory(tmp_path / "other")
    record = other.save(20, 2)
    other.log(record)
    assert holdfast_json("diff", saved.path, other.path)["equal"]
    found = holdfast_json("diff", f"{saved.path}@10", other.path)
    assert [each["key"] for each in found["changed"]] == [COUNTER]
    assert found["unchanged"] == 2


def test_damage_and_mistakes(two: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """Damage is status 1 and names the object; a step that is not there is wrong use. Guards against "equal" of what
    nobody has read."""
    assert holdfast("diff", two.path, f"{two.path}@15").exit_code == 2
    assert holdfast("diff", two.path, tmp_path / "nothing").exit_code == 2
    (path,) = two.path.glob("ckpt-10.*/*.data-00001-of-00002")
    path.write_bytes(bytes(16))
    result = holdfast("diff", f"{two.path}@10", two.path)
    assert (result.exit_code, path.name in result.stderr) == (1, True)


def test_both_are_leased(two: RunDirectory, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a lease while they are read, and none afterwards. Guards against a job that removes one."""
    log, seen = Log(two.store), []

    def look(*arguments: Any) -> Any:
        entry = log.tail()
        assert entry is not None
        seen.extend(lease.prefix for lease in entry.state.leases)
        raise StorageError("no answer")

    monkeypatch.setattr(comparing, "compare", look)
    assert holdfast("diff", f"{two.path}@10", two.path).exit_code == 1
    assert seen == ["ckpt-10.0a1b2c3d.1/ckpt-10", "ckpt-20.0a1b2c3d.2/ckpt-20"]
    entry = log.tail()
    assert entry is not None
    assert entry.state.leases == ()


def test_a_picture(two: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson, tmp_path: Path) -> None:
    """The worst tensor is on top, usual ends of keys are left out, and the output is that without a picture. Guards
    against a picture of something else than was printed."""
    plain = holdfast_json("diff", f"{two.path}@10", two.path)
    svg, png = tmp_path / "a.svg", tmp_path / "a.PNG"
    png.write_bytes(b"an older one")
    assert holdfast_json("diff", f"{two.path}@10", two.path, "--picture", svg) == plain
    drawn = texts(svg)
    assert [each for each in drawn if each in ("kernel", "save_counter")] == ["kernel", "save_counter"]
    assert "tensors: 2 changed, 0 added, 1 removed, 0 reshaped, 0 unchanged" in drawn
    assert f"A  {two.path}/ckpt-10.0a1b2c3d.1/ckpt-10" in drawn
    result = holdfast("diff", two.path, two.path, "--picture", png)
    assert (result.exit_code, result.stderr, png.read_bytes()[:4]) == (0, "", b"\x89PNG")


def test_a_picture_of_a_thousand(tmp_path: Path) -> None:
    """The worst 40 have a row each, what has no number first, and a row is for all others. Names are no formulas.
    Guards against a picture that nobody can read, and against what nobody sees since it is no number."""
    evil = r"$\frac{1}$ \x1b <b>&"
    odd = [
        difference("nothing", relative=None, l2=None, max_abs=None),
        difference("tiny", relative=5e-324, l2=5e-324),
        difference("huge", relative=1e308, l2=None),
        difference("new", relative=None, l2=1e-9),
        difference(f"{evil}\x1b", relative=0.0, l2=0.0, not_finite=3),
    ]
    usual = [difference(f"layer{n:03}", relative=(n + 1) / 1000) for n in range(995)]
    side = {"run": "/runs/" + "x" * 200, "prefix": "ckpt-1/ckpt-1"}
    diff_picture.draw(path := tmp_path / "many.svg", {"a": side, "b": side, "changed": [*odd, *usual]}, "many")
    rows = [each for each in texts(path) if each.startswith(("layer", "others", "new", "huge", "tiny", "$", "nothing"))]
    best = [f"layer{n:03}" for n in range(994, 957, -1)]
    assert rows == [f"{evil}\\x1b (3 not finite)", "new (A is zero)", "huge (too large)", *best]
    assert "960 others, each at most" in texts(path)
    assert f"A  /runs/{'x' * 54}…{'x' * 46}/ckpt-1/ckpt-1" in texts(path)
    diff_picture.draw(path, {"a": side, "b": side, "changed": odd}, "odd")
    assert {"nothing (no norms)", "tiny", "1e300"} <= set(texts(path))


def test_no_picture(two: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be drawn is wrong use, and is said before anything is read. Guards against minutes for nothing."""
    monkeypatch.setattr(comparing, "compare", lambda *_: pytest.fail("compared"))
    (folder := tmp_path / "folder.png").mkdir()
    for path, why in (
        (tmp_path / "a.jpg", "ends in .png or .svg"),
        (tmp_path / "none" / "a.png", "there is no folder"),
        (folder, "is a directory"),
    ):
        result = holdfast("diff", two.path, two.path, "--picture", path)
        assert (result.exit_code, why in result.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = holdfast("diff", two.path, two.path, "--picture", tmp_path / "a.png")
    assert (result.exit_code, "pip install 'holdfast[picture]'" in result.stderr) == (2, True)


def difference(key: str, **values: Any) -> dict[str, Any]:
    return {"task": None, "key": key, "not_finite": 0, "relative": 1.0, "l2": 1.0, "max_abs": 1.0, **values}


def texts(path: Path) -> list[str]:
    """The texts of an SVG, in the order in which they are drawn."""
    return [each.text or "" for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_help_needs_no_numpy() -> None:
    """The help of the command imports neither numpy nor matplotlib. Guards against a slow command line."""
    program = "import sys, holdfast.cli.diff; sys.exit(not {'numpy', 'matplotlib'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
