"""The storages on which the store contract is tested."""

from __future__ import annotations

import secrets
from pathlib import Path

from holdfast_storage.store import Store, open_store

KINDS = ("posix", "memory")


def new_store(kind: str, folder: Path) -> Store:
    """An empty store of a kind; `folder` is a new one, for those that lie on the local disk."""
    return open_store(folder / "run" if kind == "posix" else f"memory://{secrets.token_hex(8)}/run")
