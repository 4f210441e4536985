"""What is built on the single requests of an object store: retries, parts, ranges, memory; in virtual time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from holdfast_storage.errors import SaveFailed, StorageError
from holdfast_storage.store.base import NotCreated
from holdfast_storage.store.objects import store as object_store
from holdfast_storage.store.objects.client import Body
from holdfast_storage.store.objects.store import FIRST_ANSWER_WITHIN, FIRST_PATIENCE, PATIENCE, ObjectStore
from support.jumping_loop import JumpingLoop, running
from support.scripted_client import ScriptedClient
from support.stores import winners

PART = 5 << 20  # with the smallest buffer

Made = tuple[ObjectStore, ScriptedClient]
Make = Callable[..., Made]


@pytest.fixture
def make() -> Iterator[Make]:
    with running(JumpingLoop()) as loop:

        def make(faults: object = None, *, write_buffer: int = 4 * PART, **options: object) -> Made:
            client = ScriptedClient(loop, faults, **options)
            return ObjectStore("s3://bucket/run", client, "run", write_buffer), client

        yield make


def methods(client: ScriptedClient) -> list[str]:
    return [method for method, _ in client.calls]


# -- create --


@pytest.mark.parametrize("fault", ["lose", "hang after"])
def test_a_create_whose_answer_was_lost_has_succeeded(make: Make, fault: str) -> None:
    """A create whose first answer was lost has succeeded. Guards against a leader that believes it is superseded
    because its second try was refused."""
    store, client = make({("put", 0): fault})
    assert store.create("log/1", b"mine")
    assert client.objects == {"run/log/1": b"mine"}


@pytest.mark.parametrize("fault", ["later", "hang"])
def test_a_create_that_was_overtaken_has_lost(make: Make, fault: str) -> None:
    """If somebody else creates the object between two tries, the create has lost. Guards against taking another one's
    object for one's own."""
    store, client = make({("put", 0): fault})
    client.objects["run/log/1"] = b"theirs"
    assert not store.create("log/1", b"mine")
    assert client.objects == {"run/log/1": b"theirs"}


def test_the_same_bytes_of_another_are_not_ones_own(make: Make) -> None:
    """The same bytes count as ours only after a doubtful try. Guards against two winners of a race in which nothing was
    in doubt."""
    store, client = make()
    client.objects["run/log/1"] = b"same"
    assert not store.create("log/1", b"same")
    assert "get" not in methods(client)


def test_a_refused_create_has_made_nothing(make: Make) -> None:
    """A create that is refused at once has made nothing. Guards against a save that waits until its deadline for an
    outcome that is known."""
    store, _ = make({("put", 0): "refuse"})
    with pytest.raises(NotCreated, match=r"Could not create s3://bucket/run/log/1: refuse"):
        store.create("log/1", b"mine")


@pytest.mark.parametrize("fault", ["lose", "later"])
def test_a_create_that_is_refused_after_a_doubt_is_unknown(make: Make, fault: str) -> None:
    """A create that is refused after a doubtful try has an unknown outcome. Guards against reporting it as not made
    while the first try stands in the slot or is still on its way."""
    store, _ = make({("put", 0): fault, ("put", 1): "refuse"})
    with pytest.raises(StorageError) as raised:
        store.create("log/1", b"mine")
    assert not isinstance(raised.value, NotCreated)


