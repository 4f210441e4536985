"""Damage of every kind to every object of a committed checkpoint: found, and passed over by all workers together.

The newest of three checkpoints of two workers is damaged; then everything is asked that judges a checkpoint:
`verify_checkpoint`, the staging of each worker, and the next start, in which the world agrees on what to restore and
the coordinator, as the second reader, has stock TensorFlow find that as well.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from holdfast.restoring.staging import stage
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.messages import Answer, Apply, Caller, Joined, Read
from holdfast_coordinator.driver import Driver, Refused
from holdfast_storage import layout
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.lag import Wait
from holdfast_storage.log.log import Log, Unknown
from holdfast_storage.records import CheckpointRecord, Entry, Leader, LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store, open_store
from support.committed import commit_run
from support.lagging import Clock

WORLD = (Task("worker", 0), Task("worker", 1))
FLIPS = 400
CUTS = 100


@dataclass
class Run:
    """A run on the local disk, and a way to change its files."""

    store: Store
    state: LogState

    @property
    def newest(self) -> CheckpointRecord:
        return self.state.checkpoints[-1]

    def path(self, name: str) -> Path:
        return Path(self.store.url, name)

    @property
    def objects(self) -> list[str]:
        """All files of the newest checkpoint."""
        folder = self.path(self.newest.folder)
        return sorted(str(file.relative_to(self.store.url)) for file in folder.rglob("*") if file.is_file())

    def with_content(self, name: str, content: bytes | None, ask: Callable[[], None]) -> None:
        """Ask while an object has another content, or is not there."""
        path = self.path(name)
        before = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        try:
            ask()
        finally:
            path.write_bytes(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three checkpoints. Whoever changes something puts it back."""
    store = open_store(tmp_path_factory.mktemp("damage") / "run")
    return Run(store, commit_run(store, (1, 2, 3), WORLD))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Nothing is late here, and what is missing is waited for without taking time."""
    return Clock.installed(monkeypatch, time.monotonic())


def agree(run: Run, world: Sequence[Task] = WORLD) -> Apply | Failure:
    """What the workers of the next start come to agree on, each by staging what is proposed.

    Its coordinator has then come to the end of all that it does.
    """
    return asyncio.run(_agree(run.store, world))


async def _agree(store: Store, world: Sequence[Task]) -> Apply | Failure:
    driver = Driver(store, Leader("next", "", ""), 1, lambda _: None)
    cluster = (("worker", tuple(f"host-{task.index}:1" for task in world)),)

    async def restore(task: Task) -> Answer:
        incarnation = f"process{task.index}.1"
        joiner = Caller("", task, incarnation)
        joined = await driver.ask(joiner, lambda r: ev.Join(r, task, incarnation, cluster, "0000beef", 60.0))
        assert isinstance(joined, Joined)
        caller = Caller(joined.generation, task, incarnation)

        def say(prefix: str, verdict: str, reason: str) -> Awaitable[Answer]:
            return driver.ask(caller, lambda r: ev.Restore(r, caller, 1, "", prefix, verdict, reason, 60.0))

        answer = await say("", "", "")
        while isinstance(answer, Read):
            try:
                stage(store, answer.record, task=task, world=world, wait=Wait()).close()
                answer = await say(answer.record.prefix, "good", "")
            except CheckpointAbsent as error:
                answer = await say(answer.record.prefix, "absent", str(error))
            except CheckpointDamaged as error:
                answer = await say(answer.record.prefix, "damaged", str(error))
        return answer

    try:
        answers = await asyncio.gather(*(restore(task) for task in world), return_exceptions=True)
        await driver.settle(60.0)
    finally:
        await driver.close()
    decisions = [answer.failure if isinstance(answer, Refused) else answer for answer in answers]
    assert decisions == decisions[:1] * len(world)
    assert isinstance(decisions[0], Apply | Failure)
    return decisions[0]


def named(run: Run) -> tuple[str, list[str]]:
    """What stock TensorFlow takes for the newest checkpoint, and for all, by its `checkpoint` file."""
    file = state_file.read(run.store)
    return file.newest, list(file.paths)


def check_found(run: Run, name: str) -> None:
    """The damage of an object is found by whoever reads it, and everybody goes back to the checkpoint before: the
    world with its next start, and with that stock TensorFlow."""
    report = verify_checkpoint(run.store, run.newest)
    assert report.verdict in ("damaged", "absent")
    assert name in {problem.object for problem in report.problems}
    *older, good, _ = (record.prefix for record in run.state.checkpoints)

    def start() -> None:
        decision = agree(run)
        assert isinstance(decision, Apply), decision
        assert decision.record is not None
        assert decision.record.prefix == good
        assert len(decision.passed_over) == 1
        assert name.rpartition("/")[2] in decision.passed_over[0], "the reason does not name the object"
        assert named(run) == (good, [*older, good])

    run.with_content(layout.STATE_FILE, state_file.to_bytes(run.state), start)
    assert named(run)[0] == run.newest.prefix, "as it was"


def spread(run: Run, count: int, seed: str) -> Iterator[tuple[str, bytes, random.Random]]:
    """So many cases over all objects, each of which gets its share, whatever its size."""
    chance = random.Random(seed)
    contents = {name: run.path(name).read_bytes() for name in run.objects}
    for number in range(count):
        name = run.objects[number % len(run.objects)]
        yield name, contents[name], chance


def test_a_sound_run(run: Run) -> None:
    """A sound run passes every check. Guards against checks that call everything damaged and pass the tests below."""
    assert verify_checkpoint(run.store, run.newest).verdict == "good"
    assert agree(run) == Apply(run.newest, ())
    assert named(run) == (run.newest.prefix, [record.prefix for record in run.state.checkpoints])
    kinds = Counter(name.rpartition(".")[2].partition("-")[0] for name in run.objects)
    assert kinds == {"data": 4, "index": 3, "json": 1}, "common data and index, a local bundle each, and the manifest"


def test_flipped_bits(run: Run) -> None:
    """Every flipped bit is found, and the checkpoint before is restored. Guards against training that goes on from a
    state that never was."""
    for name, content, chance in spread(run, FLIPS, "flips"):
        damaged = bytearray(content)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        run.with_content(name, bytes(damaged), lambda name=name: check_found(run, name))  # type: ignore[misc]
    test_a_sound_run(run)


def test_truncations(run: Run) -> None:
    """Every truncation is found. Guards against a file that a full disk or a broken copy has cut."""
    for name, content, chance in spread(run, CUTS, "cuts"):
        cut = content[: chance.randrange(len(content))]
        run.with_content(name, cut, lambda name=name: check_found(run, name))  # type: ignore[misc]


def test_zeros(run: Run) -> None:
    """Every hole of zeros is found. Guards against a page that was never written in a file of the right size."""
    for name, content, chance in spread(run, 2 * len(run.objects), "zeros"):
        start = chance.randrange(len(content))
        hole = content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :]
        if hole != content:
            run.with_content(name, hole, lambda name=name: check_found(run, name))  # type: ignore[misc]


def test_every_object_removed(run: Run) -> None:
    """Every removed object is found. Guards against confusing a deleted file with a storage that does not answer."""
    for name in run.objects:
        run.with_content(name, None, lambda name=name: check_found(run, name))  # type: ignore[misc]


def test_the_whole_folder_removed(run: Run) -> None:
    """A removed folder is passed over. Guards against a run that stops although the checkpoint before is good."""
    folder = run.path(run.newest.folder)
    aside = folder.rename(folder.with_name("aside"))
    try:
        check_found(run, layout.manifest_object(run.newest.folder))
    finally:
        aside.rename(folder)


@pytest.mark.parametrize("kind", ["of two workers", "of two checkpoints"])
def test_objects_of_the_same_size_swapped(run: Run, kind: str) -> None:
    """Swapped objects are found. Guards against two sound files under each other's names."""
    for one in run.objects:
        size = run.path(one).stat().st_size
        if kind == "of two workers":
            others = [name for name in run.objects if name > one and run.path(name).stat().st_size == size]
        else:
            before = run.state.checkpoints[-2]
            others = [f"{before.folder}/{one.partition('/')[2].replace('ckpt-3', 'ckpt-2')}"]
        for other in others:
            mine, theirs = run.path(one).read_bytes(), run.path(other).read_bytes()
            if mine == theirs:
                continue

            def ask(one: str = one, other: str = other, mine: bytes = mine) -> None:
                if kind == "of two workers":
                    run.with_content(other, mine, lambda: check_found(run, one))
                else:
                    check_found(run, one)

            run.with_content(one, theirs, ask)
    local = [name for name in run.objects if "/local/" in name and ".data-" in name]
    assert len({run.path(name).stat().st_size for name in local}) == 1, "there is a pair of one size"
    assert len({run.path(name).read_bytes() for name in local}) == 2


