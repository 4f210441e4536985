"""Where an export goes: a file or folder under any URL that fsspec knows, which is there whole or not at all.

What is exported is made under another name first. In a local file system it is then renamed; elsewhere it is copied to
its place, and removed from there if that fails. An object store shows an object only when all of it is there; of a
folder, the object without which it is nothing comes last.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from holdfast.scratch import remove_folder
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.store.url import shown, split

_LAST = "saved_model.pb"
_CHUNK = 8 << 20


class Destination:
    """A place for one file or folder.

    Args:
        url: a local path, or a URL.
        overwrite: whether to replace what is there.

    Raises InvalidRequest if something is there that is not to be replaced, and for a URL that cannot be used.
    """

    def __init__(self, url: str, *, overwrite: bool = False) -> None:
        self.url = shown(url)
        protocol, path = split(url)
        self._fs: Any = None
        self._path = path
        if protocol == "file":
            self._path = os.path.abspath(path)
        else:
            with self._told("use"):
                self._fs, self._path = fsspec.core.url_to_fs(url)
        if self.exists() and not overwrite:
            raise InvalidRequest(f"{self.url} is there already: name another place, or give --overwrite", object=url)

    def exists(self) -> bool:
        """Return whether anything is there."""
        if self._fs is None:
            return os.path.lexists(self._path)
        with self._told("look at"):
            return bool(self._fs.exists(self._path))

    @contextmanager
    def make(self, progress: Callable[[int], None] = lambda count: None) -> Iterator[str]:
        """Yield a local path to write to. What is there when the context ends without an error goes to its place.

        progress: receives the number of bytes of each chunk that is copied.
        """
        name = os.path.basename(self._path.rstrip("/"))
        near = None
        if self._fs is None:
            near = os.path.dirname(self._path)
            with self._told("write"):
                os.makedirs(near, exist_ok=True)
        with self._told("write"):
            folder = tempfile.mkdtemp(prefix=f".{name[:100]}.", dir=near)
        try:
            made = os.path.join(folder, name)  # exporters look at the suffix
            yield made
            with self._told("write"):
                if self._fs is None:
                    self._rename(made, os.path.join(folder, "replaced"))
                else:
                    self._copy(Path(made), progress)
        finally:
            remove_folder(folder)

    @staticmethod
    def size_of(made: str) -> int:
        """Return the bytes of a local file, or of all files of a local folder."""
        files = [Path(made), *Path(made).rglob("*")]
        return sum(each.stat().st_size for each in files if each.is_file())

    def remove(self) -> None:
        """Remove what is there, if anything is."""
        with self._told("remove"):
            if self._fs is not None:
                if self._fs.exists(self._path):
                    self._fs.rm(self._path, recursive=True)
            elif os.path.isdir(self._path) and not os.path.islink(self._path):
                shutil.rmtree(self._path)
            else:
                Path(self._path).unlink(missing_ok=True)

    def _rename(self, made: str, aside: str) -> None:
        if os.path.isdir(self._path) or (os.path.isdir(made) and os.path.lexists(self._path)):
            os.rename(self._path, aside)  # no call replaces a folder, or puts one in the place of a file
        try:
            os.replace(made, self._path)
        except OSError:
            if os.path.lexists(aside):
                os.rename(aside, self._path)
            raise

    def _copy(self, made: Path, progress: Callable[[int], None]) -> None:
        files = sorted((each for each in made.rglob("*") if each.is_file()), key=lambda each: each.name == _LAST)
        to = {each: f"{self._path.rstrip('/')}/{each.relative_to(made).as_posix()}" for each in files}
        to = to or {made: self._path}
        self.remove()
        try:
            for file, path in to.items():
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                with open(file, "rb") as source, self._fs.open(path, "wb") as sink:
                    while chunk := source.read(_CHUNK):
                        sink.write(chunk)
                        progress(len(chunk))
        except BaseException:
            with suppress(Exception):  # the first error tells more
                self.remove()
            raise

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Let errors of a file system say what could not be done."""
        try:
            yield
        except ImportError as error:
            raise InvalidRequest(f"{self.url} cannot be used: {error}", object=self.url) from error
        except (OSError, ValueError) as error:
            raise StorageError(f"Could not {what} {self.url}: {error}", object=self.url) from error
