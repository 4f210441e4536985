"""Where an export goes: whole or not at all, and nothing is replaced without leave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from holdfast.bridges.destination import Destination
from holdfast_storage.errors import InvalidRequest, StorageError


def _file(path: str) -> None:
    Path(path).write_bytes(b"new")


def _folder(path: str) -> None:
    for name in ("saved_model.pb", "variables/a", "assets/z"):
        os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
        _file(f"{path}/{name}")


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder as a URL."""
    return str(tmp_path / "deep") if request.param == "local" else f"memory://{tmp_path}"


def _found(place: str) -> dict[str, bytes]:
    fs, path = fsspec.core.url_to_fs(place)
    return {each.removeprefix(path).lstrip("/"): fs.cat_file(each) for each in fs.find(path)}


FORMS = {"a file": (_file, {"out": b"new"}), "a folder": (_folder, {
    f"out/{name}": b"new" for name in ("saved_model.pb", "variables/a", "assets/z")
})}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_it_is_there(place: str, form: str) -> None:
    """What was made is in its place, in folders that did not exist, and nothing else is."""
    make, expected = FORMS[form]
    sizes: list[int] = []
    with Destination(f"{place}/out").make(sizes.append) as path:
        make(path)
    assert _found(place) == expected
    assert sum(sizes) == (0 if "://" not in place else 3 * len(expected))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", FORMS)
def test_overwrite(place: str, before: str, form: str) -> None:
    """With leave, what was there is replaced by all of what is new, and by nothing else."""
    fs, path = fsspec.core.url_to_fs(place)
    for name in FORMS[before][1]:
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", b"old")
    with pytest.raises(InvalidRequest, match="is there already"):
        Destination(f"{place}/out")
    make, expected = FORMS[form]
    with Destination(f"{place}/out", overwrite=True).make() as made:
        assert set(_found(f"{place}/out").values()) == {b"old"}
        make(made)
    assert _found(place) == expected


def _fail(path: str) -> None:
    _file(path)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("make", "error"), [(_fail, KeyboardInterrupt), (lambda path: None, StorageError)])
def test_nothing_is_left(place: str, make: Callable[[str], Any], error: type[BaseException]) -> None:
    """If the exporter fails or makes nothing, nothing is there, and what was there stays. Guards against half a model
    that is served."""
    with pytest.raises(error), Destination(f"{place}/out").make() as path:
        make(path)
    assert _found(place) == {}


def test_a_storage_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a storage fails in the middle of a folder, what was copied is removed. The object without which the folder is
    nothing comes last."""
    place = f"memory://{tmp_path}"
    fs = fsspec.filesystem("memory")
    opened: list[str] = []
    real = type(fs).open

    def failing(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode == "wb":
            opened.append(path)
            if path.endswith("saved_model.pb"):
                raise OSError("the disk is full")
        return real(self, path, mode, **kwargs)

    monkeypatch.setattr(type(fs), "open", failing)
    with pytest.raises(StorageError, match="the disk is full"), Destination(f"{place}/out").make() as path:
        _folder(path)
    assert len(opened) == 3
    assert _found(place) == {}
