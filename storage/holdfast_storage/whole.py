"""Reading an object of a kind whose size is bounded."""

from __future__ import annotations

from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.store.base import Store, TooLarge


def read_whole(store: Store, name: str, largest: int) -> bytes:
    """Return the bytes of an object.

    Raises CheckpointDamaged, without having read them, if they are more than `largest`; else what `Store.read` raises.
    """
    try:
        return store.read(name, limit=largest)
    except TooLarge as error:
        full = f"{store.url}/{name}"
        raise CheckpointDamaged(
            f"{full} has more than {largest:,} bytes, which it never should", object=full
        ) from error
