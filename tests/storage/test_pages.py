"""Pages of the log: how the list of checkpoints is cut, and what is written and read of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_storage import lag
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import PAGE_FOLDER, log_entry, page_object
from holdfast_storage.log.entries import Records, decode, decode_page, encode, encode_page, page_name
from holdfast_storage.log.log import Log, LostRace, NotPublished, Published, Unknown
from holdfast_storage.log.pages import FEWEST, Pages
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store
from support.faulty_store import FaultyStore
from support.passing_store import PassingStore
from support.stores import KINDS, new_store


def record(number: int, **fields: object) -> CheckpointRecord:
    prefix = f"ckpt-{number}.0000000a.{number}/ckpt-{number}"
    return CheckpointRecord(prefix, number, 60.0 * number, **{"manifest_crc32c": number, **fields})  # type: ignore[arg-type]


def records(count: int, start: int = 0) -> Records:
    return tuple(record(number) for number in range(start, start + count))


def entry(number: int, checkpoints: Records, write_id: str = "mine") -> Entry:
    return Entry(number, "commit", write_id, 1.0, LogState("run", checkpoints=checkpoints))


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(tmp_path / "run")


def fresh(store: Store) -> Log:
    """As another process has it."""
    return Log(PassingStore(store))


def names(store: Store) -> list[str]:
    return store.list(PAGE_FOLDER)


def test_a_long_list_reads_back(store: Store) -> None:
    """A long list reads back in order. Guards against a checkpoint that a page has swallowed, or that comes twice or in
    another place."""
    log = Log(store)
    written = entry(0, records(700))
    assert log.publish(written, 0) == Published()
    assert names(store)
    assert fresh(store).tail() == log.tail() == written
    assert json.loads(store.read(log_entry(0)))["entry"]["format"] == 2


def test_a_short_list_stands_in_the_entry(store: Store) -> None:
    """A short list stands in the entry, in the first format. Guards against runs of few checkpoints that become slower,
    and unreadable to the version before, for nothing."""
    assert Log(store).publish(entry(0, records(FEWEST - 1)), 0) == Published()
    assert names(store) == []
    assert json.loads(store.read(log_entry(0)))["entry"]["format"] == 1


def test_an_entry_of_the_first_format_is_read_and_gone_on_with(folder: Store) -> None:
    """An entry of the first format is read and continued. Guards against a run of the version before that ends with the
    new one."""
    old = entry(0, records(500))
    assert folder.create(log_entry(0), encode(old))
    assert Log(folder).tail() == old
    assert Log(folder).publish(entry(1, records(501)), 0) == Published()
    assert fresh(folder).read(1) == entry(1, records(501))


class Model:
    """A list of checkpoints as a run has it, and what has been written of it."""

    def __init__(self, store: Store) -> None:
        self.store, self.log = store, Log(store)
        self.number, self.made, self.state = 0, 0, LogState("run")

    def commit(self) -> None:
        self.state = self.state.commit(record(self.made))
        self.made += 1

    def publish(self, log: Log | None = None) -> None:
        written = Entry(self.number, "commit", "w", 1.0, self.state)
        assert (log or self.log).publish(written, 0) == Published()
        self.number += 1
        assert fresh(self.store).read(written.number) == written


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["commit", "commit", "commit", "front", "keep", "middle", "back", "anew"]), max_size=60)
)
def test_any_history_reads_back(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Any history of a list reads back. Guards against a shortcut that holds for growing lists, and not after retention
    and rollbacks."""
    model = Model(open_store(tmp_path_factory.mktemp("pages") / "run"))
    for _ in range(150):
        model.commit()
    for step in steps:
        live = model.state.checkpoints
        free = [each.prefix for each in live if not each.preserved]
        match step:
            case "commit":
                model.commit()
            case "front" if free:
                model.state = model.state.retire(free[:9], (), None)
            case "keep" if free:
                model.state = model.state.retire((), free[:1], None)
            case "middle":
                model.state = model.state.retire((live[len(live) // 2].prefix,), (), None)
            case "back":
                model.state = model.state.restored(live[len(live) // 3].prefix)
            case "anew":
                model.log = Log(model.store)
        model.state = replace(model.state, retired=())
        model.publish()


def test_who_writes_makes_no_difference(folder: Store) -> None:
    """All writers cut a list the same way. Guards against two coordinators with different pages, so that everything is
    written again at each change of the lead."""
    first, second = (Pages(open_store(folder.url)) for _ in range(2))
    for count in range(0, 3000, 7):
        first.cut(records(count))
    assert first.cut(records(3000)) == second.cut(records(3000))


def test_what_grows_is_written_about_once(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A growing list is written about once. Guards against a log in which each entry holds all checkpoints: 211 MiB
    after 2,000 saves."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    log, state, sizes = Log(folder), LogState("run"), []
    for number in range(2000):
        state = state.commit(record(number))
        assert log.publish(Entry(number, "commit", "w", 1.0, state), 0) == Published()
        sizes.append(folder.size(log_entry(number)) or 0)
    assert max(sizes) < 20_000
    assert sum(sizes) / len(sizes) < 8_000
    assert sum(folder.size(f"{PAGE_FOLDER}/{name}") or 0 for name in names(folder)) < 4 * len(
        encode(entry(0, records(2000)))
    )


@pytest.mark.parametrize("kept", [False, True])
def test_a_window_that_moves_makes_no_page_twice(folder: Store, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """A moving window makes no page twice. Guards against retention at the front that rewrites everything after it at
    each save."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    log, state = Log(folder), LogState("run")
    for number in range(1500):
        state = state.commit(record(number))
        oldest = next(each.prefix for each in state.checkpoints if not each.preserved)
        if number >= 400 and kept and number % 5 == 0:
            state = state.retire((), (oldest,), None)
        elif number >= 400:
            state = replace(state.retire((oldest,), (), None), retired=())
        assert log.publish(Entry(number, "commit", "w", 1.0, state), 0) == Published()
    sizes = [folder.size(f"{PAGE_FOLDER}/{name}") or 0 for name in names(folder)]
    assert len(sizes) < 1500 / 8
    assert sum(sizes) < 3 * len(encode(entry(0, records(1500))))


def test_a_page_is_there_before_its_entry(store: Store) -> None:
    """A page is durable before its entry. Guards against a crash between the two, and an entry that stands for ever and
    cannot be read."""
    faulty = FaultyStore(store)
    assert Log(faulty).publish(entry(0, records(300)), 0) == Published()
    created = [name for verb, name in faulty.calls if verb == "create"]
    assert created[-1] == log_entry(0)
    assert created.count(log_entry(0)) == 1
    assert len(created) == 1 + len(names(store))


def test_no_entry_is_sent_without_its_pages(store: Store) -> None:
    """No entry is sent if a page could not be made, and the outcome is a definite failure. Guards against an entry
    whose page is missing, and an outcome called unknown although nothing can appear in the slot."""
    faulty, clock = FaultyStore(store, {("create", n): "fail" for n in range(99)}), Clock()
    outcome = Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0, records(300)), 10)
    assert isinstance(outcome, NotPublished)
    assert log_entry(0) not in [name for verb, name in faulty.calls if verb == "create"]
    assert Log(store).tail() is None


@pytest.mark.parametrize("fault", ["fail", "lose", "delay"])
def test_a_page_is_tried_again(store: Store, fault: str) -> None:
    """A page is tried again. Guards against a save that fails because of one lost reply."""
    faulty, clock = FaultyStore(store, {("create", 0): fault, ("create", 3): fault}), Clock()  # type: ignore[dict-item]
    assert Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0, records(300)), 10) == Published()
    assert fresh(store).read(0) == entry(0, records(300))


def test_an_entry_that_may_land_stays_unknown(store: Store) -> None:
    """An entry that was sent stays unknown even if a later page is refused. Guards against a failure that is reported
    for an entry that lands afterwards."""
    count = len(Pages(store).cut(records(300))[1])
    faulty, clock = FaultyStore(store, {("create", n): "delay" for n in range(count, count + 99)}), Clock()
    assert isinstance(Log(faulty, clock=clock, sleep=clock.sleep).publish(entry(0, records(300)), 1), Unknown)
    faulty.land()
    assert fresh(store).read(0) == entry(0, records(300))


def test_the_loser_of_a_race_leaves_its_pages(store: Store) -> None:
    """The loser of a race leaves its pages. Guards against a clean-up that removes the winner's pages, which are the
    same."""
    assert Log(store).publish(entry(0, records(300), "theirs"), 0) == Published()
    before = names(store)
    assert Log(store).publish(entry(0, records(300)), 0) == LostRace(entry(0, records(300), "theirs"))
    assert names(store) == before


def test_a_part_of_a_page_is_made_whole(folder: Store) -> None:
    """A page that is cut off is completed. Guards against a kill in the middle of a page, without hard links, that ends
    the run because the name is taken for ever."""
    shown, cut = Pages(folder).cut(records(300))
    assert shown
    first = next(iter(cut))
    folder.write(page_object(first), [encode_page(cut[first])[:40]])
    assert Log(folder).publish(entry(0, records(300)), 0) == Published()
    assert fresh(folder).read(0) == entry(0, records(300))


def test_a_directory_that_was_begun_anew_has_its_pages(folder: Store) -> None:
    """A directory that was deleted and begun anew gets its pages again. Guards against pages that this process has seen
    before the deletion, and believes to be there still."""
    assert Log(folder).publish(entry(0, records(300)), 0) == Published()
    assert Log(folder).tail() == entry(0, records(300))
    folder.delete_folder("_holdfast")
    log = Log(folder)
    assert log.tail() is None
    assert log.publish(entry(0, records(300)), 0) == Published()
    assert fresh(folder).tail() == entry(0, records(300))


def test_a_look_at_the_log_reads_what_is_new(folder: Store) -> None:
    """A look at the log reads only what is new. Guards against workers that read 100,000 checkpoints after each
    commit."""
    faulty = FaultyStore(folder)
    assert Log(folder).publish(entry(0, records(1000)), 0) == Published()
    assert Log(faulty).tail() == entry(0, records(1000))
    assert Log(folder).publish(entry(1, records(1010)), 0) == Published()
    faulty.calls.clear()
    assert Log(faulty).read(1) == entry(1, records(1010))
    assert len(faulty.calls) <= 3


def one_page(store: Store) -> str:
    assert Log(store).publish(entry(0, records(300)), 0) == Published()
    return names(store)[0]


def test_a_page_that_is_not_what_its_name_says_is_damage(folder: Store) -> None:
    """A page that does not match its name is damage. Guards against checkpoints that were never committed, or a commit
    that is passed over, because a bit has flipped in a page."""
    name = f"{PAGE_FOLDER}/{one_page(folder)}"
    data = bytearray(folder.read(name))
    data[20] ^= 1
    folder.replace(name, data)
    with pytest.raises(CheckpointDamaged, match=name):
        fresh(folder).tail()


def test_a_page_that_is_missing_is_waited_for(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing page is waited for, within a bound. Guards against a mount that shows the entry before its page, taken
    for damage, and a wait without an end."""
    clock, page = Clock(), one_page(folder)
    name = f"{PAGE_FOLDER}/{page}"
    path = Path(folder.url) / name
    data = path.read_bytes()
    path.unlink()

    def appears(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now >= 3.0 and not path.exists():
            path.write_bytes(data)

    monkeypatch.setattr(lag, "time", SimpleNamespace(monotonic=clock, sleep=appears))
    assert fresh(folder).tail() == entry(0, records(300))
    path.unlink()
    monkeypatch.setattr(lag, "time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    begun = clock.now
    with pytest.raises(CheckpointDamaged, match=f"{name} is missing"):
        fresh(folder).tail()
    assert clock.now - begun == pytest.approx(lag.LAG)


def test_a_page_that_cannot_be_read_is_no_damage(folder: Store) -> None:
    """A page that cannot be read is no damage. Guards against a run that is given up because its storage did not answer
    for a moment."""
    one_page(folder)
    with pytest.raises(StorageError):
        Log(FaultyStore(folder, {("read", 1): "fail"})).read(0)


@pytest.mark.parametrize("contents", [b"{}", b"[]", b'{"checkpoints":[]}', b'{"checkpoints":[{"prefix":1}]}', b"\xff"])
def test_a_page_of_nonsense_is_damage(contents: bytes) -> None:
    """A page of nonsense is damage. Guards against a traceback out of the parser."""
    with pytest.raises(CheckpointDamaged):
        decode_page(contents, page_name(contents), "page")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 31, "G" * 32])
def test_a_page_of_no_such_name_is_damage(name: str) -> None:
    """An impossible page name is damage. Guards against an entry that makes a reader open any file."""
    good = encode(entry(0, ()), ["0" * 32])
    inner = good[good.index(b'"entry":') + 8 : -2].replace(b"0" * 32, name.encode())
    with pytest.raises(CheckpointDamaged, match="page"):
        decode(b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner), "entry", lambda names: [() for _ in names])