@pytest.mark.parametrize(
    ("conditions", "requests"),
    [
        ("kept", ["put", "put", "put", "put"]),
        ("ignored", ["put", "put", "size", "put", "size"]),
        ("unsupported", ["put", "size", "page", "put", "size", "put", "size"]),
    ],
)
def test_a_storage_without_conditions_is_told_once(
    make: Make, conditions: str, requests: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A store without conditional creates gives one warning and works. Guards against two coordinators that silently
    overwrite each other's commits on such a server, and refusing a server that one coordinator can use."""
    store, client = make(conditions=conditions)
    assert store.exclusive
    with caplog.at_level(logging.WARNING, "holdfast.storage"):
        assert store.create("log/1", b"one")
        assert store.create("log/2", b"two")
        assert not store.create("log/2", b"two")
    assert [record.message.partition(" the condition")[0] for record in caplog.records] == {
        "kept": [],
        "ignored": ["s3://bucket/run: this storage does not keep"],
        "unsupported": ["s3://bucket/run: this storage does not know"],
    }[conditions]
    assert store.exclusive == (conditions == "kept")
    assert client.objects == {"run/log/1": b"one", "run/log/2": b"two"}
    assert methods(client) == requests


@pytest.mark.parametrize("at_first", [True, False])
@pytest.mark.parametrize("conditions", ["ignored", "unsupported"])
def test_one_of_eight_creators_wins_without_conditions(make: Make, conditions: str, at_first: bool) -> None:
    """Within one process, exactly one of eight creators wins even without conditions. Guards against a leader and its
    successor in one process that both win, or fail before it is known."""
    store, client = make(conditions=conditions)
    if not at_first:
        assert store.create("first", b"")
    won = winners(store, "log/1", [b"%d" % who for who in range(8)])
    assert [client.objects["run/log/1"]] == [b"%d" % who for who in won]


def test_a_create_after_a_doubt_is_not_begun_anew(make: Make) -> None:
    """After a doubtful try, a create is not started anew. Guards against one's own entry that is taken for another's
    because a second server answered."""
    store, _ = make({("put", 0): "later"}, conditions="unsupported")
    with pytest.raises(StorageError) as raised:
        store.create("log/1", b"one")
    assert not isinstance(raised.value, NotCreated)
    assert store.exclusive


def test_a_refused_create_shows_that_conditions_are_kept(make: Make) -> None:
    """A refusal shows that the server keeps conditions. Guards against a proxy that once answers that something is not
    implemented."""
    store, client = make()
    client.objects["run/log/1"] = b"one"
    assert not store.create("log/1", b"mine")
    client._conditions = "unsupported"
    with pytest.raises(NotCreated):
        store.create("log/2", b"mine")
    assert client.objects == {"run/log/1": b"one"}


def test_a_folder_whose_contents_are_on_a_later_page_goes_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that stands for a folder is deleted after its contents on later pages. Guards against a folder that stays
    because it was not empty when it was to be deleted."""
    store, client = make()
    client.objects = dict.fromkeys(["run/old/local", *(f"run/old/local/{n}" for n in range(9))], b"")
    delete = client.delete

    async def but_folders(keys: Sequence[str]) -> None:
        await delete([key for key in keys if not any(other.startswith(f"{key}/") for other in client.objects)])

    monkeypatch.setattr(client, "delete", but_folders)
    store.delete_folder("old")
    assert client.objects == {}


def test_conditions_that_were_kept_are_insisted_on(make: Make) -> None:
    """Once conditions were kept, they are required from then on. Guards against two leaders that can both win after a
    proxy once answered that something is not implemented."""
    store, client = make()
    assert store.create("log/1", b"one")
    client._conditions = "unsupported"
    with pytest.raises(NotCreated, match="what is If-None-Match"):
        store.create("log/2", b"two")
    assert store.exclusive


@pytest.mark.parametrize("fault", ["later", "hang", "refuse"])
def test_a_create_has_succeeded_whatever_becomes_of_the_second(make: Make, fault: str) -> None:
    """A create has succeeded whatever becomes of the trial of conditions. Guards against a commit that waits for ever,
    or fails, because the storage could not be tried."""
    store, client = make({("put", 1): fault})
    assert store.create("log/1", b"mine")
    assert store.create("log/2", b"mine")
    assert methods(client) == ["put"] * 4


# -- retries --


def test_what_never_answers_is_given_up_soon(make: Make) -> None:
    """An address that never answers is given up soon. Guards against a wrong address that delays the program's start
    for a minute."""
    store, client = make({("page", "always"): "later"})
    with pytest.raises(StorageError, match=r"Could not list s3://bucket/run: later"):
        store.list()
    assert FIRST_PATIENCE <= client.loop.time() < FIRST_PATIENCE + 1


def test_what_never_says_anything_is_given_up_soon(make: Make) -> None:
    """An address that accepts connections and stays silent is given up soon. Guards against the same delay."""
    store, client = make({(method, "always"): "hang" for method in ("page", "unfinished")})
    with pytest.raises(StorageError, match="no answer in time"):
        store.list()
    assert client.loop.time() < 3 * FIRST_ANSWER_WITHIN + 1


def test_what_has_answered_once_gets_patience(make: Make) -> None:
    """A store that has answered before gets more patience. Guards against a save that is lost because of ten seconds of
    throttling."""
    faults = {("page", number): "later" for number in range(1, 10)}
    store, client = make(faults)
    store.list()
    assert store.list() == []
    assert 10 < client.loop.time() < PATIENCE
    store, client = make({("page", number): "later" for number in range(1, 100)})
    store.list()
    began = client.loop.time()
    with pytest.raises(StorageError, match="later"):
        store.list()
    assert PATIENCE <= client.loop.time() - began < PATIENCE + 1


@pytest.mark.parametrize("fault", ["later", "lose", "hang after"])
def test_a_second_try_sends_all_of_it(make: Make, fault: str) -> None:
    """A second try sends the whole body. Guards against an object without bytes, because the first try has read the
    body to its end."""
    store, client = make({("put", 0): fault})
    store.replace("a", b"data")
    assert client.objects == {"run/a": b"data"}
    store, client = make({("put", 0): fault})
    store.write("a", [b"da", b"ta"])
    assert client.objects == {"run/a": b"data"}


def test_a_request_that_hangs_is_repeated(make: Make) -> None:
    """A request that hangs is repeated. Guards against a restore without an end, on a connection that nobody ever
    closes."""
    store, client = make({("get", 0): "hang"})
    client.objects["run/a"] = b"data"
    assert store.read("a") == b"data"


def test_a_final_no_is_not_repeated(make: Make) -> None:
    """A final refusal is not repeated. Guards against a minute of requests with the same wrong credentials."""
    store, client = make({("get", "always"): "refuse"})
    with pytest.raises(StorageError, match="Could not read s3://bucket/run/a: refuse"):
        store.read("a")
    assert methods(client) == ["get"]


def test_a_missing_bucket_is_no_missing_object(make: Make) -> None:
    """A missing bucket is an error, not a missing object. Guards against a misspelt bucket that looks like a new run,
    so that training starts from scratch."""
    store, _ = make(bucket=False)
    with pytest.raises(StorageError, match="no such bucket"):
        store.read("a")
    with pytest.raises(StorageError, match="no such bucket"):
        store.size("a")
    store, client = make()
    assert store.size("a") is None
    with pytest.raises(FileNotFoundError, match="s3://bucket/run/a"):
        store.read("a")
    assert [call for call in client.calls if call[0] == "page"] == [("page", "run/")]  # no store lists half a name


# -- write --


def chunks_of(data: bytes, size: int) -> list[memoryview]:
    return [memoryview(data)[start : start + size] for start in range(0, len(data), size)]


DATA = bytes(range(251)) * (3 * PART // 251)  # two parts and most of a third


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("fault", [None, "later", "lose", "hang", "hang after"])
def test_parts_are_repeated_alone(make: Make, in_order: bool, fault: str | None) -> None:
    """A part is repeated alone, and put in its place. Guards against a part that is missing, doubled or misplaced, and
    sending a whole object again."""
    store, client = make({("put_part", 1): fault} if fault else {}, in_order=in_order)
    assert store.write("a", chunks_of(DATA, 1 << 20)) == len(DATA)
    assert client.objects == {"run/a": DATA}
    assert not client.uploads
    assert methods(client).count("put_part") == (4 if fault else 3)


def test_small_objects_are_one_request(make: Make) -> None:
    """A small object takes one request. Guards against three requests where one is enough."""
    store, client = make()
    store.write("a", [b"abc", b"", b"d"])
    assert client.objects == {"run/a": b"abcd"}
    assert methods(client) == ["size", "page", "put"]


def test_an_object_of_exactly_two_parts(make: Make) -> None:
    """An object of exactly two parts has two parts. Guards against an empty third part, which some stores refuse."""
    store, client = make()
    data = DATA[: 2 * PART]
    store.write("a", chunks_of(data, 3 << 20))
    assert client.objects == {"run/a": data}
    assert methods(client).count("put_part") == 2


def test_parts_are_of_whole_grains(make: Make) -> None:
    """Parts are multiples of the grain. Guards against parts whose end Google Cloud Storage does not keep, so that it
    is sent again and again."""
    store, client = make(write_buffer=30_000_000)
    store.write("a", chunks_of(DATA, 1 << 20))
    assert client.objects == {"run/a": DATA}
    assert store._part == 7_340_032


def test_parts_grow_before_they_are_too_many(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts grow before they are too many. Guards against an object of 200 GB that fails at its ten thousandth part."""
    monkeypatch.setattr(object_store, "PARTS_BEFORE_GROWTH", 2)
    store, client = make()
    store.write("a", chunks_of(DATA * 3, 1 << 20))
    assert client.objects == {"run/a": DATA * 3}
    assert methods(client).count("put_part") == 5  # 1, 1, 2, 2 and 3 times as large


@pytest.mark.parametrize("method", ["begin", "put_part", "finish"])
def test_a_failed_upload_is_aborted(make: Make, method: str) -> None:
    """A failed upload is aborted. Guards against parts that nobody sees and everybody pays for."""
    store, client = make({(method, 0): "refuse"})
    with pytest.raises(StorageError, match="Could not write s3://bucket/run/a: refuse") as raised:
        store.write("a", chunks_of(DATA, 1 << 20))
    assert raised.value.object == "s3://bucket/run/a"
    assert not client.uploads
    assert not client.objects
    assert client.in_flight == 0


def test_what_the_caller_raises_ends_the_upload(make: Make) -> None:
    """An error of the caller ends the upload and is raised. Guards against a save that was given up and goes on
    writing, or whose reason is lost."""

    def chunks() -> Iterator[bytes]:
        yield DATA
        raise SaveFailed("given up")

    store, client = make()
    with pytest.raises(SaveFailed, match="given up"):
        store.write("a", chunks())
    assert not client.uploads
    assert not client.objects


@pytest.mark.parametrize("fault", [None, "refuse", "later", "hang"])
def test_uploads_of_the_dead_go_with_their_folder(make: Make, fault: str | None) -> None:
    """Unfinished uploads are listed with their folder and deleted with it. Guards against parts of a killed writer,
    paid for for ever, and a run that cannot be read because the server does not list uploads."""
    store, client = make({("unfinished", 0): fault, ("unfinished", 1): fault} if fault else {})
    client.objects = {"run/b": b"y"}
    client.uploads = {"run/a/x#0": {}, "running/a/x#1": {}}
    assert store.list() == (["b"] if fault else ["a/", "b"])
    assert store.list("a") == []
    store.delete_folder("a")
    assert set(client.uploads) == ({"run/a/x#0"} if fault else set()) | {"running/a/x#1"}
    store.delete_folder("a")
    assert set(client.uploads) == {"running/a/x#1"}


@pytest.mark.parametrize("fault", ["lose", "hang after"])
def test_an_upload_whose_end_was_not_answered_has_succeeded(make: Make, fault: str) -> None:
    """An upload whose end was not answered has succeeded if the object exists. Guards against a save that fails because
    it has succeeded."""
    store, client = make({("finish", 0): fault})
    assert store.write("a", chunks_of(DATA, 1 << 20)) == len(DATA)
    assert client.objects == {"run/a": DATA}


def test_writers_share_the_memory() -> None:
    """All writers share one memory limit. Guards against buffers that grow with the number of objects that are written
    at a time."""
    with running(asyncio.new_event_loop()) as loop:
        client = ScriptedClient(loop)
        store = ObjectStore("s3://bucket/run", client, "run", 4 * PART)
        writers = [
            threading.Thread(target=store.write, args=(f"{number}", chunks_of(DATA, 1 << 20))) for number in range(6)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert client.objects == {f"run/{number}": DATA for number in range(6)}
    assert 2 * PART < client.most_in_flight <= 4 * PART


def test_a_failed_write_ends_with_its_last_part(make: Make) -> None:
    """A failed write ends only when its last part has ended. Guards against parts that arrive after the abort, and
    memory that is given to others while it is still in use."""
    store, client = make({("put_part", 0): "hang", ("put_part", 1): "refuse"})
    with pytest.raises(StorageError, match="refuse"):
        store.write("a", chunks_of(DATA, 1 << 20))
    assert methods(client).count("abort") == 1
    assert client.in_flight == client.too_late == 0
    assert store._budget._free == store._budget.size


# -- read --


@pytest.mark.parametrize("fault", [None, "later", "hang"])
def test_ranges_are_put_together(make: Make, monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Ranges are put together in their places. Guards against a range in the wrong place, or left out because its first
    try failed."""
    monkeypatch.setattr(object_store, "RANGE", 100)
    monkeypatch.setattr(object_store, "FIRST_RANGE", 100)
    store, client = make({("get", 2): fault} if fault else {})
    data = DATA[:1234]
    client.objects["run/a"] = data
    assert store.read("a") == data
    assert methods(client).count("get") == (14 if fault else 13)
    for offset, length in [(0, 1234), (1, 99), (100, 100), (37, 800), (1200, 500), (1234, 10), (2000, 300)]:
        buffer = memoryview(bytearray(length))
        count = store.read_into("a", offset, buffer)
        assert buffer[:count] == data[offset : offset + length]


def test_pages_are_put_together(make: Make) -> None:
    """Pages of a listing are put together. Guards against a log of which only the first thousand entries are seen, and
    a folder of which only as many are deleted."""
    store, client = make({("page", 1): "later", ("delete", 1): "lose"})
    client.objects = {f"run/a/{number}": b"" for number in range(7)} | {"run/ab": b""}
    assert store.list("a") == [str(number) for number in range(7)]
    store.delete_folder("a")
    assert list(client.objects) == ["run/ab"]


# -- bodies --


def test_a_body_reads_like_its_bytes() -> None:
    """A body reads like its bytes, in pieces and again. Guards against a library that reads it in pieces or twice and
    sends something else."""
    parts = [b"abc", b"", bytearray(b"defg"), memoryview(b"hij")]
    whole = b"abcdefghij"
    body = Body(parts)
    for start in range(12):
        for size in range(12):
            body.seek(start)
            assert body.read(size) == whole[start : start + size]
            assert body.tell() == min(start + size, 10) or start > 10
        assert b"".join(body.behind(start).views) == whole[start:]
        assert len(body.behind(start)) == len(whole[start:])
    body.seek(0, 2)
    assert (body.tell(), body.read()) == (10, b"")
