"""The one form of a run directory's URL, made from what a user writes."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import PATTERN_CHARACTERS

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
_HALF = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/.*", re.DOTALL)  # what pathlib makes of a URL
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_MOST_LINKS = 40  # on one path, as in Linux

BUCKETS = {"s3": "bucket", "gs": "bucket", "az": "container"}
"""Protocols of object stores, and what they call the container of objects."""


def split(url: str) -> tuple[str, str]:
    """Split a URL into protocol (`file` if there is none) and path. InvalidRequest for half a URL."""
    match = _URL.fullmatch(url)
    if match is not None:
        protocol = match[1].lower()
        return _ALIASES.get(protocol, protocol), match[2]
    if "://" in url:
        raise InvalidRequest(f"{shown(url)} cannot be used: a run directory is a path, or a URL of one protocol")
    if _HALF.fullmatch(url):
        raise InvalidRequest(f"{url} cannot be used: a URL has two slashes, of which pathlib takes one; give a string")
    return "file", url


def shown(url: str) -> str:
    """Return a URL as it may appear in an error, without a possible password or signature."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    user = user.partition(":")[0] + ":..." if ":" in user else user
    path, mark, _ = f"{host}{slash}{path}".partition("?")
    return f"{protocol}://{user}{at}{path}{mark}{'...' * bool(mark)}"


def normalise(url: str | os.PathLike[str]) -> str:
    """Return a run directory's URL in a form in which URLs can be compared.

    For a local directory this is an absolute path without symbolic links. Otherwise it is `protocol://path`, with one
    name for each protocol and no empty, `.` or `..` step in the path. Raises InvalidRequest for what cannot be a run
    directory, and for a URL with a password: URLs are sent, stored and logged.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"A run directory is a path or a URL, not {url!r}")
    protocol, path = split(text)
    seen = shown(text)
    user = path.partition("/")[0].rpartition("@")[0] if protocol != "file" else ""
    if ":" in user:
        raise InvalidRequest(
            f"{seen} cannot be used: it holds a password. Give it in storage_options, or where the library of the "
            "storage looks for it",
            object=seen,
        )
    try:
        path = os.path.realpath(path) if protocol == "file" else path
        path.encode()
    except ValueError as error:  # zero bytes, or a name that is not UTF-8
        raise InvalidRequest(f"{seen!r} cannot be used: {error}") from error
    if protocol != "file":
        place, _, rest = path.partition("/")
        if protocol in BUCKETS and not place:
            raise InvalidRequest(f"{seen} cannot be used: it names no {BUCKETS[protocol]}", object=seen)
        path = posixpath.normpath(f"/{path.lstrip('/')}") if protocol == "memory" else posixpath.normpath(f"/{rest}")
        path = path.strip("/") if protocol == "memory" else f"{place}/{path.strip('/')}".rstrip("/")
    if not path or path == "/":
        raise InvalidRequest(f"{seen} cannot be used: it is the root of its file system; name a folder", object=seen)
    if found := sorted(set(path) & set(PATTERN_CHARACTERS)):
        raise InvalidRequest(
            f"{seen} cannot be a run directory: TensorFlow's own latest_checkpoint would not find checkpoints below a "
            f"path with {' '.join(found)} in it",
            object=seen,
        )
    return path if protocol == "file" else f"{protocol}://{path}"


def led_to(url: str, known: Collection[str]) -> str:
    """Return the URL without links, looking only at folders above, at and below the known ones, and at links there.

    For who does not trust the author of the URL: a look into a folder may mount what is named in it, or never return.
    Empty if the path leaves those folders. A URL of another protocol is returned as it is: nothing is looked at.
    """
    protocol, path = split(url)
    if protocol != "file":
        return url
    if not path.startswith("/") or "\0" in path:
        return ""
    at, rest, links = "", path.split("/")[::-1], 0  # what is behind us, without a final slash, and what is to come
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        if not any(f"{each}/".startswith(f"{at}/") or f"{at}/".startswith(f"{each}/") for each in known):
            return ""
        try:
            target = os.readlink(f"{at}/{part}")
        except OSError:  # it is no link, or is not there
            at = f"{at}/{part}"
            continue
        links += 1
        if links > _MOST_LINKS:
            return ""
        rest += target.split("/")[::-1]
        at = "" if target.startswith("/") else at
    return at