def test_damage_of_the_older_ones_does_not_matter(run: Run) -> None:
    """Damage of older checkpoints does not matter. Guards against passing over a good newest one."""
    older = layout.manifest_object(run.state.checkpoints[0].folder)
    run.with_content(older, b"", lambda: pytest.fail(str(agree(run))) if agree(run) != Apply(run.newest, ()) else None)


def test_all_damaged_is_an_error(run: Run) -> None:
    """If all checkpoints are damaged, that is an error. Guards against training that silently starts from scratch."""
    one, two, three = (layout.index_object(record.prefix) for record in run.state.checkpoints)

    def ask() -> None:
        decision = agree(run)
        assert isinstance(decision, Failure)
        assert decision.kind == Kind.CHECKPOINT_DAMAGED
        assert all(record.prefix in decision.message for record in run.state.checkpoints)
        assert named(run)[0], "a file that names nothing would be a start from nothing"

    with_all = partial(run.with_content, layout.STATE_FILE, state_file.to_bytes(run.state), ask)
    run.with_content(one, b"", lambda: run.with_content(two, None, lambda: run.with_content(three, b"x", with_all)))


def test_what_is_another_workers_own_is_that_workers_to_report(run: Run) -> None:
    """Each worker verifies its own bundle, and only that. Guards against all workers reading everything, and
    worker-local values that nobody verifies."""
    (own,) = (name for name in run.objects if "/local/worker-1.data" in name)

    def ask() -> None:
        stage(run.store, run.newest, task=WORLD[0], world=WORLD).close()
        with pytest.raises(CheckpointDamaged, match=r"worker-1\.data"):
            stage(run.store, run.newest, task=WORLD[1], world=WORLD)
        # A world of another size reads nobody's own values.
        assert agree(run, WORLD[:1]) == Apply(run.newest, ())

    run.with_content(own, bytes(run.path(own).stat().st_size), ask)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 50, b'model_checkpoint_path: "ckpt-9"\n'])
