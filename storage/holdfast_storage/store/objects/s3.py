"""S3 and compatible stores, with s3fs's session and settings, and our own requests.

https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore import exceptions as boto
from fsspec.config import apply_config
from s3fs import S3FileSystem

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store.objects.client import Body, FailureKind, Page, Part, RequestFailed
from holdfast_storage.store.objects.s3_wire import S3Wire
from holdfast_storage.store.objects.transfer import Transfer

CONNECTIONS = 64

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_AGAIN = {"InternalError", "OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "IncompleteBody"}
_AGAIN |= {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded"}
_CREDENTIALS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_NO_ANSWER = (boto.HTTPClientError, boto.ConnectionError, boto.ResponseStreamingError, aiohttp.ClientError, OSError)


class S3Client:
    """An `ObjectClient` for S3."""

    page_size = 1_000  # of a listing; no store deletes more at once
    parts_in_order = False

    def __init__(self, path: str, storage_options: Mapping[str, Any]) -> None:
        """path: is `bucket/prefix`."""
        options = apply_config(S3FileSystem, dict(storage_options))
        given = [options.get("endpoint_url"), (options.get("client_kwargs") or {}).get("endpoint_url")]
        _check_endpoints(*given, *map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")))
        config = {
            "connect_timeout": 5,
            "read_timeout": 60,
            "max_pool_connections": CONNECTIONS,
            # A checksum that the server asks for; the checkpoint's own checksums protect the data.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            **(options.pop("config_kwargs", None) or {}),
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
        # The connection protects the body; over plain HTTP, the checkpoint's own checksums do.
        config["s3"] = {"payload_signing_enabled": False, **(config.get("s3") or {})}
        options |= {"config_kwargs": config, "use_listings_cache": False, "skip_instance_cache": True}
        self._fs = S3FileSystem(**options)
        self._fs.retries = 1
        self._verify = (options.get("client_kwargs") or {}).get("verify")
        self._wires: dict[Any, S3Wire] = {}  # by botocore client
        self.bucket, self.root, _ = self._fs.split_path(path)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._fs.loop
        return loop

    async def put(self, key: str, body: Body, *, exclusive: bool) -> None:
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        await self._call("put_object", Transfer(body), Key=key, Body=body, **condition)

    async def begin(self, key: str) -> str:
        return str((await self._call("create_multipart_upload", Key=key))["UploadId"])

    async def put_part(self, key: str, upload: str, part: Part) -> str:
        named = {"Key": key, "UploadId": upload, "PartNumber": part.number + 1}
        answer = await self._call("upload_part", Transfer(part.body), Body=part.body, **named)
        return str(answer["ETag"])

    async def finish(self, key: str, upload: str, parts: Sequence[str]) -> None:
        listed = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(parts, 1)]
        await self._call("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": listed})

    async def abort(self, key: str, upload: str) -> None:
        await self._call("abort_multipart_upload", Key=key, UploadId=upload)

    async def unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        begin: dict[str, Any] = {}
        while True:
            answer = await self._call("list_multipart_uploads", Prefix=prefix, **begin)
            found += [(each["Key"], each["UploadId"]) for each in answer.get("Uploads", ())]
            begin = {"KeyMarker": answer.get("NextKeyMarker"), "UploadIdMarker": answer.get("NextUploadIdMarker")}
            if not answer.get("IsTruncated") or not all(begin.values()):
                return found

    async def get(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int]:
        transfer = Transfer(buffer=buffer)
        span = f"bytes={offset}-{offset + len(buffer) - 1}"
        try:
            answer = await self._call("get_object", transfer, Key=key, Range=span)
        except _Beyond:
            return 0, 0
        told = _RANGE.fullmatch(answer.get("ContentRange", ""))
        if told is None:
            raise RequestFailed("refused", "the server does not know ranges", "Check the endpoint")
        first, last, size = map(int, told.groups())
        if transfer.count is None or first != offset or transfer.count != last + 1 - first:
            raise RequestFailed("again", f"{transfer.count} bytes came for {told[0]}, asked for from {offset} on")
        return transfer.count, size

    async def size(self, key: str) -> int:
        return int((await self._call("head_object", Key=key))["ContentLength"])

    async def page(self, prefix: str, begin: str, *, deep: bool) -> Page:
        options = ({} if deep else {"Delimiter": "/"}) | ({"ContinuationToken": begin} if begin else {})
        answer = await self._call("list_objects_v2", Prefix=prefix, MaxKeys=self.page_size, **options)
        return Page(
            [each["Key"] for each in answer.get("Contents", ()) if each["Key"] != prefix],
            [each["Prefix"] for each in answer.get("CommonPrefixes", ())],
            answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else "",
        )

    async def delete(self, keys: Sequence[str]) -> None:
        answer = await self._call("delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        for error in answer.get("Errors", ()):
            if error.get("Code") != "NoSuchKey":
                kind = _kind(error.get("Code", ""), 0, error.get("Message") or "")
                raise RequestFailed(kind, f"{error.get('Key')}: {_said(error)}")

    async def _call(self, method: str, transfer: Transfer | None = None, /, **arguments: Any) -> Any:
        with self._judged():
            await self._fs.set_session()
            client = await self._fs.get_s3(self.bucket)
            if "IfNoneMatch" in arguments and not _knows_conditions(client):
                raise InvalidRequest("this botocore knows no conditional writes: pip install -U 'holdfast[s3]'")
            with self._wire(client).carrying(transfer):
                return await self._fs._call_s3(method, Bucket=self.bucket, **arguments)

    def _wire(self, client: Any) -> S3Wire:
        """Return the wire of s3fs's client, which s3fs may replace by another one."""
        if client not in self._wires:
            _check_endpoints(client.meta.endpoint_url)  # from whatever thread
            verify = self._fs.session.get_config_variable("ca_bundle") if self._verify is None else self._verify
            self._wires = {client: S3Wire(client, verify, CONNECTIONS)}
        return self._wires[client]

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Turn what s3fs and botocore raise into RequestFailed."""
        try:
            yield
        except (boto.BotoCoreError, boto.ClientError, aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RequestFailed:
        cause = error if isinstance(error, boto.ClientError) else error.__cause__
        if isinstance(cause, boto.ClientError):
            details = cause.response.get("Error", {})
            code = details.get("Code", "")
            status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status == 416 or code == "InvalidRange":
                return _Beyond()
            kind = _kind(code, status, details.get("Message") or "")
            if code == "404" and getattr(cause, "operation_name", "") == "HeadObject":  # whose answer has no body
                kind = "missing"
            hint = ""
            if code in _CREDENTIALS:
                hint = "Check the credentials, and what they are allowed to do"
            elif code == "NoSuchBucket":
                hint = f"Check the name of the bucket, {self.bucket}, and the endpoint"
            elif "404" in (code, str(status)) and kind == "refused":
                hint = "Check the endpoint"
            elif code in _REGION:
                hint = f"Check the region: bucket {self.bucket} is in another one"
            return RequestFailed(kind, _said(details), hint)
        if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
            hint = "Give them in storage_options, in the environment, in ~/.aws, or as a role of this host"
            return RequestFailed("refused", error, hint)
        if isinstance(error, _NO_ANSWER) or isinstance(cause, _NO_ANSWER):
            return RequestFailed("again", error, "Check the endpoint and the network")
        return RequestFailed("refused", error)


class _Beyond(RequestFailed):
    """The range begins at the end of the object, or after it."""

    def __init__(self) -> None:
        super().__init__("refused", "the range begins behind the end of the object")


def _kind(code: str, status: int, message: str = "") -> FailureKind:
    # What servers answer to conditions that they do not know, with status 501 or 400.
    if code in ("NotImplemented", "501") or status == 501 or "not implemented" in message:
        return "unsupported"
    if code in _AGAIN or status in (409, 429) or status >= 500 or code in ("409", "429") or code[:1] == "5":
        return "again"
    if code == "PreconditionFailed" or "412" in (code, str(status)):
        return "taken"
    if code in ("NoSuchKey", "NoSuchUpload"):
        return "missing"
    return "refused"


def _said(details: Mapping[str, Any]) -> str:
    """Return what the server says about an error."""
    code, message = details.get("Code", ""), details.get("Message", "")
    return f"{code} ({message})" if message else str(code)


def _check_endpoints(*endpoints: str | None) -> None:
    """Raise InvalidRequest if an endpoint may contain a password: libraries repeat it in their errors."""
    for endpoint in endpoints:
        if endpoint and ("@" in endpoint or "?" in endpoint):
            raise InvalidRequest(
                "The endpoint of S3 cannot be used: it holds a user, or a query, and so perhaps a password. Give the "
                "address alone, and credentials in storage_options, in the environment or in ~/.aws"
            )


def _knows_conditions(client: Any) -> bool:
    """Return whether botocore knows conditional writes. If not, s3fs drops the condition silently."""
    operation = client.meta.service_model.operation_model("PutObject")
    return "IfNoneMatch" in operation.input_shape.members
