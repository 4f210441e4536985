"""Strategies of all that can be written to a run directory: entries of the log, and manifests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, get_args

from hypothesis import strategies as st

from holdfast_storage.checkpoint.manifest import Base, Manifest, ObjectRecord
from holdfast_storage.cluster import CHECKPOINTING_JOBS, MOST_TASKS, Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import (
    LARGEST_STEP,
    TAG_NAME,
    Attempt,
    check_checkpoint_name,
    check_stock_prefix,
    data_object,
    delta_prefix,
    index_object,
    local_prefix,
    parse_prefix,
)
from holdfast_storage.records import (
    LONGEST_LEASE,
    CheckpointRecord,
    Entry,
    EntryKind,
    Generation,
    Leader,
    Lease,
    LogState,
    Past,
    Pin,
    Tag,
)

T = TypeVar("T")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STEPS = st.integers(0, LARGEST_STEP)
TIMES = st.floats(0, 1e11)
TASKS = st.builds(Task, st.sampled_from(CHECKPOINTING_JOBS), st.integers(0, MOST_TASKS - 1))
GENERATIONS = st.from_regex("[0-9a-f]{8}", fullmatch=True)
IDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20)
ADDRESSES = st.sampled_from(
    [
        "",
        "host:1",
        "127.0.0.1:7070",
        "[::1]:7070",
        "[fe80::1%eth0]:1",
        "[fe80::1%br-lan.100]:1",
        "a_b.c-d.example:65535",
        f"unix-abstract:holdfast-{'0123456789abcdef' * 2}",
    ]
)
NAMES = st.text(min_size=1, max_size=20)


def _passes(check: Callable[[str], object]) -> Callable[[str], bool]:
    def passes(text: str) -> bool:
        try:
            check(text)
        except (ValueError, InvalidRequest):
            return False
        return True

    return passes


CHECKPOINT_NAMES = st.just("ckpt") | NAMES.filter(_passes(check_checkpoint_name))
STOCK_PREFIXES = NAMES.filter(_passes(check_stock_prefix))
ATTEMPTS = st.builds(Attempt, CHECKPOINT_NAMES, STEPS, GENERATIONS, STEPS)


@st.composite
def records(draw: st.DrawFn) -> CheckpointRecord:
    """A checkpoint, Holdfast's or TensorFlow's."""
    if draw(st.booleans()):
        return CheckpointRecord(draw(STOCK_PREFIXES), draw(STEPS), draw(TIMES), True, draw(st.booleans()))
    attempt, crc = draw(ATTEMPTS), draw(st.integers(0, 2**32 - 1))
    metrics = draw(st.dictionaries(NAMES, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=2))
    given = tuple(metrics.items())
    return CheckpointRecord(attempt.prefix, attempt.number, draw(TIMES), False, draw(st.booleans()), crc, given)


@st.composite
def deltas(draw: st.DrawFn, live: list[CheckpointRecord]) -> CheckpointRecord | None:
    """A delta on one of these checkpoints; None if it cannot be one."""
    base = draw(st.sampled_from(live))
    attempt = parse_prefix(base.prefix)
    if base.stock or attempt is None or attempt.ordinal == LARGEST_STEP:
        return None
    made = Attempt(
        draw(CHECKPOINT_NAMES), draw(STEPS), attempt.generation, draw(st.integers(attempt.ordinal + 1, LARGEST_STEP))
    )
    return CheckpointRecord(made.prefix, made.number, draw(TIMES), base=base.prefix)


@st.composite
def states(draw: st.DrawFn) -> LogState:
    """A state of a run, whose parts agree."""
    live = draw(st.lists(records(), max_size=4, unique_by=lambda each: each.prefix))
    for _ in range(draw(st.integers(0, 2)) if live else 0):
        delta = draw(deltas(live))
        if delta is not None and delta.prefix not in {each.prefix for each in live}:
            live.insert(draw(st.integers(0, len(live))), delta)
    gone = draw(st.lists(ATTEMPTS.map(lambda each: each.folder), max_size=3))
    moved = draw(st.just("") | IDS) if all(each.stock for each in live) else ""
    generation = draw(st.none() | st.builds(Generation, GENERATIONS, _members())) if not moved else None
    before = draw(st.lists(GENERATIONS, max_size=4))
    own = st.sampled_from([each.prefix for each in live if not each.stock] or [""])
    pins = st.builds(Pin, own, TIMES, st.just("") | IDS)
    tags = st.builds(Tag, st.from_regex(TAG_NAME, fullmatch=True), own, TIMES)
    leases = st.builds(Lease, own, IDS, st.floats(0, LONGEST_LEASE), STEPS)
    holds = not all(each.stock for each in live)
    return LogState(
        run_id=draw(IDS),
        leader=draw(st.none() | st.builds(Leader, IDS, ADDRESSES, IDS)),
        generation=generation,
        checkpoints=tuple(live),
        retired=tuple(folder for folder in gone if folder not in {each.folder for each in live}),
        damaged=tuple(draw(st.lists(st.sampled_from([each.prefix for each in live]), unique=True)) if live else ()),
        last_preserved=draw(st.none() | TIMES),
        superseded=tuple(each for each in before if generation is None or each != generation.id),
        led=draw(st.none() | TIMES),
        past=draw(st.builds(Past, STEPS, TIMES)),
        pinned=tuple(draw(st.lists(pins, unique_by=lambda pin: pin.prefix, max_size=2)) if holds else ()),
        tags=tuple(draw(st.lists(tags, unique_by=lambda tag: tag.name, max_size=3)) if holds else ()),
        leases=tuple(draw(st.lists(leases, unique_by=lambda lease: lease.reader, max_size=2)) if holds else ()),
        rolled_back=draw(st.just(0) | STEPS),
        moved=moved,
    )


def _members() -> st.SearchStrategy[tuple[tuple[Task, str], ...]]:
    return st.dictionaries(TASKS, IDS, max_size=3).map(lambda found: tuple(found.items()))


ENTRIES = st.builds(Entry, STEPS, st.sampled_from(get_args(EntryKind)), IDS, TIMES, states(), st.text())


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest whose parts agree."""
    attempt = draw(ATTEMPTS)
    world = draw(st.lists(TASKS, min_size=1, max_size=3, unique=True))
    shards = draw(st.integers(1, 3))
    delta = attempt.ordinal > 0 and draw(st.booleans())
    bundle = delta_prefix(attempt.prefix) if delta else attempt.prefix
    base = bundle.removeprefix(f"{attempt.folder}/")
    objects = [_object(draw, data_object(base, shard, shards), "data", world) for shard in range(shards)]
    objects.append(_object(draw, index_object(base), "index", [None]))
    for task in world if draw(st.booleans()) else ():
        local = local_prefix(attempt.folder, task).removeprefix(f"{attempt.folder}/")
        objects += [_object(draw, name, "local", [task]) for name in (index_object(local), data_object(local, 0, 1))]
    return Manifest(
        prefix=attempt.prefix,
        step=attempt.number,
        time=draw(TIMES),
        generation=attempt.generation,
        world=tuple(world),
        objects=tuple(objects),
        cluster=draw(st.dictionaries(IDS, st.lists(IDS, max_size=3).map(tuple), max_size=2)),
        strategy=draw(NAMES),
        versions=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
        git_commit=draw(NAMES),
        metadata=draw(st.dictionaries(st.text(), JSON, max_size=3)),
        metrics=draw(st.dictionaries(st.text(), JSON, max_size=3)),
        local_keys=tuple(draw(st.lists(st.text(), max_size=3))),
        base=draw(_bases(attempt)) if delta else None,
    )


def _bases(attempt: Attempt) -> st.SearchStrategy[Base]:
    earlier = st.builds(
        Attempt, CHECKPOINT_NAMES, STEPS, st.just(attempt.generation), st.integers(0, attempt.ordinal - 1)
    )
    return st.builds(Base, earlier.map(lambda each: each.prefix), st.integers(0, 2**32 - 1))


def _object(draw: st.DrawFn, name: str, role: str, writers: list[Task] | list[None]) -> ObjectRecord:
    crc = draw(st.integers(0, 2**32 - 1))
    return ObjectRecord(name, draw(st.integers(0, 2**50)), crc, role, draw(st.sampled_from(writers)))
