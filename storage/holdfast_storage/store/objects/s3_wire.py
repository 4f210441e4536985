"""S3 requests with much data: botocore signs them, threads send them.

botocore lets a handler of its event `before-send` answer a request in place of its own HTTP session
(https://botocore.amazonaws.com/v1/documentation/api/latest/topics/events.html).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from http.client import HTTPException
from types import SimpleNamespace
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, IncompleteRead

from holdfast_storage.store.objects.transfer import Fill, Transfer

_carried: ContextVar[Transfer | None] = ContextVar("carried", default=None)


class S3Wire:
    """The connections of one botocore client."""

    def __init__(self, client: Any, verify: bool | str | None, connections: int) -> None:
        """verify: botocore's setting; None if it was not given."""
        config = client.meta.config
        self._session = URLLib3Session(
            verify=(os.environ.get("REQUESTS_CA_BUNDLE") or True) if verify is None else verify,
            proxies=config.proxies if config.proxies is not None else get_environ_proxies(client.meta.endpoint_url),
            timeout=(config.connect_timeout, config.read_timeout),
            max_pool_connections=connections,
            client_cert=config.client_cert,
            proxies_config=config.proxies_config,
        )
        for operation in ("PutObject", "UploadPart", "GetObject"):  # not the requests that the library makes in between
            client.meta.events.register(f"before-send.s3.{operation}", self._send)

    @contextmanager
    def carrying(self, transfer: Transfer | None) -> Iterator[None]:
        """The context in which requests carry this transfer."""
        token = _carried.set(transfer)
        try:
            yield
        finally:
            _carried.reset(token)

    async def _send(self, request: Any, **_: Any) -> _Answer | None:
        transfer = _carried.get()
        if transfer is None:
            return None
        if transfer.body is not None:
            request = copy(request)  # after a redirect the library starts again with the body that it has
            request.body = transfer.pieces()
        fill = None if transfer.buffer is None else transfer.fill
        return await transfer.carried_out(lambda: self._exchange(request, fill))

    def _exchange(self, request: Any, fill: Fill | None) -> _Answer:
        response = self._session.send(request)
        try:
            if fill is not None and response.status_code == 200:
                return _Answer(response, b"")  # all of the object, of whatever size, and not the range
            if fill is None or response.status_code != 206:
                content = response.content
                # An error that was cut off would be read as another one.
                if len(content) < int(response.headers.get("Content-Length", 0)):
                    raise IncompleteRead(len(content), int(response.headers["Content-Length"]) - len(content))
                return _Answer(response, content)
            # Read from the socket into the buffer: urllib3's own methods copy everything twice.
            source = response.raw._original_response
            fill(source.readinto, response.raw.shutdown)
            if source.length == 0:
                response.raw.release_conn()
            return _Answer(response, b"")
        except (HTTPError, HTTPException, OSError) as error:
            raise HTTPClientError(error=error) from error
        finally:
            response.raw.close()  # a reusable connection has left the response by now


class _Answer(AWSResponse):  # type: ignore[misc]
    """The response as aiobotocore expects it."""

    def __init__(self, response: AWSResponse, content: bytes) -> None:
        # Older versions look for the headers here.
        raw = SimpleNamespace(raw_headers=[(key.encode(), value.encode()) for key, value in response.headers.items()])
        super().__init__(response.url, response.status_code, response.headers, raw)
        self._whole = content

    @property
    async def content(self) -> bytes:
        return self._whole
