"""The storages that a run directory can lie on."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import PATTERN_CHARACTERS
from holdfast_storage.store.base import Store

__all__ = ["Store", "normalise", "open_store"]

_PROTOCOL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)


def normalise(url: str | os.PathLike[str]) -> str:
    """A run directory's URL in the one form in which two of them can be compared.

    An absolute path without symbolic links for a local one, with or without `file://`; else `protocol://path`.
    InvalidRequest for what cannot be a run directory.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"A run directory is a path or a URL, not {url!r}")
    protocol, path = _split(text)
    try:
        path = os.path.realpath(path) if protocol == "file" else path
        path.encode()
    except ValueError as error:  # zero bytes, or a name that is not UTF-8
        raise InvalidRequest(f"{text!r} cannot be used: {error}") from error
    if protocol == "memory":
        path = posixpath.normpath("/" + path.lstrip("/")).lstrip("/")
    elif protocol != "file":
        raise InvalidRequest(
            f"{text} cannot be used: {protocol}:// is not supported; local paths, file:// and memory:// are",
            object=text,
        )
    if not path or path == "/":
        raise InvalidRequest(f"{text} cannot be used: it is the root of its file system; name a folder", object=text)
    if found := sorted(set(path) & set(PATTERN_CHARACTERS)):
        raise InvalidRequest(
            f"{path} cannot be a run directory: TensorFlow's own latest_checkpoint would not find checkpoints below a "
            f"path with {' '.join(found)} in it",
            object=text,
        )
    return path if protocol == "file" else f"{protocol}://{path}"


def open_store(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store of a run directory, given by path or URL. Touches nothing there yet.

    storage_options: what fsspec is to be told about the file system; not for local paths.
    """
    normal = normalise(url)
    if _split(normal)[0] == "file":
        if storage_options:
            raise InvalidRequest(f"storage_options are for URLs that fsspec opens, not for the local path {normal}")
        from holdfast_storage.store.posix import PosixStore

        return PosixStore(normal)
    import fsspec

    from holdfast_storage.store.fsspec_store import FsspecStore

    return FsspecStore(normal, fsspec.filesystem("memory", **(storage_options or {})))


def _split(url: str) -> tuple[str, str]:
    """Protocol, `file` if there is none, and path."""
    match = _PROTOCOL.fullmatch(url)
    if match is None:
        return "file", url
    protocol, path = match[1].lower(), match[2]
    return ("file" if protocol == "local" else protocol), path
