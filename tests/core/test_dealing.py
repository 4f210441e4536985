"""Who reads what of a new checkpoint: others than its writers, and no more than they have to do with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core.dealing import ANYBODY, MOST_TIMES, StoredObject, deal, written
from holdfast_storage.cluster import Task

MIB = 1 << 20
CHIEF = Task("chief", 0)


def server(number: int) -> Task:
    return Task("ps", number)


def worker(number: int) -> Task:
    return Task("worker", number)


def objects(*parts: tuple[Task, list[int]]) -> list[StoredObject]:
    """Objects of so many bytes of each writer."""
    return [StoredObject(f"{task}.{n}", size, task) for task, sizes in parts for n, size in enumerate(sizes)]


def names(shares: dict[Task, list[StoredObject]]) -> dict[str, list[str]]:
    return {str(task): [each.name for each in share] for task, share in shares.items()}


def dealt(found: list[StoredObject], *readers: Task) -> dict[Task, list[StoredObject]]:
    return deal(found, readers, written(found), {})


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[StoredObject], set[Task], dict[Task, int]]:
    tasks = [worker(n) for n in range(draw(st.integers(1, 6)))]
    sizes = st.one_of(st.integers(0, 100), st.integers(0, 500 * MIB))
    found = objects(*((task, draw(st.lists(sizes, max_size=5))) for task in tasks))
    readers = draw(st.sets(st.sampled_from([*tasks, CHIEF])))
    return found, readers, draw(st.dictionaries(st.sampled_from(tasks), st.integers(0, 500 * MIB)))


@given(worlds())
def test_each_object_once(world: tuple[list[StoredObject], set[Task], dict[Task, int]]) -> None:
    """Every object that a reader may read is in one share, only readers have one, nobody reads its own where another
    may, and nobody reads too much of others. Guards against an object that nobody reads and that counts as read, one
    that is read by all, and the chief of parameter servers through which all passes."""
    found, readers, load = world
    wrote = written(found)
    shares = deal(found, readers, wrote, load)
    assert set(shares) == readers
    in_shares = [each.name for share in shares.values() for each in share]
    assert len(in_shares) == len(set(in_shares))
    left = {each.name for each in found} - set(in_shares)
    assert not [each for each in found if each.name in left and each.writer in readers]
    for task, share in shares.items():
        of_others = sum(each.size for each in share if each.writer != task)
        assert not of_others or of_others + load.get(task, 0) <= max(MOST_TIMES * wrote.get(task, 0), ANYBODY)
    if not any(each.size for each in found):
        assert (
            not [each for task, share in shares.items() for each in share if each.writer == task] or len(readers) == 1
        )


def test_equal_workers_have_equal_shares() -> None:
    """Workers that wrote as much read as much. Guards against one that reads what two others wrote, while a third has
    nothing to do."""
    shares = dealt(objects(*((worker(n), [64 * MIB]) for n in range(4))), *map(worker, range(4)))
    assert names(shares) == {
        "worker-0": ["worker-3.0"],
        "worker-1": ["worker-0.0"],
        "worker-2": ["worker-1.0"],
        "worker-3": ["worker-2.0"],
    }
    shares = dealt(objects(*((worker(n), [64 * MIB, 32 * MIB]) for n in range(4))), *map(worker, range(4)))
    assert {sum(each.size for each in share) for share in shares.values()} == {96 * MIB}


def test_the_chief_of_parameter_servers() -> None:
    """Who holds next to nothing reads next to nothing. Guards against a state that passes through the chief."""
    found = objects((CHIEF, [20_000]), (server(0), [128 * MIB] * 4), (server(1), [128 * MIB] * 4))
    shares = dealt(found, CHIEF, server(0), server(1))
    assert sum(each.size for each in shares[CHIEF]) == 0
    assert all(each.writer != task for task, share in shares.items() for each in share)


def test_one_parameter_server() -> None:
    """The only one that holds anything reads its own. Guards against the chief that has to read it."""
    found = objects((CHIEF, [20_000]), (server(0), [128 * MIB] * 2))
    shares = dealt(found, CHIEF, server(0))
    assert names(shares) == {"chief-0": [], "ps-0": ["ps-0.0", "ps-0.1", "chief-0.0"]}


def test_a_small_state() -> None:
    """What one worker alone has written of a small state is read by another. Guards against a writer that reads its own
    page cache although there are others."""
    assert names(dealt(objects((worker(0), [1_000])), worker(0), worker(1)))["worker-1"] == ["worker-0.0"]


def test_what_was_asked_before_counts() -> None:
    """What a reader was asked for before counts. Guards against a chief that reads a MiB of parameter servers again and
    again."""
    found = objects((server(0), [1_000]))
    assert names(deal(found, [CHIEF, server(0)], {}, {CHIEF: ANYBODY}))["ps-0"] == ["ps-0.0"]
