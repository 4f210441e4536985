"""PyTorch's distributed checkpoints over fsspec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import peers
from benchmarks.contestants.sharer import Sharer, State

peers.use()

import torch  # noqa: E402
import torch.distributed  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402

THREADS = 8
"""Its default is one; more than eight made nothing faster."""


class TorchDcp(Sharer):
    """`dcp.save` with `FsspecWriter`, `dcp.load` with `FsspecReader`; of the replicas each worker saves its part."""

    def __init__(self, rank: int, addresses: Sequence[str]) -> None:
        super().__init__(rank, addresses)
        if len(addresses) > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=f"tcp://{addresses[0]}", rank=rank, world_size=len(addresses)
            )

    def open(self, state: State, url: str, storage_options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = {**storage_options, "use_listings_cache": False}
        self._state = {f"{number:04}": torch.from_numpy(each) for number, each in enumerate(state)}

    def save(self) -> None:
        # There is nothing to fsync in a bucket.
        writer = dcp.FsspecWriter(self._url, thread_count=THREADS, sync_files=False, **self._options)
        dcp.save(self._state, storage_writer=writer, no_dist=len(self.addresses) == 1)

    def forget(self) -> None:
        for each in self._state.values():
            each.zero_()

    def restore(self) -> None:
        reader = dcp.FsspecReader(self._url, **self._options)
        dcp.load(self._state, storage_reader=reader, no_dist=len(self.addresses) == 1)

    def restored(self) -> Sequence[Any]:
        return [memoryview(each.numpy()).cast("B") for each in self._state.values()]

    def close(self) -> None:
        self._state.clear()
