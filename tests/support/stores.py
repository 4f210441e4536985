"""The storages on which the store contract is tested."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from holdfast_storage.parallel import in_parallel
from holdfast_storage.store import Store, open_store
from servers.fixtures import KINDS as SERVERS
from servers.fixtures import ObjectStore

KINDS = ("posix", "memory")
"""Those that are everywhere."""

ALL_KINDS = (*KINDS, "fsspec", *SERVERS)


class PlainFileSystem(LocalFileSystem):
    """A backend that fsspec knows and Holdfast knows nothing of; `plain:///folder` is the local folder."""

    protocol = "plain"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("plain://")))


fsspec.register_implementation("plain", PlainFileSystem)


def winners(store: Store, name: str, contents: Sequence[bytes]) -> list[int]:
    """Create one object from as many threads at once as there are contents for it: the numbers of those that won."""
    start = threading.Barrier(len(contents))

    def create(who: int) -> bool:
        start.wait()
        return store.create(name, contents[who])

    won = in_parallel(create, range(len(contents)), len(contents))
    return [who for who, made in enumerate(won) if made]


def new_store(kind: str, folder: Path) -> Store:
    """An empty store of one of `KINDS`; `folder` is a new one, for those that lie on the local disk."""
    return open_store(folder / "run" if kind == "posix" else f"memory://tests/{secrets.token_hex(8)}/run")


def any_store(kind: str, folder: Path, object_store: ObjectStore) -> Store:
    """An empty store of one of `ALL_KINDS`."""
    if kind in KINDS:
        return new_store(kind, folder)
    if kind == "fsspec":
        return open_store(f"plain://{folder}/run")
    place = object_store(kind).location()
    return open_store(f"{place.url}/run", place.storage_options)
