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

SHARED_WITHIN = 2.0
"""Seconds for which a new folder may not yet have the mode that it is to have."""

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
            found = cls(os.open(path, _ON_THE_WAY), path)
            # Linux knows the path of what is open, and in it there are no links.
            if _path_of(found.fd) == path and not (make and found.is_restricted):
                return found
            found.close()
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
        """Open a folder in this one. make: make it if it is missing, durably, and shared if this one is."""
        try:
            found = self._inner(name)
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=self.fd)
                self._share(name)
            self.sync()
            found = self._inner(name)
        if make:
            self._await_shared(found)
        return found

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
            _widen(fd, self.group_rights & stat.S_IRGRP)
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

    @property
    def group_rights(self) -> int:
        """What the folder's group may do in it, if the setgid bit makes what is in it the group's as well; else 0."""
        mode = os.fstat(self.fd).st_mode
        return mode & stat.S_IRWXG if mode & stat.S_ISGID else 0

    @property
    def is_restricted(self) -> bool:
        """Whether the folder has the setgid bit, and its group may not do everything in it."""
        mode = os.fstat(self.fd).st_mode
        return bool(mode & stat.S_ISGID) and mode & stat.S_IRWXG != stat.S_IRWXG

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

    def _inner(self, name: str) -> Folder:
        try:
            return Folder(os.open(name, _ON_THE_WAY, dir_fd=self.fd), f"{self.path}/{name}")
        except OSError as error:
            if error.errno in _NO_FOLDER:
                self._refuse_link(name)
            raise

    def _share(self, name: str) -> None:
        """Give the group the rights in a folder that was made here that it has here."""
        if rights := self.group_rights:
            fd = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=self.fd)
            try:
                _widen(fd, rights)
            finally:
                os.close(fd)

    def _await_shared(self, inner: Folder) -> None:
        """Wait for another process that has just made a folder here and has not shared it yet."""
        for pause in pauses(0.001):
            status = os.fstat(inner.fd)
            if not self.group_rights & ~status.st_mode or abs(time.time() - status.st_ctime) > SHARED_WITHIN:
                return
            time.sleep(pause)

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


def _widen(fd: int, rights: int) -> None:
    """Add rights to the mode of a file or folder, if we may."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if rights & ~mode:
        with suppress(OSError):  # it is another user's, or the file system has no modes
            os.fchmod(fd, mode | rights)


def _path_of(fd: int) -> str:
    """Return the path of an open folder, empty if the system does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
