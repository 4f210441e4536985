"""Azure Blob Storage, by adlfs: its service client and its credentials.

https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-rest-api
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core import exceptions as azure
from azure.storage.blob import BlobBlock, BlobProperties
from azure.storage.blob.aio import BlobPrefix
from fsspec.config import apply_config

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store.objects.client import Body, FailureKind, Page, Part, RequestFailed
from holdfast_storage.told import CAUSE, fit

_OPTIONS = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 60}
_TAKEN = {"BlobAlreadyExists", "UnauthorizedBlobOverwrite", "ConditionNotMet", "BlobImmutableDueToPolicy"}
_ONE_REQUEST = 1 << 20  # beyond, the library would copy and aiohttp complain
_DELETES = 32  # at a time


class AzureClient:
    """An `ObjectClient` for Azure Blob Storage."""

    page_size = 1_000  # of a listing; no store deletes more at once
    parts_in_order = False

    def __init__(self, path: str, storage_options: Mapping[str, Any]) -> None:
        """path: is `container/prefix`, or `container@account.dfs.core.windows.net/prefix`."""
        options = apply_config(AzureBlobFileSystem, dict(storage_options))
        place, _, self.root = path.partition("/")
        self.container, _, host = place.partition("@")
        if host:
            account = host.partition(".")[0]
            if options.setdefault("account_name", account) != account:
                raise InvalidRequest(f"the URL names the account {account}, and storage_options another one")
            options["account_host"] = host.replace(".dfs.", ".blob.", 1)
        try:
            self._fs = AzureBlobFileSystem(**options | {"use_listings_cache": False, "skip_instance_cache": True})
        except ValueError as error:
            raise InvalidRequest(
                "Azure needs to know the account: as account_name or connection_string in storage_options, in "
                "AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or in the URL "
                "(abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER)"
            ) from fit(error, CAUSE)
        self._blobs = self._fs.service_client.get_container_client(self.container)
        self._authorised = False  # whether the credentials have ever worked

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._fs.loop
        return loop

    async def put(self, key: str, body: Body, *, exclusive: bool) -> None:
        blob = self._blobs.get_blob_client(key)
        with self._judged():
            if exclusive:
                await self._send_once()
            if len(body) <= _ONE_REQUEST:
                await blob.upload_blob(body, overwrite=not exclusive, **_OPTIONS)
            else:
                # The condition is that of the request which makes the block a blob.
                condition = {"match_condition": MatchConditions.IfMissing} if exclusive else {}
                block = secrets.token_hex(8)
                await blob.stage_block(block, body, len(body), **_OPTIONS)
                await blob.commit_block_list([BlobBlock(block)], **condition, **_OPTIONS)

    async def _send_once(self) -> None:
        """Keep aiohttp from repeating a request by itself: a create would be refused by its own first try."""
        transport = self._fs.service_client._pipeline._transport
        await transport.open()
        transport.session._retry_connection = False

    async def begin(self, key: str) -> str:
        return secrets.token_hex(8)

    async def put_part(self, key: str, upload: str, part: Part) -> str:
        block = f"{upload}.{part.number:05d}"
        with self._judged():
            await self._blobs.get_blob_client(key).stage_block(block, part.body, len(part.body), **_OPTIONS)
        return block

    async def finish(self, key: str, upload: str, parts: Sequence[str]) -> None:
        blocks = [BlobBlock(block) for block in parts]
        with self._judged():
            await self._blobs.get_blob_client(key).commit_block_list(blocks, **_OPTIONS)

    async def abort(self, key: str, upload: str) -> None:
        pass  # blocks that become no blob are dropped after a week

    async def unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        return ()  # they are dropped after a week

    async def get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        try:
            with self._judged():
                blob = self._blobs.get_blob_client(key)
                stream = await blob.download_blob(offset, len(buffer), max_concurrency=1, **_OPTIONS)
                data = await stream.readall()
        except _Beyond:
            return 0, 0
        buffer[: len(data)] = data
        return len(data), int(_size(stream.properties.content_range))

    async def size(self, key: str) -> int:
        with self._judged():
            return int((await self._blobs.get_blob_client(key).get_blob_properties(**_OPTIONS)).size)

    async def page(self, prefix: str, begin: str, *, deep: bool) -> Page:
        """List a page. With `deep`, blobs that stand for folders are included; that of the prefix comes last."""
        keys, folders, following = [], [], ""
        with self._judged():
            list_ = self._blobs.list_blobs if deep else self._blobs.walk_blobs  # which stops at the next slash
            options = {"results_per_page": self.page_size, "include": ["metadata"], **_OPTIONS}
            found = list_(name_starts_with=prefix, **options)
            pages = found.by_page(begin or None)
            async for page in pages:
                async for each in page:
                    if isinstance(each, BlobPrefix):
                        folders.append(str(each.name))
                    elif each.name != prefix and (deep or not _is_folder(each)):
                        keys.append(str(each.name))
                following = pages.continuation_token or ""
                break
        if deep and not following and await self._stands_for_folder(prefix.rstrip("/")):
            keys.append(prefix.rstrip("/"))
        return Page(keys, folders, following)

    async def _stands_for_folder(self, key: str) -> bool:
        try:
            with self._judged():
                return _is_folder(await self._blobs.get_blob_client(key).get_blob_properties(**_OPTIONS))
        except RequestFailed as failure:
            if failure.kind != "missing":
                raise
            return False

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete blobs. One that stands for a folder goes after its contents, and stays if it is in use again."""

        async def delete(key: str) -> None:
            try:
                with self._judged():
                    await self._blobs.get_blob_client(key).delete_blob(**_OPTIONS)
            except _NotEmpty:
                pass
            except RequestFailed as failure:
                if failure.kind != "missing":
                    raise

        parents = {parent for key in keys for parent in _parents(key)}.intersection(keys)
        others = [key for key in keys if key not in parents]
        for start in range(0, len(others), _DELETES):
            await asyncio.gather(*(delete(key) for key in others[start : start + _DELETES]))
        for parent in sorted(parents, reverse=True):
            await delete(parent)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Turn what the libraries raise into RequestFailed."""
        try:
            yield
            self._authorised = True
        except azure.HttpResponseError as error:
            raise self._failure(error) from error
        except (azure.AzureError, aiohttp.ClientError, OSError) as error:
            raise RequestFailed("again", _first_line(error), "Check the endpoint and the network") from error

    def _failure(self, error: azure.HttpResponseError) -> RequestFailed:
        code = getattr(error, "error_code", None) or ""
        code, status = str(getattr(code, "value", code)), error.status_code or 0
        said = f"{code} ({_first_line(error)})" if code else _first_line(error)
        kind: FailureKind = "refused"
        hint = ""
        if status == 416:
            return _Beyond()
        if isinstance(error, azure.ClientAuthenticationError) and not status:
            # There is no token. One that cannot be renewed may come in a while; if there never was one, fail at once.
            hint = "Check the credentials: log in with `az login`, or give account_key, sas_token or connection_string "
            return RequestFailed("again" if self._authorised else "refused", said, hint + "in storage_options")
        if code == "DirectoryIsNotEmpty":
            return _NotEmpty("refused", said)
        if code in _TAKEN or status == 412:
            kind = "taken"
        elif status in (0, 408, 409, 429) or status >= 500:
            kind = "again"
        elif code == "BlobNotFound":
            kind = "missing"
        elif code == "ContainerNotFound":
            hint = f"Check the name of the container, {self.container}"
        if isinstance(error, azure.ClientAuthenticationError) or status in (401, 403):
            hint = "Check the credentials, and what they are allowed to do"
        return RequestFailed(kind, said, hint)


class _Beyond(RequestFailed):
    """The range begins at the end of the blob, or after it."""

    def __init__(self) -> None:
        super().__init__("refused", "the range begins behind the end of the blob")


class _NotEmpty(RequestFailed):
    """The folder is not empty."""


def _is_folder(blob: BlobProperties) -> bool:
    """Return whether a blob stands for a folder, in a hierarchical namespace or by the convention of Azure's tools."""
    return (blob.metadata or {}).get("hdi_isfolder") == "true"


def _parents(key: str) -> Iterator[str]:
    """Yield the folders that contain a key."""
    while key := key.rpartition("/")[0]:
        yield key


def _first_line(error: Exception) -> str:
    """Return the first line of an error. The others are the server's trace."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _size(content_range: str | None) -> int:
    """Return the size of a whole blob, from the header of a range of it."""
    return int((content_range or "/0").rpartition("/")[2])
