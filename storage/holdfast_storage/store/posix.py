"""A run directory in a folder that POSIX calls reach: a local disk, NFS, a parallel file system.

Durable means fsync of the file and of every folder from it up to the run directory. An fsync that failed is never
tried again on the same file: the kernel may by then have dropped the pages and would report success (the lesson of
PostgreSQL's "fsyncgate").

What the run directory is, is decided once: its URL is the path without links. From then on no link is followed, in it
or on the way to it (`folder.py`).
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from holdfast_storage.errors import StorageError
from holdfast_storage.layout import check_relative
from holdfast_storage.store.base import LARGEST, Buffer, NotCreated, Store, too_large
from holdfast_storage.store.folder import Folder

# The answers of link(2) if the file system has no hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_TEMPORARY = ".tmp"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)

LEFT_FOR = 3600.0
"""Seconds after which a temporary file counts as left by a killed process. A process that was stopped for so long in
the middle of a call, and finds its file gone, gets an error of unknown outcome, and looks at what is there."""


class PosixStore(Store):
    """A `Store` over a folder, which is made when the first object is.

    A symbolic link, a FIFO, a device or a socket in place of an object or a folder is a StorageError for every verb,
    but for `delete_folder`, which deletes them.
    """

    local = True
    parallel = 2
    block = 2 << 20  # memory that is touched for the first time costs more than reading

    def __init__(self, root: str) -> None:
        """root: an absolute path, no part of which is a link."""
        self.url = root

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        path = self._path(name)
        base = os.path.basename(path)
        with ExitStack() as stack:
            try:
                folder, temporary = stack.enter_context(_finished(path, data, "create", private=private))
            except StorageError as error:
                raise NotCreated(str(error), object=path) from error
            with _naming("create", path):
                try:
                    folder.link(temporary, base)
                except FileExistsError:
                    # A network file system that repeats a request whose answer was lost refuses the second one
                    # although the first succeeded. The count of links tells. In both cases the file must be durable:
                    # its maker may have been killed before that, and the caller builds on what it finds.
                    folder.sync()
                    return folder.look(temporary).st_nlink > 1
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    return _create_without_links(folder, base, data, private=private)
                folder.sync()
                return True

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        path = self._path(name)
        above, base = os.path.split(path)
        with _naming("write", path):
            with Folder.at(above, make=True) as folder:
                size = folder.write(base, chunks)
            self._sync_folders(above)
            return size

    def replace(self, name: str, data: Buffer) -> None:
        path = self._path(name)
        with _finished(path, data, "replace") as (folder, temporary), _naming("replace", path):
            folder.rename(temporary, os.path.basename(path))
            folder.sync()

    def open(self, name: str) -> int:
        """Return a file descriptor of an object, which the caller closes. FileNotFoundError if missing.

        The object stays readable through it after `delete_folder`.
        """
        path = self._path(name)
        above, base = os.path.split(path)
        with _naming("open", path):
            try:
                with Folder.at(above) as folder:
                    return folder.open(base)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        fd = self.open(name)
        try:
            with _naming("read", self._path(name)):
                size = os.fstat(fd).st_size
                if size > limit:
                    raise too_large(self._path(name), limit)
                buffer = bytearray(size)
                return bytes(memoryview(buffer)[: _pread(fd, 0, memoryview(buffer))])
        finally:
            os.close(fd)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        fd = self.open(name)
        try:
            with _naming("read", self._path(name)):
                return _pread(fd, offset, buffer)
        finally:
            os.close(fd)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        above, base = os.path.split(path)
        with _naming("look at", path):
            try:
                with Folder.at(above) as folder:
                    return folder.size(base)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        """As `Store.list`. A symbolic link may stand for a folder or an object, and is listed as both: whoever uses it
        is told.
        """
        path = self._path(folder) if folder else self.url
        with _naming("list", path):
            try:
                with Folder.at(path) as opened, opened.entries() as entries:
                    found = [entry for entry in entries if f"{entry.name}/".startswith(start)]
                    names = [name for entry in found if not _is_temporary(entry.name) for name in _as_listed(entry)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in names if name.startswith(start))

    def delete_folder(self, folder: str) -> None:
        path = self._path(folder)
        above, base = os.path.split(path)
        with _naming("delete", path), suppress(FileNotFoundError), Folder.at(above) as opened:
            opened.delete(base)
            opened.sync()

    def remove_leftovers(self, folder: str = "") -> None:
        """Remove temporary files directly in a folder that are much older than the folder's last change.

        Both times are the file server's, so the clocks of hosts do not matter.
        """
        path = self._path(folder) if folder else self.url
        with _naming("clean up", path), suppress(FileNotFoundError), Folder.at(path) as opened:
            changed = os.fstat(opened.fd).st_mtime
            with opened.entries() as entries:
                for entry in entries:
                    if _LEFTOVER.fullmatch(entry.name):
                        with suppress(FileNotFoundError):
                            if changed - entry.stat(follow_symlinks=False).st_mtime >= LEFT_FOR:
                                opened.unlink(entry.name)

    def _path(self, name: str) -> str:
        return os.path.join(self.url, check_relative(name))

    def _sync_folders(self, path: str) -> None:
        """Make all folders from the run directory to this one durable, whichever worker made them."""
        above = [path]
        while above[-1] != self.url:
            above.append(os.path.dirname(above[-1]))
        for each in above:
            with Folder.at(each) as folder:
                folder.sync()


@contextmanager
def _finished(path: str, data: Buffer, verb: str, *, private: bool = False) -> Iterator[tuple[Folder, str]]:
    """Yield the folder of an object and a durable temporary file there, which is removed unless it was renamed."""
    above, base = os.path.split(path)
    temporary = f".{base}.{secrets.token_hex(8)}{_TEMPORARY}"
    with ExitStack() as stack:
        with _naming(verb, path):
            folder = stack.enter_context(Folder.at(above, make=True))
            stack.callback(_remove, folder, temporary)
            folder.write(temporary, [data], private=private)
        yield folder, temporary


def _create_without_links(folder: Folder, base: str, data: Buffer, *, private: bool) -> bool:
    """Create a file exclusively. Readers can see a part of it, so it must contain its own checksum."""
    try:
        folder.write(base, [data], private=private)
    except FileExistsError:
        return False
    folder.sync()
    return True


def _remove(folder: Folder, name: str) -> None:
    with suppress(OSError):
        folder.unlink(name)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_TEMPORARY)


def _as_listed(entry: os.DirEntry[str]) -> Iterator[str]:
    link = entry.is_symlink()
    folder = entry.is_dir(follow_symlinks=False)
    if link or not folder:
        yield entry.name
    if link or folder:
        yield f"{entry.name}/"


@contextmanager
def _naming(verb: str, path: str) -> Iterator[None]:
    """Turn errors of the operating system into a StorageError with the full path, except FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        if verb in ("open", "read"):
            raise
        raise StorageError(f"Could not {verb} {path}: {error.strerror}", object=path) from error
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, PermissionError):
            why += _of_others(path)
        raise StorageError(f"Could not {verb} {path}: {why}", object=path) from error


def _of_others(path: str) -> str:
    """Return what to add to an error if what denies access, or the folder that does, belongs to another user."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    for each in (path, os.path.dirname(path)):
        with suppress(OSError):
            status, me = os.lstat(each), os.geteuid()
            needed = os.R_OK | os.W_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK
            if status.st_uid != me and not os.access(each, needed, effective_ids=True):
                groups = " ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
                return (
                    f". {each} belongs to user {status.st_uid} and group {status.st_gid}, with mode "
                    f"{stat.S_IMODE(status.st_mode):o}, and this is user {me} of groups {groups}. Users who share a "
                    "run need a common group, and a run directory of that group that has mode 2770 or 2775 before its "
                    "first use"
                )
    return ""


def _pread(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill a buffer from a file, as far as the file goes. Return the bytes read."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