def test_the_state_file_decides_nothing(run: Run, content: bytes | None) -> None:
    """TensorFlow's `checkpoint` file decides nothing. Guards against a lost or wrong file that makes a run start from
    scratch or from elsewhere."""

    def ask() -> None:
        assert read_run(run.store) == run.state
        assert agree(run) == Apply(run.newest, ())

    run.with_content(layout.STATE_FILE, content, ask)


class TestTheLastLogEntry:
    """Nothing vouches for it but itself. What happens when it rots is said in docs/guarantees.md."""

    def test_a_flipped_bit_stops_the_run(self, run: Run) -> None:
        """A flipped bit in the last log entry stops the run. Guards against an older state that is used silently, and a
        forgotten commit."""
        name, content = self._tail(run)
        for position in range(0, len(content) - 3, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8

            def ask() -> None:
                with pytest.raises(CheckpointDamaged, match=r"000000000002\.json"):
                    read_run(run.store)

            run.with_content(name, bytes(damaged), ask)

    @pytest.mark.parametrize("left", [0, 1, 100, -3, -1])
    def test_one_that_ends_early_counts_as_never_written(self, run: Run, left: int) -> None:
        """A last log entry that is cut off counts as never written. Guards against building anything on this
        known gap."""
        name, content = self._tail(run)

        def ask() -> None:
            state = read_run(run.store)
            assert state is not None
            assert state.checkpoints == run.state.checkpoints[:-1]
            assert agree(run) == Apply(run.state.checkpoints[-2], ())
            again = Entry(2, "lead", "another.1", 0.0, state)
            assert isinstance(Log(run.store).publish(again, 0.0), Unknown), "its slot was used again"

        run.with_content(name, content[:left], ask)

    def _tail(self, run: Run) -> tuple[str, bytes]:
        name = layout.log_entry(len(run.state.checkpoints) - 1)
        return name, run.path(name).read_bytes()
