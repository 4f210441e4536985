"""Google Cloud Storage, with gcsfs's session and credentials, and our own requests to the JSON API.

https://cloud.google.com/storage/docs/json_api/v1/objects
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import aiohttp
import yarl
from fsspec.config import apply_config

# This class does not ask for the kind of bucket, which needs another permission and another service.
from gcsfs.core import GCSFileSystem
from google.auth.exceptions import GoogleAuthError, TransportError

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store.objects.client import Body, FailureKind, Page, Part, RequestFailed
from holdfast_storage.told import told

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_UNFINISHED = 308
_ABORTED = 499
_BEYOND = 416
_DELETES = 32  # at a time
_RATE = {"rateLimitExceeded", "userRateLimitExceeded"}


class GcsClient:
    """An `ObjectClient` for Google Cloud Storage."""

    page_size = 1_000  # of a listing; no store deletes more at once
    parts_in_order = True

    def __init__(self, path: str, storage_options: Mapping[str, Any]) -> None:
        """path: is `bucket/prefix`."""
        options = apply_config(GCSFileSystem, dict(storage_options))
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
        self._fs = _file_system(options) if options.get("token") else _with_credentials_found(options)
        self.bucket, _, self.root = path.partition("/")
        self._doubtful: set[str] = set()  # uploads whose last part may or may not have arrived

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._fs.loop
        return loop

    async def put(self, key: str, body: Body, *, exclusive: bool) -> None:
        condition = {"ifGenerationMatch": "0"} if exclusive else {}
        async with self._request("POST", self._uploads, {"uploadType": "media", "name": key, **condition}, body=body):
            pass

    async def begin(self, key: str) -> str:
        async with self._request("POST", self._uploads, {"uploadType": "resumable", "name": key}) as response:
            return response.headers["Location"]

    async def put_part(self, key: str, upload: str, part: Part) -> str:
        done = await self._arrived(upload) if upload in self._doubtful else part.offset
        self._doubtful.add(upload)
        end = part.offset + len(part.body)
        while done is not None and done < end:
            span = f"bytes {done}-{end - 1}/{end if part.last else '*'}"
            body = part.body.behind(done - part.offset)
            headers = {"Content-Range": span}
            async with self._request("PUT", upload, body=body, headers=headers, also=_UNFINISHED) as response:
                done = _arrived(response)
        self._doubtful.discard(upload)
        return ""

    async def _arrived(self, upload: str) -> int | None:
        """Return the bytes of an upload that have arrived, or None if it is complete."""
        headers = {"Content-Range": "bytes */*"}
        async with self._request("PUT", upload, headers=headers, also=_UNFINISHED) as response:
            return _arrived(response)

    async def finish(self, key: str, upload: str, parts: Sequence[str]) -> None:
        pass  # with the last part

    async def abort(self, key: str, upload: str) -> None:
        async with self._request("DELETE", upload, also=_ABORTED):
            pass

    async def unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        return ()  # they are dropped after a week

    async def get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        span = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        async with self._request("GET", self._object(key), {"alt": "media"}, headers=span, also=_BEYOND) as response:
            if response.status == _BEYOND:
                return 0, 0
            count = 0
            while data := await response.content.readany():
                buffer[count : count + len(data)] = data
                count += len(data)
            return count, int(response.headers["Content-Range"].rpartition("/")[2])

    async def size(self, key: str) -> int:
        async with self._request("GET", self._object(key), {"fields": "size"}) as response:
            return int((await response.json())["size"])

    async def page(self, prefix: str, begin: str, *, deep: bool) -> Page:
        query = {"prefix": prefix, "fields": "items/name,prefixes,nextPageToken", "maxResults": str(self.page_size)}
        query |= ({} if deep else {"delimiter": "/"}) | ({"pageToken": begin} if begin else {})
        async with self._request("GET", self._objects, query) as response:
            answer = await response.json()
        return Page(
            [each["name"] for each in answer.get("items", ()) if each["name"] != prefix],
            answer.get("prefixes", ()),
            answer.get("nextPageToken", ""),
        )

    async def delete(self, keys: Sequence[str]) -> None:
        async def delete(key: str) -> None:
            try:
                async with self._request("DELETE", self._object(key)):
                    pass
            except RequestFailed as failure:
                if failure.kind != "missing":
                    raise

        for start in range(0, len(keys), _DELETES):
            await asyncio.gather(*(delete(key) for key in keys[start : start + _DELETES]))

    @property
    def _objects(self) -> str:
        return f"{self._fs._location}/storage/v1/b/{self.bucket}/o"

    @property
    def _uploads(self) -> str:
        return f"{self._fs._location}/upload/storage/v1/b/{self.bucket}/o"

    def _object(self, key: str) -> str:
        return f"{self._objects}/{quote(key, safe='')}"

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        also: int = 0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response of success, or with the status `also`. Raises RequestFailed otherwise."""
        length = {"Content-Length": str(len(body))} if body is not None else {}
        try:
            await self._authorise()
            session = await self._fs._set_session()
            async with session.request(
                method,
                yarl.URL(url, encoded=True),
                params=self._fs._get_params(query or {}),
                headers=self._fs._get_headers({"Accept-Encoding": "identity", **length, **(headers or {})}),
                data=body,
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as response:
                if response.status >= 300 and response.status != also:
                    raise self._failure(response.status, await response.read(), of_object=url != self._objects)
                yield response
        except RequestFailed:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise RequestFailed("again", error, "Check the endpoint and the network") from error

    async def _authorise(self) -> None:
        """Get a valid token, in a thread: gcsfs would block its event loop while it renews one."""
        if self._fs.credentials.credentials is None:
            return
        try:
            await asyncio.to_thread(self._fs.credentials.maybe_refresh)
        except Exception as error:
            # gcsfs wraps the error of google-auth.
            reason = error.__cause__ if isinstance(error.__cause__, GoogleAuthError) else error
            said = str(reason.args[0]) if reason.args else type(reason).__name__
            unheard = any(isinstance(each, TransportError) for each in (reason, reason.__cause__))
            if unheard or getattr(reason, "retryable", False):
                raise RequestFailed("again", said, "Check the network") from error
            raise RequestFailed("refused", said, "Check the credentials") from error

    def _failure(self, status: int, content: bytes, *, of_object: bool) -> RequestFailed:
        details = _details(content)
        reasons = {each.get("reason", "") for each in details.get("errors", ()) if isinstance(each, dict)}
        said = f"{status} ({told(str(details['message']))})" if details.get("message") else f"HTTP status {status}"
        kind: FailureKind = "refused"
        hint = ""
        if status in (408, 409, 429) or status >= 500 or reasons & _RATE:
            kind = "again"
        elif status == 412:
            kind = "taken"
        elif status in (401, 403):
            hint = "Check the credentials, and what they are allowed to do"
        elif status == 404 and (not of_object or "bucket does not exist" in str(details.get("message", ""))):
            hint = f"Check the name of the bucket, {self.bucket}"
        elif status == 404:
            kind = "missing"
        elif status < 400:
            hint = "Check the endpoint"
        return RequestFailed(kind, said, hint)


def _file_system(options: Mapping[str, Any]) -> GCSFileSystem:
    try:
        return GCSFileSystem(**options)
    except Exception as error:
        # Its message is not shown: a refused token would be in it.
        raise InvalidRequest(
            f"the `token` in storage_options cannot be used for Google Cloud Storage ({type(error).__name__})"
        ) from None


def _with_credentials_found(options: Mapping[str, Any]) -> GCSFileSystem:
    """Find credentials where gcsfs looks by itself, but raise an error if there are none.

    gcsfs would ask Google's metadata server for half a minute more, which google-auth has just found to be missing, and
    then go on without credentials.
    """
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "default")
    if emulator not in ("", "default") and not options.get("endpoint_url"):
        return _file_system({**options, "token": "anon"})  # as Google's own client does
    try:
        return GCSFileSystem(**{**options, "token": "google_default"})
    except Exception as error:
        file_system = GCSFileSystem(**{**options, "token": "anon"})
        with suppress(ValueError):
            file_system.credentials.connect("cache")  # of an earlier token="browser"
        if file_system.credentials.credentials is not None:
            return file_system
        raise InvalidRequest(
            f"There are no credentials for Google Cloud Storage: {told(error).rstrip('.')}. Set "
            "GOOGLE_APPLICATION_CREDENTIALS, or log in with `gcloud auth application-default login`, or give `token` "
            "in storage_options: the file of a key, 'cloud' to wait longer for Google's metadata server, or 'anon' for "
            "a public bucket"
        ) from None


def _arrived(response: aiohttp.ClientResponse) -> int | None:
    """Return the bytes of an upload that have arrived, or None if it is complete."""
    if response.status != _UNFINISHED:
        return None
    return int(response.headers["Range"].rpartition("-")[2]) + 1 if "Range" in response.headers else 0


def _details(content: bytes) -> dict[str, Any]:
    try:
        error = json.loads(content)["error"]
        return error if isinstance(error, dict) else {"message": str(error)}
    except (ValueError, KeyError, TypeError):
        return {"message": content.decode(errors="replace")}
