"""Azure accounts with a hierarchical namespace, whose listings show folders as blobs that are marked as such."""

from __future__ import annotations

from fsspec.asyn import sync

from holdfast_storage.store import open_store
from servers.fixtures import ObjectStore


def test_folders_are_no_objects(object_store: ObjectStore) -> None:
    """A folder taken for an object, or deleted before what lies in it, which such an account refuses."""
    server = object_store("azure")
    location = server.location()
    store = open_store(location.url, location.storage_options)
    container, _, root = location.url.partition("://")[2].partition("/")

    async def mark(folder: str) -> None:
        blob = server.files.service_client.get_blob_client(container, f"{root}/{folder}")
        await blob.upload_blob(b"", metadata={"hdi_isfolder": "true"})

    store.create("ckpt-1/data", b"data")
    for folder in ("ckpt-1", "ckpt-1/local"):
        sync(server.files.loop, mark, folder)
    assert store.list() == ["ckpt-1/"]
    assert store.list("ckpt-1") == ["data"]
    store.delete_folder("ckpt-1")
    assert store.size("ckpt-1/data") is None
    assert server.files.find(f"{container}/{root}", withdirs=False) == []
