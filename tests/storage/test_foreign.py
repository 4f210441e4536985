"""What TensorFlow's own manager wrote into a run that has a log."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.run_directory import import_state, read_run
from holdfast_storage.stock import state_file
from holdfast_storage.stock.foreign import with_foreign
from holdfast_storage.stock.state_file import to_bytes
from holdfast_storage.store import Store
from support.stores import KINDS, new_store

IMPORTED = CheckpointRecord("ckpt-1", 1, 1.0, stock=True)
OURS = CheckpointRecord("ckpt-2.0000000a.1/ckpt-2", 2, 2.0)
STATE = LogState("run", checkpoints=(IMPORTED, OURS), last_preserved=0.5)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A run that took a stock checkpoint over, committed one, and keeps both."""
    store = new_store(request.param, tmp_path)
    put(store, "ckpt-1", OURS.prefix)
    store.replace("checkpoint", to_bytes(STATE))
    return store


def put(store: Store, *prefixes: str) -> None:
    for prefix in prefixes:
        store.replace(f"{prefix}.index", b"x")


def name(store: Store, *listed: tuple[str, float], newest: str = "") -> None:
    """As TensorFlow's manager writes it."""
    newest = newest or listed[-1][0]
    lines = [f'model_checkpoint_path: "{newest}"', *(f'all_model_checkpoint_paths: "{prefix}"' for prefix, _ in listed)]
    lines += [f"all_model_checkpoint_timestamps: {time}" for _, time in listed]
    store.replace("checkpoint", "\n".join(lines).encode())


def found(store: Store, state: LogState = STATE) -> list[str]:
    return [record.prefix for record in with_foreign(store, state)[0].checkpoints]


def test_what_the_manager_saved_is_the_newest(store: Store) -> None:
    """What TensorFlow's manager has saved since the last commit is restored as the newest. Guards against a silent
    rollback of 40 steps after going to TensorFlow's manager and back."""
    put(store, "ckpt-3", "ckpt-4")
    name(store, (OURS.prefix, 2.0), ("ckpt-3", 3.0), ("ckpt-4", 4.0))
    state, told = with_foreign(store, STATE)
    assert state.checkpoints == (
        IMPORTED,
        OURS,
        CheckpointRecord("ckpt-3", 3, 3.0, stock=True),
        CheckpointRecord("ckpt-4", 4, 4.0, stock=True),
    )
    assert "names ckpt-3, ckpt-4, which tf.train.CheckpointManager has saved since" in told
    assert "the newest is ckpt-4, not verified" in told


def test_readers_find_it_too(store: Store) -> None:
    """Readers find what TensorFlow's manager has saved, too. Guards against `latest_checkpoint`, `ls` and an evaluator
    that disagree with what the next start restores."""
    Log(store).publish(Entry(0, "commit", "w", 1.0, STATE), 0)
    put(store, "ckpt-3")
    name(store, ("ckpt-3", 3.0))
    state = read_run(store)
    assert state is not None
    assert state.checkpoints[-1].prefix == "ckpt-3"


def test_what_the_next_entry_records_is_no_news(store: Store) -> None:
    """Once an entry records a checkpoint of TensorFlow's manager, it is not taken over again. Guards against a
    checkpoint that comes back on top of each later commit until the file is rewritten."""
    put(store, "ckpt-3")
    name(store, ("ckpt-1", 1.0), (OURS.prefix, 2.0), ("ckpt-3", 3.0))
    state, _ = with_foreign(store, STATE)
    later = state.commit(CheckpointRecord("ckpt-5.0000000b.1/ckpt-5", 5, 5.0))
    assert with_foreign(store, later) == (later, "")


def test_a_file_that_is_late_names_nothing_new(store: Store) -> None:
    """An outdated `checkpoint` file changes nothing. Guards against a rollback because a mount lags, or because a
    superseded coordinator wrote the file."""
    later = STATE.restored(IMPORTED.prefix).commit(CheckpointRecord("ckpt-9.0000000b.1/ckpt-9", 9, 9.0))
    for state in (STATE, STATE.restored(IMPORTED.prefix), LogState("run", checkpoints=(IMPORTED,))):
        store.replace("checkpoint", to_bytes(state))
        assert with_foreign(store, later) == (later, "")


def test_the_same_name_again(store: Store) -> None:
    """A name that TensorFlow uses again counts as newer, by its time. Guards against a start from scratch with
    TensorFlow, over files that the log took over before, that is not noticed."""
    name(store, ("ckpt-1", 7.0))
    state, _ = with_foreign(store, replace(STATE, damaged=("ckpt-1",)))
    assert state.checkpoints == (OURS, CheckpointRecord("ckpt-1", 1, 7.0, stock=True))
    assert state.damaged == ()


def test_what_is_listed_but_gone(store: Store) -> None:
    """A listed checkpoint whose files are gone is left out. Guards against restoring what TensorFlow's manager is about
    to delete between two writings of its file."""
    put(store, "ckpt-4")
    name(store, ("ckpt-3", 3.0), ("ckpt-4", 4.0))
    assert found(store) == ["ckpt-1", OURS.prefix, "ckpt-4"]


