"""Google Cloud Storage by gcp-storage-emulator, made to do what the real one does where Holdfast relies on it.

Run by the Python of `install.HOME`, with a port. Beyond the emulator: requests on many connections at once; a create
with `ifGenerationMatch=0` is atomic and refused with 412 (https://cloud.google.com/storage/docs/request-preconditions),
also at the end of a resumable upload, which can be cancelled
(https://cloud.google.com/storage/docs/performing-resumable-uploads#cancel-upload); a range that begins behind the end
is refused with 416; an object may be empty.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage


def _with_empty_bodies(read):
    def read_data(handler, query):
        data = read(handler, query)
        return b"" if data is None else data

    return read_data


emulator._read_data = _with_empty_bodies(emulator._read_data)


class Taken(Exception):
    """An object is there that must not be."""


class StrictStorage(Storage):
    """A store in memory that refuses to create what is there, if that is asked. Callers hold one lock."""

    must_be_new = False
    """Whether the request that is served now carries `ifGenerationMatch=0`."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self._new_uploads: set[str] = set()

    def create_file(self, bucket_name, file_name, content, file_obj, file_id=None):
        if self.must_be_new or file_id in self._new_uploads:
            try:
                self.get_file_obj(bucket_name, file_name)
            except NotFound:
                pass
            else:
                raise Taken
        super().create_file(bucket_name, file_name, content, file_obj, file_id)

    def create_resumable_upload(self, bucket_name, file_name, file_obj):
        upload = super().create_resumable_upload(bucket_name, file_name, file_obj)
        if self.must_be_new:
            self._new_uploads.add(upload)
        return upload

    def _write_config_to_file(self):
        """Do nothing: nobody reads the file again, and it would be written whole at every request."""


class Handler(RequestHandler):
    """One connection. Requests are read, and answers sent, at the client's pace; but one at a time is served."""

    protocol_version = "HTTP/1.1"
    turn = threading.Lock()

    def do_GET(self):
        self._serve("GET")

    def do_POST(self):
        self._serve("POST")

    def do_PUT(self):
        self._serve("PUT")

    def do_PATCH(self):
        self._serve("PATCH")

    def do_DELETE(self):
        self._serve("DELETE")

    def _serve(self, method):
        if "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        length = int(self.headers.get("Content-Length") or 0)
        incoming, outgoing = self.rfile, self.wfile
        self.rfile, self.wfile = io.BytesIO(incoming.read(length)), io.BytesIO()
        if len(self.rfile.getvalue()) == length:  # else the client is gone
            with self.turn:
                query = parse_qs(urlsplit(self.path).query)
                self.storage.must_be_new = query.get("ifGenerationMatch") == ["0"]
                try:
                    if method == "DELETE" and "upload_id" in query:
                        self._cancel(query["upload_id"][0])
                    else:
                        Router(self).handle(method)
                except Taken:
                    self._refuse(HTTPStatus.PRECONDITION_FAILED, "conditionNotMet")
            head, _, body = self.wfile.getvalue().partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 206") and not body:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "requestedRangeNotSatisfiable")
        answer = self.wfile.getvalue()
        self.rfile, self.wfile = incoming, outgoing
        outgoing.write(answer)

    def _cancel(self, upload):
        with suppress(NotFound):  # cancelled before
            self.storage.delete_resumable_file_obj(upload)
        self.send_response(499, "Client Closed Request")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status, reason):
        """Answer with an error of the JSON API, instead of whatever the answer was so far."""
        message = {"code": status.value, "message": reason, "errors": [{"reason": reason, "domain": "global"}]}
        body = json.dumps({"error": message}).encode()
        self.wfile = io.BytesIO()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), partial(Handler, StrictStorage())).serve_forever()
