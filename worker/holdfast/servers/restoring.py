"""A parameter server's restores: it reads what it wants, agrees with the others, and hands it to its variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from holdfast.restoring.agree import agree
from holdfast.restoring.parts import Parts
from holdfast.restoring.wanted import Wanted
from holdfast.restoring.wants import Want, unwanted
from holdfast.servers.member import Member
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.lag import Wait
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store


def restore(
    member: Member, arrays: Sequence[Any], *, ordinal: int, target: str, timeout: float, wanted: Sequence[Any]
) -> None:
    """Begin to take part in a restore.

    wanted: what each task is known to want, the chief first: keys, and parts of them.
    """
    member.close_restores(before=max(member.restores, default=0))  # the last one may still be asked for values
    wants = [[Want(key, part and _part(part)) for key, part in each] for each in wanted]
    me = member.session.this_task.tasks.index(member.task)

    def stage(store: Store, record: CheckpointRecord, *, progress: Callable[[int], None], wait: Wait) -> Wanted:
        parts = Parts(store, record, wait=wait)
        # The chief has no share in what nobody wants.
        shares = unwanted(parts.index, [want for each in wants for want in each], len(wants) - 1)
        return Wanted(parts, wants[me], shares[me - 1], progress=progress, wait=wait)

    def run() -> Wanted | None:
        member.check()
        return agree(member.session, member.store, ordinal, target, timeout, stage=stage)

    member.restores[ordinal] = member.lane.submit(run)


def is_restored(member: Member, arrays: Sequence[Any], *, ordinal: int) -> bool:
    """Return whether this server has agreed and has what it wants. Raises why it cannot."""
    member.check()
    agreed = member.restores[ordinal]
    if agreed.is_known:
        agreed.result()
    return agreed.is_known


def settle(member: Member, arrays: Sequence[Any], *, ordinal: int) -> None:
    """End a restore: drop what no variable has asked for. What is asked for later is read then."""
    member.close_restores(before=ordinal)
    if (wanted := _agreed(member, ordinal)) is not None:
        wanted.drop()


def fetch(member: Member, arrays: Sequence[Any], *, ordinal: int, asked: Sequence[tuple[str, str, int]]) -> list[Any]:
    """Return tensors as RestoreV2 would, for keys, specifications and dtypes. TensorFlow takes over their memory."""
    wanted = _agreed(member, ordinal)
    if wanted is None:
        raise InvalidRequest(f"{member.task} has restored nothing")
    return [wanted.hand_over(key, spec, tf.as_dtype(dtype)) for key, spec, dtype in asked]


def _agreed(member: Member, ordinal: int) -> Wanted | None:
    agreed = member.restores.get(ordinal)
    return agreed.result() if agreed is not None and agreed.is_known else None


def _part(said: Sequence[Any]) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    shape, extents = said
    return tuple(shape), tuple((start, length) for start, length in extents)
