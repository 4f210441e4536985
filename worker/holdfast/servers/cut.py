"""Snapshots of a checkpoint whose variables lie on parameter servers: one call of one function, on all of them.

The function reads each variable where it lies and hands it to the agent there. The agent has the variable's own buffer;
while it keeps that, TensorFlow writes the variable's next value to another one. So the call is over in milliseconds,
and what each server holds then is of the moment of the call.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from holdfast.saving.plan import Spec
from holdfast.saving.shares import Assigned, Record, Share, Shares, plan_shares
from holdfast.saving.snapshot import Snapshot
from holdfast.servers.fleet import Servers
from holdfast.servers.table import Table, learn
from holdfast.tensorflow_internals import call_on
from holdfast_storage.bundle.index import header_record

if TYPE_CHECKING:
    from holdfast.saving.increments import Increments


@dataclass(frozen=True, slots=True)
class _Planned:
    """How all tasks write what they hold, for as long as it lies where it does."""

    table: Table
    own: tuple[Spec, ...]  # the chief's tensors of numbers
    shares: Shares
    digest: bytes
    tables: list[frozenset[int]]  # by task
    headers: tuple[Record, ...]
    table_headers: tuple[Record, ...]


class Cutter:
    """Takes the snapshots of one checkpoint, and has the servers save them.

    Args:
        checkpoint: the `tf.train.Checkpoint`.
        servers: which have all been enlisted.
    """

    def __init__(self, checkpoint: Any, servers: Servers) -> None:
        self._checkpoint = checkpoint
        self._servers = servers
        self._table: Table | None = None
        self._hand_over: Any = None
        self._planned: _Planned | None = None
        self._assigned = b""  # the digest of the plan that the servers have been told

    def table(self) -> Table:
        """Return what lies where, as of now.

        Raises InvalidRequest for what cannot be saved, and SaveFailed, which names the servers that are wrong.
        """
        try:
            _ = (
                self._checkpoint.save_counter
            )  # TensorFlow makes it when it is first asked for: not after this was learnt
            if self._table is None or not self._table.lasts:
                before, self._table = self._table, learn(self._checkpoint, len(self._servers.devices))
                if before is None or _places(before) != _places(self._table):
                    self._hand_over = None
        except tf.errors.OpError as error:  # a variable cannot be made or read where it lies
            raise self._servers.translated(error) from error
        return self._table

    def cut(self, ordinal: int, step: int, increments: Increments | None) -> tuple[Snapshot, Assigned]:
        """Take a snapshot, have each server save its part of it, and return the chief's.

        increments: the chief's, which say whether the save is full.

        Raises SaveFailed, which names the servers that are wrong.
        """
        table = self.table()
        own = table.of_chief()
        planned = self._plan(table, tuple(each.spec for each in own if not each.encoded))
        if planned.digest != self._assigned:
            self._assign(planned)
        if self._hand_over is None:
            self._hand_over = tf.function(lambda requests: self._handed_over(table, requests), autograph=False)
        snapshot = secrets.token_bytes(16)
        fields = {
            "assignment": planned.digest.hex(),
            "snapshot": snapshot.hex(),
            "ordinal": ordinal,
            "step": step,
            "is_full": increments is None or not increments.base(planned.digest),
        }
        requests = self._servers.requests("save", [fields] * len(table.servers))
        self._servers.answers(lambda: self._hand_over(requests))
        assigned = Assigned(
            planned.digest,
            snapshot,
            planned.shares.plan,
            planned.tables[0],
            planned.headers,
            planned.table_headers,
        )
        return Snapshot(tuple(own), table.object_graph, assets=table.assets), assigned

    def _plan(self, table: Table, own: tuple[Spec, ...]) -> _Planned:
        known = self._planned
        if known is None or known.table is not table or known.own != own:
            theirs = [[each.share for each in held] for held in table.servers]
            shares = plan_shares([[Share(spec, None) for spec in own], *theirs])
            headers = _headers(table, own, shares)
            self._planned = known = _Planned(table, own, shares, shares.digest, shares.tables, *headers)
        return known

    def _assign(self, planned: _Planned) -> None:
        """Tell the servers what each of them holds, and how it is to be written."""
        fields, plan = [], planned.shares.plan
        for worker, held in enumerate(planned.table.servers, 1):
            objects = [
                (each.shard, [(p.position, p.extents, p.begin, p.end, p.offset) for p in each.pieces])
                for each in plan.parts[worker].objects
            ]
            tensors = [(each.key, each.dtype.as_datatype_enum, each.shape) for each in held]
            fields.append(
                {
                    "digest": planned.digest.hex(),
                    "worker": worker,
                    "shards": plan.num_shards,
                    "tensors": tensors,
                    "objects": objects,
                    "tables": sorted(planned.tables[worker]),
                }
            )
        self._assigned = b""  # until all have been told
        self._servers.tell("assign", fields)
        self._assigned = planned.digest

    def _handed_over(self, table: Table, requests: list[Any]) -> list[Any]:
        answers = []
        for device, held, request in zip(self._servers.devices, table.servers, requests, strict=True):
            with tf.device(device):
                values = [each.read() for each in held]
            answers += call_on(device, request, values)
        return answers


def _places(table: Table) -> list[list[Any]]:
    return [[each.place for each in held] for held in table.servers]


def _headers(table: Table, own: Sequence[Spec], shares: Shares) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return the records of what is stored in slices: of tensors that are no tables, and of tables."""
    whole = {each.key: (each.dtype, each.shape) for each in own}
    for held in table.servers:
        whole.update((each.key, (each.dtype.as_datatype_enum, each.whole)) for each in held)
    tables = {shares.held[task][p].spec.key for task, found in enumerate(shares.tables) for p in found}
    records = {key: header_record(key, *whole[key], slices) for key, slices in shares.slices.items()}
    return (
        (*table.headers, *(record for key, record in records.items() if key not in tables)),
        tuple(record for key, record in records.items() if key in tables),
    )
