"""What `holdfast doctor` finds out about a storage, and leaves behind there, on real object stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.cli import examination as module
from holdfast.cli.examination import examine
from servers.base import BUCKET, Server
from servers.fault_proxy import FaultProxy
from servers.faults import Answer, in_turn
from servers.fixtures import KINDS, ObjectStore

Proxied = Callable[[Server], FaultProxy]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_MIB", 48)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_storage(object_store: ObjectStore, kind: str) -> None:
    """A sound storage passes, and nothing is left behind. Guards against a false warning."""
    server = object_store(kind)
    place = server.location()
    found = list(examine(place.url, place.storage_options))
    assert [finding.check for finding in found] == [*module._CHECKS, "clean-up"]
    assert not [finding for finding in found if finding.bad], found
    assert server.files.find(place.url) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_refused(object_store: ObjectStore, proxied: Proxied, kind: str) -> None:
    """A refused part is a finding, and its upload is aborted. Guards against half of a large object that no listing
    shows and that costs money."""
    server = object_store(kind)
    proxy = proxied(server)
    place = server.location(proxy.endpoint)
    proxy.plan = in_turn(
        lambda call: call.writes and ("large" in call.target or "upload_id" in call.target), None, None, Answer(403)
    )
    found = {finding.check: finding for finding in examine(place.url, place.storage_options)}
    assert proxy.faults() == [Answer(403)]
    assert [finding.check for finding in found.values() if finding.bad] == ["large object"]
    assert "Check the credentials, and what they are allowed to do" in found["large object"].says
    assert server.files.find(place.url) == []
    if kind == "s3":
        assert not server.files.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads")


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_not_be_deleted(object_store: ObjectStore, proxied: Proxied, kind: str) -> None:
    """What cannot be deleted is named. Guards against credentials that may write and not delete, with which retention
    leaves everything."""
    server = object_store(kind)
    proxy = proxied(server)
    place = server.location(proxy.endpoint)
    proxy.plan = lambda call: Answer(403) if call.method == "DELETE" or "delete" in call.query else None
    found = {finding.check: finding for finding in examine(place.url, place.storage_options)}
    assert [finding.check for finding in found.values() if finding.bad] == ["clean-up"]
    assert f"Remove {place.url}/holdfast-doctor-" in found["clean-up"].says
    assert "Check the credentials" in found["clean-up"].says
