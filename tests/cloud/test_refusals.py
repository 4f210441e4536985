"""What a training program is told when the storage will not have it: what is wrong, where, and at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast
from holdfast_storage.errors import HoldfastError, InvalidRequest, SaveFailed, StorageError
from holdfast_storage.layout import KEY
from holdfast_storage.store import open_store
from servers.base import Location, Server
from servers.ceph import Ceph
from servers.fault_proxy import FaultProxy
from servers.faults import Answer
from servers.fixtures import KINDS, ObjectStore
from support.coordinators import Coordinator
from support.light_worker import LightWorker, cluster_of, outcomes, together
from support.ports import free_port

WITHIN = 20.0
"""Seconds, on a machine that is busy with other things: tenfold what it takes."""

MISSING_BUCKET = {
    "s3": r"NoSuchBucket\. Check the name of the bucket, missing-bucket",
    "gcs": r"404\. Check the name of the bucket, missing-bucket",
    "azure": r"ContainerNotFound .* Check the name of the container, missing-bucket",
}
CHECKPOINT = SimpleNamespace(save_counter=0, restore=print)
"""Stands for a tf.train.Checkpoint that nobody comes to save."""

CREDENTIALS = "Check the credentials, and what they are allowed to do"
ENDPOINT = "Check the endpoint and the network"


def told(url: str, options: Mapping[str, Any], coordinator: str = "") -> HoldfastError:
    """What a job of one worker gets that joins, restores and saves."""

    def job() -> HoldfastError | None:
        worker = LightWorker(open_store(url, options), 0, cluster_of(1), coordinator=coordinator)
        worker.session._storage_options = options
        try:
            worker.join()
            worker.restore()
            (error,) = outcomes([worker.save(1)])
        except HoldfastError as raised:
            error = raised
        finally:
            worker.close(patience=0.0)
        assert error is None or isinstance(error, HoldfastError)
        return error

    (error,) = together([job], timeout=WITHIN)
    assert isinstance(error, HoldfastError), error
    return error


def match(error: HoldfastError, kind: type[HoldfastError], *parts: str) -> None:
    pattern = pytest.raises(kind, match=".*".join(parts))
    with pattern:
        raise error


@pytest.mark.parametrize(
    ("wrong", "code"),
    [({"secret": "wrong"}, "SignatureDoesNotMatch"), ({"key": "wrong"}, "InvalidAccessKeyId")],
    ids=["secret", "key"],
)
def test_wrong_credentials_of_s3(object_store: ObjectStore, wrong: dict[str, str], code: str) -> None:
    """Wrong S3 credentials are an error within seconds. Guards against minutes of tries, and a key in an error that is
    logged everywhere."""
    location = object_store("s3").location()
    error = told(location.url, {**location.storage_options, **wrong})
    match(error, StorageError, location.url, code, CREDENTIALS)
    assert Ceph.secret not in str(error)


def test_wrong_credentials_of_azure(object_store: ObjectStore) -> None:
    """Wrong Azure credentials are an error within seconds. Guards against the same on Azure."""
    location = object_store("azure").location()
    address = location.storage_options["connection_string"]
    key = address.partition("AccountKey=")[2].partition(";")[0]
    error = told(location.url, {"connection_string": address.replace(key, "d3Jvbmc=")})
    match(error, StorageError, location.url, CREDENTIALS)
    assert key not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_bucket(object_store: ObjectStore, kind: str) -> None:
    """A missing bucket is an error. Guards against a misspelt bucket that is taken for a new run."""
    server = object_store(kind)
    url = f"{server.protocol}://missing-bucket/run"
    error = told(url, server.options(server.endpoint))
    match(error, StorageError, url, MISSING_BUCKET[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_at_the_endpoint(object_store: ObjectStore, kind: str) -> None:
    """An endpoint where nobody answers is an error within seconds. Guards against a minute of tries."""
    server = object_store(kind)
    url = server.location().url
    error = told(url, server.options(f"http://127.0.0.1:{free_port()}"))
    match(error, StorageError, url, ENDPOINT)


def test_read_only_user(object_store: ObjectStore) -> None:
    """Read-only credentials can restore and are told at the first save. Guards against a job that trains for days and
    saves nothing, and one that cannot read what it may."""
    server = object_store("s3")
    assert isinstance(server, Ceph)
    location = server.location()
    error = told(location.url, server.reader())
    match(error, SaveFailed, f"create {location.url}", "AccessDenied", CREDENTIALS)
    assert not server.files.exists(location.url)


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_bucket(
    object_store: ObjectStore, proxied: Callable[[Server], FaultProxy], tell: Callable[[Location], None], kind: str
) -> None:
    """If only the worker may not write, the worker is named. Guards against blaming the coordinator."""
    server = object_store(kind)
    proxy = proxied(server)
    proxy.plan = lambda call: Answer(403) if call.writes else None
    location = server.location()
    tell(location)
    coordinator = Coordinator(roots=[location.url])
    try:
        error = told(location.url, server.options(proxy.endpoint), coordinator.address)
    finally:
        coordinator.stop()
    match(error, StorageError, f"Could not create {location.url}/{KEY}", CREDENTIALS)
    assert "coordinator" not in str(error)


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_wrong_credentials_of_the_coordinator(
    object_store: ObjectStore, tell: Callable[[Location], None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Wrong credentials of the coordinator are reported as the coordinator's. Guards against an error that points to a
    worker whose credentials are right."""
    location = object_store(kind).location()
    tell(location)
    for name, value in location.environment.items():
        for secret in (Ceph.secret, "AccountKey=aG9s"):
            if secret in value:
                monkeypatch.setenv(name, value.replace(secret, secret[:-4] + "aaaa"))
    coordinator = Coordinator(roots=[location.url])
    try:
        error = told(location.url, location.storage_options, coordinator.address)
    finally:
        coordinator.stop()
    match(error, StorageError, "coordinator", coordinator.address, location.url, CREDENTIALS)


def test_unknown_protocol() -> None:
    """An unknown protocol is an error at once. Guards against a traceback of fsspec, and an hour of training before the
    first save."""
    with pytest.raises(InvalidRequest, match="nosuch://bucket/run") as raised:
        holdfast.CheckpointManager(CHECKPOINT, "nosuch://bucket/run")
    assert "nosuch" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("s3://b/run", "s3fs", "s3"), ("gs://b/run", "gcsfs", "gcs"), ("az://b/run", "adlfs", "azure")],
)
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str) -> None:
    """A missing extra is named with its install command. Guards against a ModuleNotFoundError for a package that the
    user has never heard of."""
    monkeypatch.setitem(sys.modules, package, None)
    for module in [m for m in sys.modules if m.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"holdfast_storage.store.objects.{extra}", raising=False)
    with pytest.raises(InvalidRequest, match=rf"pip install 'holdfast\[{extra}\]'"):
        holdfast.CheckpointManager(CHECKPOINT, url)
