"""The state of a checkpoint at one moment, as `holdfast.saving.capture` takes it. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.saving.plan import Extents, Spec

_VARIANT = 21  # tensorflow.DataType


@dataclass(frozen=True, slots=True)
class SnapshotTensor:
    """One tensor and its stored bytes, which never change and live as long as this object."""

    key: str
    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]
    data: memoryview | bytes  # bytes: on a CPU the variable's own buffer
    guarded: bool = False  # must be equal on all workers: a trainable variable, or an optimizer's
    encoded_crc32c: int | None = None  # if not None, `data` is TensorFlow's encoding, and this is its masked CRC
    extents: Extents | None = None  # of an encoded part of a tensor: which part it is

    @property
    def encoded(self) -> bool:
        """Whether `data` is TensorFlow's own encoding, as for strings and variants."""
        return self.encoded_crc32c is not None

    @property
    def spec(self) -> Spec:
        """What all workers must agree on."""
        shape = () if self.dtype == _VARIANT else self.shape
        return Spec(self.key, self.dtype, shape, len(self.data), self.encoded)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole state. Positions in votes and plans are indices of `tensors`."""

    tensors: tuple[SnapshotTensor, ...]  # in order of key bytes, the object graph left out
    object_graph: SnapshotTensor
    replicas: tuple[SnapshotTensor, ...] = ()  # `<key>/.REPLICA/<i>`: local values besides that of the stock key
    collective: bool = False  # taking it is a collective: all workers must do so at the same point of their programs
    assets: Mapping[str, bytes] = field(default_factory=dict)  # small files, by name in the checkpoint's folder

    @property
    def specs(self) -> list[Spec]:
        return [t.spec for t in self.tensors]
