"""A run directory in a folder that POSIX calls reach: a local disk, NFS, a parallel file system.

Durable means fsync of the file and of every folder from it up to the run directory. An fsync that failed is never
tried again on the same file: the kernel may by then have dropped the pages and would report success (the lesson of
PostgreSQL's "fsyncgate").
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

# The answers of link(2) if the file system has no hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_TEMPORARY = ".tmp"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)

LEFT_FOR = 3600.0
"""Seconds after which a temporary file counts as left by a killed process. A process that was stopped for so long in
the middle of a call, and finds its file gone, gets an error of unknown outcome, and looks at what is there."""


class PosixStore(Store):
    """A `Store` over a folder, which is made when the first object is."""

    local = True
    parallel = 2
    block = 2 << 20  # memory that is touched for the first time costs more than reading

    def __init__(self, root: str) -> None:
        self.url = root

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        path = self._path(name)
        with ExitStack() as stack:
            try:
                temporary = stack.enter_context(self._finished(path, data, "create", private=private))
            except StorageError as error:
                raise NotCreated(str(error), object=path) from error
            with _naming("create", path):
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    # A network file system that repeats a request whose answer was lost refuses the second one
                    # although the first succeeded. The count of links tells. In both cases the file must be durable:
                    # its maker may have been killed before that, and the caller builds on what it finds.
                    _fsync_folder(os.path.dirname(path))
                    return os.stat(temporary).st_nlink > 1
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    return _create_without_links(path, data, private=private)
                _fsync_folder(os.path.dirname(path))
                return True

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        path = self._path(name)
        with _naming("write", path):
            self._make_folder(os.path.dirname(path))
            size = _write_new(path, chunks)
            self._fsync_folders(os.path.dirname(path))
            return size

    def replace(self, name: str, data: Buffer) -> None:
        path = self._path(name)
        with self._finished(path, data, "replace") as temporary, _naming("replace", path):
            os.replace(temporary, path)
            _fsync_folder(os.path.dirname(path))

    def open(self, name: str) -> int:
        """Return a file descriptor of an object, which the caller closes. FileNotFoundError if missing.

        The object stays readable through it after `delete_folder`.
        """
        path = self._path(name)
        with _naming("open", path):
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except NotADirectoryError as error:
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
        with _naming("look at", path):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if stat.S_ISDIR(status.st_mode) else status.st_size

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        path = self._path(folder) if folder else self.url
        with _naming("list", path):
            try:
                with os.scandir(path) as entries:
                    names = [entry.name + "/" * entry.is_dir() for entry in entries if entry.name.startswith(start)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in names if not (name.startswith(".") and name.endswith(_TEMPORARY)))

    def delete_folder(self, folder: str) -> None:
        path = self._path(folder)
        with _naming("delete", path):
            _delete(path)
            with suppress(FileNotFoundError):
                _fsync_folder(os.path.dirname(path))

    def remove_leftovers(self, folder: str = "") -> None:
        """Remove temporary files directly in a folder that are much older than the folder's last change.

        Both times are the file server's, so the clocks of hosts do not matter.
        """
        path = self._path(folder) if folder else self.url
        with _naming("clean up", path), suppress(FileNotFoundError):
            changed = os.stat(path).st_mtime
            with os.scandir(path) as entries:
                found = [entry for entry in entries if _LEFTOVER.fullmatch(entry.name)]
            for entry in found:
                with suppress(FileNotFoundError):
                    if changed - entry.stat(follow_symlinks=False).st_mtime >= LEFT_FOR:
                        os.unlink(entry.path)

    def _path(self, name: str) -> str:
        return os.path.join(self.url, check_relative(name))

    @contextmanager
    def _finished(self, path: str, data: Buffer, verb: str, *, private: bool = False) -> Iterator[str]:
        """Yield a durable temporary file in the folder of `path`. It is removed afterwards unless it was renamed."""
        folder, base = os.path.split(path)
        temporary = os.path.join(folder, f".{base}.{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            with _naming(verb, path):
                self._make_folder(folder)
                _write_new(temporary, [data], private=private)
            yield temporary
        finally:
            with suppress(OSError):
                os.unlink(temporary)

    def _make_folder(self, folder: str) -> None:
        """Make a folder and those above it, each durable in its parent."""
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for path in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(path)
            _fsync_folder(os.path.dirname(path))

    def _fsync_folders(self, folder: str) -> None:
        """Make all folders from the run directory to this one durable, whichever worker made them."""
        _fsync_folder(folder)
        while folder != self.url:
            folder = os.path.dirname(folder)
            _fsync_folder(folder)


def _create_without_links(path: str, data: Buffer, *, private: bool) -> bool:
    """Create a file exclusively. Readers can see a part of it, so it must contain its own checksum."""
    try:
        _write_new(path, [data], private=private)
    except FileExistsError:
        return False
    _fsync_folder(os.path.dirname(path))
    return True


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
        raise StorageError(f"Could not {verb} {path}: {error.strerror or error}", object=path) from error


def _write_new(path: str, chunks: Iterable[Buffer], *, private: bool = False) -> int:
    """Write a file that must not exist, durable except for its name in the folder. Return its size in bytes.

    After an error its remains are removed, unless all of it was written: somebody may have read it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
    complete = False
    try:
        if private and os.stat(os.path.dirname(path)).st_mode & stat.S_ISGID:
            os.fchmod(fd, 0o640)
        size = 0
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            while view:
                written = os.write(fd, view)
                size += written
                view = view[written:]
        complete = True
        os.fsync(fd)
        return size
    except BaseException:
        if not complete:
            with suppress(OSError):
                os.unlink(path)
        raise
    finally:
        # After a successful fsync, close has nothing left to report.
        with suppress(OSError):
            os.close(fd)


def _fsync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems (FUSE, CIFS) keep folders durable by themselves and refuse the request.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def _pread(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill a buffer from a file, as far as the file goes. Return the bytes read."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def _delete(path: str) -> None:
    """Delete a folder and all below it, even if others do so at the same time. Symbolic links are not followed."""
    try:
        with os.scandir(path) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                _delete(entry.path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return
