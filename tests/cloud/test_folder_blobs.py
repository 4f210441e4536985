"""Azure accounts with a hierarchical namespace, whose listings show folders as blobs that are marked as such."""

from __future__ import annotations

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob.aio import BlobClient
from fsspec.asyn import sync

from holdfast_storage.store import open_store
from servers.base import Server
from servers.fixtures import ObjectStore


class Blobs:
    """The blobs of a place, as Azurite has them.

    store: Holdfast's, of the same place.
    """

    def __init__(self, server: Server) -> None:
        place = server.location()
        self.store = open_store(place.url, place.storage_options)
        container, _, self._root = place.url.partition("://")[2].partition("/")
        self._container = server.files.service_client.get_container_client(container)
        self._loop = server.files.loop

    def mark(self, folder: str) -> None:
        """Have a blob stand for a folder."""
        blob = self._container.get_blob_client(f"{self._root}/{folder}")
        sync(self._loop, blob.upload_blob, b"", metadata={"hdi_isfolder": "true"})

    def names(self) -> list[str]:
        return [name.removeprefix(f"{self._root}/") for name in sync(self._loop, self.all)]

    async def all(self) -> list[str]:
        return [name async for name in self._container.list_blob_names(name_starts_with=f"{self._root}/")]


def refusal() -> HttpResponseError:
    """What is said where a folder is not empty."""
    error = HttpResponseError("This operation is not permitted on a non-empty directory.")
    error.error_code, error.status_code = "DirectoryIsNotEmpty", 409  # type: ignore[attr-defined]
    return error


def test_folders_are_no_objects(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs that stand for folders are no objects, and are deleted after their contents. Guards against a folder that
    is taken for an object, deleted too early, or left."""
    blobs = Blobs(object_store("azure"))
    store, delete = blobs.store, BlobClient.delete_blob

    async def strict(blob: BlobClient, **options: object) -> None:
        if any(name.startswith(f"{blob.blob_name}/") for name in await blobs.all()):
            raise refusal()
        await delete(blob, **options)

    monkeypatch.setattr(BlobClient, "delete_blob", strict)
    store.create("ckpt-1/data", b"data")
    store.create("ckpt-1/local/worker-0", b"data")
    store.create("ckpt-10/data", b"another")
    for folder in ("ckpt-1", "ckpt-1/local", "ckpt-1/empty", "ckpt-10"):
        blobs.mark(folder)
    assert store.list() == ["ckpt-1/", "ckpt-10/"]
    assert store.list("ckpt-1") == ["data", "local/"]
    store.delete_folder("ckpt-1")
    assert store.list() == ["ckpt-10/"]
    assert blobs.names() == ["ckpt-10", "ckpt-10/data"]


def test_a_folder_in_use_again_stays(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is in use again stays. Guards against a deletion that is tried for a minute and fails."""
    blobs = Blobs(object_store("azure"))
    store, delete = blobs.store, BlobClient.delete_blob

    async def refuse(blob: BlobClient, **options: object) -> None:
        if blob.blob_name.endswith("ckpt-1"):
            raise refusal()
        await delete(blob, **options)

    monkeypatch.setattr(BlobClient, "delete_blob", refuse)
    store.create("ckpt-1/data", b"data")
    blobs.mark("ckpt-1")
    store.delete_folder("ckpt-1")
    assert blobs.names() == ["ckpt-1"]
