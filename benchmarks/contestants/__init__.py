"""The contestants, by name: two fields that never meet, one for files and one for objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_HERE = "benchmarks.contestants"


@dataclass(frozen=True)
class Field:
    """The contestants that run against each other.

    Attributes:
        name: what they save to.
        labels: what each is called; in the order of turns and of columns.
        reference: whom the ratios are relative to.
        limit: who shows what the storage allows.
        remarks: what a reader of the report must know of the comparison.
    """

    name: str
    labels: Mapping[str, str]
    reference: str
    limit: str
    remarks: str


FILES = Field(
    "files",
    {
        "tensorflow": "TensorFlow sync",
        "tensorflow_async": "TensorFlow async",
        "holdfast": "Holdfast",
        "raw": "raw write (limit)",
    },
    reference="tensorflow",
    limit="raw",
    remarks="One worker. Durable against durable: for the save to durable the harness fsyncs TensorFlow's files, and "
    "nowhere else. Restores read from the page cache.",
)
OBJECTS = Field(
    "s3",
    {
        "s3fs_open": "`fs.open().write`, one by one",
        "s3fs_pipe": "s3fs `pipe_file`, concurrent",
        "dcp": "PyTorch DCP, `FsspecWriter`",
        "holdfast": "Holdfast",
        "obstore": "obstore put and get (limit)",
    },
    reference="s3fs_open",
    limit="obstore",
    remarks="The store runs on the same processors as the workers, so that nobody is faster than what both burn. Saves "
    "are divided among the workers, and every worker restores everything. Memory is what a worker has at most beside "
    "the state, files in memory included.",
)

_CLASSES = {
    ("files", "tensorflow"): (f"{_HERE}.tensorflow_manager", "TensorFlowManager"),
    ("files", "tensorflow_async"): (f"{_HERE}.tensorflow_manager", "TensorFlowAsyncManager"),
    ("files", "holdfast"): (f"{_HERE}.holdfast_manager", "HoldfastManager"),
    ("files", "raw"): (f"{_HERE}.raw", "RawWriter"),
    ("s3", "s3fs_open"): (f"{_HERE}.s3fs_client", "OneByOne"),
    ("s3", "s3fs_pipe"): (f"{_HERE}.s3fs_client", "Concurrent"),
    ("s3", "dcp"): (f"{_HERE}.torch_dcp", "TorchDcp"),
    ("s3", "holdfast"): (f"{_HERE}.holdfast_worker", "HoldfastWorker"),
    ("s3", "obstore"): (f"{_HERE}.obstore_client", "ObstoreClient"),
}


def create(field: str, name: str, *arguments: Any) -> Any:
    """Make a contestant. Imports its library here, so that the report and the parent process need none of them."""
    module, cls = _CLASSES[field, name]
    return getattr(import_module(module), cls)(*arguments)
