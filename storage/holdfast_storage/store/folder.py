"""An open folder of a file system, and what can be done in it without following a symbolic link.

Everything is named by one part of a path, in a folder that is held open. So nobody who may write to the folders of a
run can lead a call out of it, not even by changing a folder into a link in the middle of the call. Files are regular
ones: nothing waits for the other end of a FIFO. See docs/design/015-a-hostile-run-directory.md.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from holdfast_storage.pauses import pauses
from holdfast_storage.store.base import Buffer

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ON_THE_WAY = _FOLDER | getattr(os, "O_PATH", os.O_RDONLY)  # needs no permission to read the folder
_NO_FOLDER = {errno.ENOTDIR, errno.ELOOP}  # what open(2) says of a link, depending on the system

DEEPEST = 16
"""The levels of folders that are deleted. A checkpoint has two."""

LEASE = 60.0
"""Seconds to wait for a file that a server (Samba, NFS) has lent to a client. Linux takes it back within 45 s."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Folder:
    """A folder, held open until `close`, or by `with`. All methods raise OSError.

    path: the absolute path, for errors.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    @classmethod
    def at(cls, path: str, *, make: bool = False) -> Folder:
        """Open a folder by its absolute path, no part of which may be a link. make: make what is missing, durably."""
        with suppress(OSError):
            fd = os.open(path, _ON_THE_WAY)
            # Linux knows the path of what is open, and in it there are no links.
            if _path_of(fd) == path:
                return cls(fd, path)
            os.close(fd)
        # It is missing, or there is a link on the way, or another system. Go down part by part.
        folder = cls(os.open("/", _ON_THE_WAY), "")
        for part in filter(None, path.split("/")):
            with folder:
                folder = folder.inner(part, make=make)
        return folder

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def inner(self, name: str, *, make: bool = False) -> Folder:
        """Open a folder in this one. make: make it if it is missing, durably."""
        try:
            return Folder(os.open(name, _ON_THE_WAY, dir_fd=self.fd), f"{self.path}/{name}")
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            if error.errno in _NO_FOLDER:
                self._refuse_link(name)
            raise
        with suppress(FileExistsError):
            self._make(name)
        self.sync()
        return self.inner(name)

    def open(self, name: str) -> int:
        """Return a descriptor for reading a regular file, which the caller closes."""
        try:
            fd = self._open(name)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                self._check_kind(name, self.look(name))
            raise
        try:
            self._check_kind(name, os.fstat(fd))
            os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def write(self, name: str, chunks: Iterable[Buffer], *, private: bool = False) -> int:
        """Write a file that must not exist, durable except for its name. Return its size in bytes.

        In a folder with the setgid bit, the folder's group may read it. private: apart from that, its owner alone may.
        After an error its remains are removed, unless all of it was written: somebody may have read it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600 if private else 0o666, dir_fd=self.fd)
        complete = False
        try:
            self._share(fd, stat.S_IRGRP)
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
                    self.unlink(name)
            raise
        finally:
            # After a successful fsync, close has nothing left to report.
            with suppress(OSError):
                os.close(fd)

    def link(self, name: str, new: str) -> None:
        """Give a file a second name, which must be free."""
        os.link(name, new, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)

    def rename(self, name: str, new: str) -> None:
        os.replace(name, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.fd)

    def look(self, name: str) -> os.stat_result:
        """Return what is there under a name, be it a link."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def size(self, name: str) -> int | None:
        """Return the size of a regular file, None for a folder."""
        status = self.look(name)
        if stat.S_ISDIR(status.st_mode):
            return None
        self._check_kind(name, status)
        return status.st_size

    @contextmanager
    def entries(self) -> Iterator[list[os.DirEntry[str]]]:
        """Yield what is in the folder. The entries can be asked until the end of the `with`."""
        fd = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=self.fd)
        try:
            with os.scandir(fd) as found:
                entries = list(found)
            yield entries
        finally:
            os.close(fd)

    def delete(self, name: str, depth: int = DEEPEST) -> None:
        """Delete a folder and all below it, even if others do so at the same time. Of a link, delete the link."""
        if not depth:
            raise OSError(errno.ENOTEMPTY, f"{self.path}/{name} is nested deeper than a checkpoint ever is")
        try:
            if stat.S_ISLNK(self.look(name).st_mode):
                self.unlink(name)
                return
            with self.inner(name) as folder, folder.entries() as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folder.delete(entry.name, depth - 1)
                    else:
                        with suppress(FileNotFoundError):
                            folder.unlink(entry.name)
            os.rmdir(name, dir_fd=self.fd)
        except FileNotFoundError:
            return

    def sync(self) -> None:
        """Make the names in the folder durable."""
        fd = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=self.fd)
        try:
            os.fsync(fd)
        except OSError as error:
            # Some file systems (FUSE, CIFS) keep folders durable by themselves and refuse the request.
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(fd)

    def _make(self, name: str) -> None:
        """Make a folder. In a folder with the setgid bit, the group may do in it what it may do here."""
        os.mkdir(name, dir_fd=self.fd)
        if os.fstat(self.fd).st_mode & stat.S_ISGID:
            fd = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=self.fd)
            try:
                self._share(fd, stat.S_IRWXG)
            finally:
                os.close(fd)

    def _share(self, fd: int, bits: int) -> None:
        """If this folder has the setgid bit, give its group those rights to what was made that it has here."""
        mode = os.fstat(self.fd).st_mode
        if mode & stat.S_ISGID:
            wanted, has = mode & bits, stat.S_IMODE(os.fstat(fd).st_mode)
            if wanted & ~has:
                with suppress(OSError):  # a file system that has no modes of its own
                    os.fchmod(fd, has | wanted)

    def _open(self, name: str) -> int:
        end = time.monotonic() + LEASE
        for pause in pauses():
            try:
                # Without O_NONBLOCK, a FIFO would be waited for.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                return os.open(name, flags, dir_fd=self.fd)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(pause)
        raise AssertionError("pauses never end")

    def _check_kind(self, name: str, status: os.stat_result) -> None:
        """Raise OSError if something is not a regular file."""
        if stat.S_ISLNK(status.st_mode):
            self._refuse_link(name)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")

    def _refuse_link(self, name: str) -> None:
        """Raise OSError if a name is a link."""
        if stat.S_ISLNK(self.look(name).st_mode):
            raise OSError(
                errno.ELOOP,
                f"{self.path}/{name} is a symbolic link. None in a run directory is followed, nor one that was made "
                "above it after it was opened: put in its place what it names, or mount that there",
            )


def _path_of(fd: int) -> str:
    """Return the path of an open folder, empty if the system does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
