"""Where the credentials for Google Cloud Storage come from, and what is said where there are none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.asyn import sync
from google.auth.compute_engine import _metadata
from google.auth.exceptions import TransportError
from google.oauth2.credentials import Credentials

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import open_store
from holdfast_storage.store.objects.client import FailureKind, RequestFailed
from holdfast_storage.store.objects.gcs import GcsClient

pytestmark = pytest.mark.usefixtures("quick")


class Google(ThreadingHTTPServer):
    """A metadata server, one that renews tokens, and a store where every object is missing.

    seen: path and `Authorization` of each request.
    renewal: status and answer to whoever wants a new token.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.seen: list[tuple[str, str | None]] = []
        self.renewal = (200, json.dumps({"access_token": "renewed", "expires_in": 3600}))


class Handler(BaseHTTPRequestHandler):
    server: Google

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.seen.append((path, self.headers.get("Authorization")))
        status, text = 200, json.dumps({"email": "me", "scopes": [], "aliases": []})
        if path.endswith("/token"):
            status, text = self.server.renewal
        elif path.startswith("/storage/"):
            status, text = (200, "{}") if path.endswith("/o") else (404, "{}")
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setattr("gcsfs.credentials.GoogleCredentials.tokens", {})
    monkeypatch.setattr(_metadata, "detect_gce_residency_linux", lambda: False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a metadata server was asked that is not there: each time it takes google-auth seconds to find out."""
    asked: list[str] = []

    def get(request: object, path: str, **_: object) -> object:
        asked.append(path)
        raise TransportError("nobody is there")

    monkeypatch.setattr(_metadata, "ping", lambda request: bool(asked.append("ping")))
    monkeypatch.setattr(_metadata, "get", get)
    return asked


def test_without_credentials(asked: list[str]) -> None:
    """Missing credentials are an error at once. Guards against half a minute of looking for a metadata server, and then
    anonymous access to a bucket that forbids it."""
    with pytest.raises(InvalidRequest, match=r"no credentials for Google.*GOOGLE_APPLICATION_CREDENTIALS.*token"):
        open_store("gs://bucket/run")
    assert asked == ["ping"]


def test_a_file_that_is_not_there(asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing credentials file that the user has named is an error at once. Guards against the same search for a
    metadata server, without a word about the file."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(InvalidRequest, match=r"key\.json was not found"):
        open_store("gs://bucket/run")
    assert asked == []


def test_an_emulator_needs_none(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator needs no credentials. Guards against tests in which each process first looks for a metadata
    server."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    open_store("gs://bucket/run")
    open_store("gs://bucket/run", {"token": "anon"})
    assert asked == []


def test_the_credentials_of_the_machine(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Google's own machines the machine's credentials are used. Guards against a configuration that nobody should
    need."""
    monkeypatch.setenv("GCE_METADATA_IP", google.address)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", google.address)
    assert open_store("gs://bucket/run", {"endpoint_url": f"http://{google.address}"}).size("a") is None
    assert ("/storage/v1/b/bucket/o/run%2Fa", "Bearer renewed") in google.seen


@pytest.mark.parametrize(
    ("renewal", "kind", "says"),
    [
        ((400, '{"error": "invalid_grant", "error_description": "it was revoked"}'), "refused", "it was revoked"),
        (None, "again", "Check the network"),
    ],
    ids=["revoked", "unreachable"],
)
def test_a_token_that_cannot_be_renewed(
    google: Google, renewal: tuple[int, str] | None, kind: FailureKind, says: str
) -> None:
    """A revoked key is an error at once; a moment without network is not. Guards against a minute of tries with a
    revoked key, and a save lost to a moment without network."""
    address = google.address
    if renewal is None:
        address = "127.0.0.1:1"
    else:
        google.renewal = renewal
    token = Credentials(
        None, refresh_token="hush", token_uri=f"http://{address}/token", client_id="me", client_secret="hush"
    )
    client = GcsClient("bucket/run", {"token": token, "endpoint_url": f"http://{google.address}"})
    with pytest.raises(RequestFailed, match=says) as raised:
        sync(client.loop, client.size, "a")
    assert raised.value.kind == kind
    assert "hush" not in str(raised.value)


def test_a_token_is_renewed(google: Google) -> None:
    """A token is renewed when it expires. Guards against a training that fails after the hour for which a token is
    valid."""
    token = Credentials(
        "old", refresh_token="x", token_uri=f"http://{google.address}/token", client_id="me", client_secret="x"
    )
    client = GcsClient("bucket/run", {"token": token, "endpoint_url": f"http://{google.address}"})
    token.token = None
    with pytest.raises(RequestFailed):
        sync(client.loop, client.size, "a")
    assert google.seen[-1] == ("/storage/v1/b/bucket/o/a", "Bearer renewed")
