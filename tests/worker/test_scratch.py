"""Folders for what is only passed on, and signals while they are removed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from holdfast.scratch import remove_folder, scratch_folder
from support.interrupts import Instants


def fill(folder: str, elsewhere: Path) -> None:
    (Path(folder) / "a" / "b").mkdir(parents=True)
    for name in ("one", "a/two", "a/b/three"):
        (Path(folder) / name).write_text(name)
    (Path(folder) / "link").symlink_to("/dev/fd/0")
    (Path(folder) / "a" / "to a folder").symlink_to(elsewhere)


def test_removed_whole(tmp_path: Path) -> None:
    """A folder goes with all that is in it. Guards against a temporary disk that fills up, and a link that is
    followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    with scratch_folder() as folder:
        fill(folder, elsewhere)
    assert not os.path.exists(folder)
    assert (elsewhere / "kept").read_text() == "kept"
    remove_folder(folder)  # it is gone already, which is no error


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 traces no instruction of a function's first call")
def test_interrupted_at_every_instant(tmp_path: Path) -> None:
    """What a signal handler raises comes out as it is, and no descriptor is closed twice. Guards against an OSError in
    place of Ctrl-C, and against the loss of a file that another thread has opened."""
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        fill(str(folder), tmp_path)
        descriptors = set(os.listdir("/dev/fd"))
        instants = Instants(("holdfast/scratch.py", "/os.py", "/contextlib.py"), number, _stop)
        try:
            with instants.watched():
                remove_folder(str(folder))
        except KeyboardInterrupt:
            assert instants.reached
        assert set(os.listdir("/dev/fd")) <= descriptors, instants.where
        if not instants.reached:
            assert not folder.exists()
            break
    assert number > 50


def _stop() -> None:
    raise KeyboardInterrupt