def test_files_that_no_manager_wrote(store: Store) -> None:
    """A `checkpoint` file that no manager wrote only gives a warning. Guards against training that goes on without its
    optimizer, from `save_weights` or an export beside the run."""
    put(store, "weights-3")
    store.replace("checkpoint", b'model_checkpoint_path: "weights-3"\nall_model_checkpoint_paths: "weights-3"\n')
    state, told = with_foreign(store, STATE)
    assert state == STATE
    assert "names weights-3, which neither Holdfast nor tf.train.CheckpointManager has saved there" in told


@pytest.mark.parametrize("text", [b"", b"\0\0nonsense", b'model_checkpoint_path: "gone-1"'])
def test_no_file_and_useless_ones(store: Store, tmp_path: Path, text: bytes) -> None:
    """Without a usable `checkpoint` file the log's state stands. Guards against a damaged text file that stops a run
    which its log describes completely."""
    store.replace("checkpoint", text)
    assert with_foreign(store, STATE) == (STATE, "")
    assert with_foreign(new_store("posix", tmp_path / "another"), STATE) == (STATE, "")


JOBS = st.lists(
    st.one_of(
        st.tuples(st.just("tensorflow"), st.integers(1, 3), st.booleans()),  # saves, and whether it starts from scratch
        st.tuples(st.just("holdfast"), st.integers(0, 3), st.booleans()),  # saves, and whether it is killed before
        # the last of them was named in the file
    ),
    max_size=6,
)


@given(JOBS)
@settings(max_examples=150, deadline=None)
def test_there_and_back_as_often_as_one_likes(jobs: list[tuple[str, int, bool]]) -> None:
    """Each job goes on from what the job before it saved last, whichever manager it used. Guards against a checkpoint
    that is forgotten by changing the manager."""
    store, state, clock = new_store("memory", Path()), LogState("run"), itertools.count(1)
    last, counter = "", 0
    for number, (who, saves, odd) in enumerate(jobs):
        if who == "tensorflow":
            listed = [] if odd else [each for each in state_file.read(store).listed if each[0]]
            counter = 0 if odd else counter
            for _ in range(saves):
                counter += 1
                last = f"ckpt-{counter}"
                put(store, last)
                listed = [*(each for each in listed if each[0] != last), (last, float(next(clock)))][-3:]
                name(store, *listed)
        else:
            found, _ = with_foreign(store, state) if state.checkpoints else (import_state(store, "run"), "")
            assert (found.checkpoints[-1].prefix if found.checkpoints else "") == last
            assert len({record.prefix for record in found.checkpoints}) == len(found.checkpoints)
            state = found if saves else state  # a restore alone writes nothing
            for ordinal in range(saves):
                counter += 1
                last = f"ckpt-{counter}.{number:08x}.{ordinal}/ckpt-{counter}"
                state = state.commit(CheckpointRecord(last, counter, float(next(clock))))
                if not (odd and ordinal == saves - 1):
                    store.replace("checkpoint", to_bytes(state))


@pytest.mark.tensorflow
def test_tensorflows_manager_and_its_other_writers(tmp_path: Path) -> None:
    """TensorFlow's own writers make files that are read as expected, with our checkpoints among them. Guards against a
    change of TensorFlow's format, or of which of our files its manager deletes."""
    import tensorflow as tf

    store = new_store("posix", tmp_path)
    put(store, "ckpt-1", OURS.prefix)
    store.replace("checkpoint", to_bytes(STATE))
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(checkpoint, store.url, max_to_keep=2)
    for number in (3, 4):
        manager.save(number)
    assert found(store) == ["ckpt-1", OURS.prefix, "ckpt-3", "ckpt-4"]
    assert store.size(f"{OURS.prefix}.index") is None
    checkpoint.save(f"{store.url}/export")
    assert found(store) == ["ckpt-1", OURS.prefix]


def test_a_time_that_nobody_knew_is_not_older(store: Store) -> None:
    """A checkpoint without a known time is not counted as older. Guards against a backup of the file that rolls back,
    and then deletes, all that was committed since."""
    state = replace(STATE, checkpoints=(replace(IMPORTED, time=0.0), OURS))
    name(store, ("ckpt-1", 1.0))
    assert with_foreign(store, state) == (state, "")


def test_what_is_named_and_not_there_is_told(store: Store) -> None:
    """A named checkpoint whose index is missing gives a warning. Guards against TensorFlow's newest, shown late by a
    mount, that the next commit silently forgets."""
    put(store, "ckpt-3")
    name(store, ("ckpt-3", 3.0), ("ckpt-4", 4.0))
    state, told = with_foreign(store, STATE)
    assert state.checkpoints[-1].prefix == "ckpt-3"
    assert "names ckpt-4, which is not in the log and not there" in told


def test_a_file_that_cannot_be_read_takes_nothing_away(tmp_path: Path) -> None:
    """An unreadable `checkpoint` file takes nothing away from the log. Guards against a run that nobody can restore or
    save because of the file's rights, or a folder in its place."""
    store = new_store("posix", tmp_path)
    put(store, "ckpt-1", OURS.prefix, "checkpoint/odd")
    state, told = with_foreign(store, STATE)
    assert state == STATE
    assert "checkpoint cannot be read" in told
