"""The key of a run: a secret on the run's own storage. Who can read the run directory can prove it, and nobody else."""

from __future__ import annotations

import re
import secrets

from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.layout import KEY
from holdfast_storage.store.base import Store

SIZE = 32


class KeyLate(StorageError):
    """The key is there, and this host's mount does not show it yet."""


_TEXT = re.compile(rb"[0-9a-f]{64}\n")


def read_key(store: Store) -> bytes | None:
    """Return the run's key, 32 bytes. None if there is none: no job has joined there.

    Raises InvalidRequest if this user may not read it, which waiting does not change, and StorageError if it cannot be
    read, or is no key.
    """
    try:
        text = store.read(KEY, limit=2 * SIZE + 1)
    except FileNotFoundError:
        return None
    except StorageError as error:
        if isinstance(error.__cause__, PermissionError):
            raise InvalidRequest(str(error), object=error.object) from error
        raise
    if not _TEXT.fullmatch(text):
        raise StorageError(
            f"{store.url}/{KEY} is not the key of a run: delete it while no job works here; the next makes a new one",
            object=KEY,
        )
    return bytes.fromhex(text.decode())


def ensure_key(store: Store) -> bytes:
    """Return the run's key, which is made if there is none, readable for its owner alone or, in a folder whose group
    sticks, for the group. Raises as `read_key`."""
    key = read_key(store)
    if key is not None:
        return key
    mine = secrets.token_bytes(SIZE)
    if store.create(KEY, mine.hex().encode() + b"\n", private=True):
        return mine
    key = read_key(store)  # that of whoever was faster
    if key is None:
        raise KeyLate(f"{store.url}/{KEY} was made by another process and cannot be seen here yet", object=KEY)
    return key
