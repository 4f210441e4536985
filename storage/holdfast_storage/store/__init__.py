"""The storages that can hold a run directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.scrub import keep_secret
from holdfast_storage.store.base import Store
from holdfast_storage.store.internals import check_internals
from holdfast_storage.store.url import BUCKETS, normalise, split
from holdfast_storage.told import CAUSE, fit, told

__all__ = ["WRITE_BUFFER", "Store", "normalise", "open_store"]

WRITE_BUFFER = 256 << 20
"""The bytes that may be on their way to an object store at a time."""

SMALLEST_PART = 5 << 20
"""The fewest bytes of a part of an upload, except the last: S3 takes no smaller ones."""

_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}


def open_store(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    write_buffer: int = WRITE_BUFFER,
) -> Store:
    """Return the store of a run directory, given by path or URL. Touches nothing there yet.

    storage_options: fsspec's options for the file system; not for local paths. They stay in this process.
    write_buffer: the bytes that may be on their way to an object store at a time.

    Raises InvalidRequest if the protocol is not known, or if a package or an option that it needs is missing.
    """
    if write_buffer < 4 * SMALLEST_PART:
        raise InvalidRequest(f"write_buffer is {write_buffer}: it must be {4 * SMALLEST_PART} bytes at least")
    normal = normalise(url)
    protocol, path = split(normal)
    options = dict(storage_options or {})
    if protocol == "file":
        if options:
            raise InvalidRequest(f"storage_options are for URLs that fsspec opens, not for the local path {normal}")
        from holdfast_storage.store.posix import PosixStore

        return PosixStore(normal)
    try:
        import fsspec.config

        keep_secret(fsspec.config.conf)  # the options of files and of the environment, by protocol
        keep_secret(options)
        check_internals(protocol)
        if protocol in BUCKETS:
            return _object_store(protocol, path, normal, options, write_buffer)
        from holdfast_storage.store.fsspec_store import FsspecStore

        return FsspecStore(normal, options)
    except ImportError as error:
        install = f"pip install 'holdfast[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else str(error)
        raise InvalidRequest(
            f"{normal} cannot be opened: a package is missing here: {install}", object=normal
        ) from error
    except HoldfastError:
        raise
    except Exception as error:  # of a library, about its options
        raise InvalidRequest(
            f"{normal} cannot be opened: {told(error)}. Check storage_options", object=normal
        ) from fit(error, CAUSE)


def _object_store(protocol: str, path: str, url: str, options: dict[str, Any], write_buffer: int) -> Store:
    from holdfast_storage.store.objects.store import ObjectStore

    client: Any
    if protocol == "s3":
        from holdfast_storage.store.objects.s3 import S3Client

        client = S3Client(path, options)
    elif protocol == "gs":
        from holdfast_storage.store.objects.gcs import GcsClient

        client = GcsClient(path, options)
    else:
        from holdfast_storage.store.objects.azure import AzureClient

        client = AzureClient(path, options)
    return ObjectStore(url, client, client.root, write_buffer)
