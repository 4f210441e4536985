"""Names below a run directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage import layout
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest


def test_the_names_of_the_design() -> None:
    """Names have the form that the design documents show. Guards against a name that stock readers and older
    checkpoints do not use."""
    prefix = layout.prefix("ckpt", 1000, "7f3a2c1b", 12)
    folder = layout.attempt_folder("ckpt", 1000, "7f3a2c1b", 12)
    assert folder == "ckpt-1000.7f3a2c1b.12"
    assert prefix == "ckpt-1000.7f3a2c1b.12/ckpt-1000"
    assert layout.data_object(prefix, 3, 8) == f"{prefix}.data-00003-of-00008"
    assert layout.index_object(prefix) == f"{prefix}.index"
    assert layout.manifest_object(folder) == f"{folder}/manifest.json"
    assert layout.local_prefix(folder, Task("worker", 2)) == f"{folder}/local/worker-2"
    assert layout.log_entry(42) == "_holdfast/log/000000000042.json"


@given(st.text(min_size=1), st.integers(0, 10**18), st.integers(0, 2**32 - 1), st.integers(0, 10**9))
def test_folders_read_back(name: str, number: int, generation: int, ordinal: int) -> None:
    """An attempt's folder name parses to that attempt. Guards against a folder that is never deleted, or that another
    attempt deletes."""
    try:
        layout.check_checkpoint_name(name)
    except InvalidRequest:
        return
    attempt = layout.Attempt(name, number, f"{generation:08x}", ordinal)
    assert layout.parse_folder(attempt.folder) == attempt
    assert layout.parse_folder(attempt.folder + "/") == attempt


@pytest.mark.parametrize(
    "name",
    [
        "ckpt-1",
        "ckpt-1.7f3a2c1b",
        "ckpt-01.7f3a2c1b.1",
        "ckpt-1.7F3A2C1B.1",
        "ckpt-1.7f3a2c1.1",
        "-1.7f3a2c1b.1",
        "a/ckpt-1.7f3a2c1b.1",
        "ckpt-1.7f3a2c1b.1.old",
        "_holdfast",
        "",
    ],
)
def test_other_folders_are_not_ours(name: str) -> None:
    """Other folder names do not parse. Guards against deleting a user's folder that is taken for an attempt."""
    assert layout.parse_folder(name) is None


@pytest.mark.parametrize("name", ["", "a/b", "a*", "a[1]", "a?", "a\\b", ".a", "a\nb", "a" * 129, "é" * 65])
def test_bad_checkpoint_names(name: str) -> None:
    """Unusable checkpoint names are refused. Guards against a name under which stock TensorFlow finds nothing, or that
    leaves the run directory."""
    with pytest.raises(InvalidRequest, match="checkpoint_name"):
        layout.check_checkpoint_name(name)


@pytest.mark.parametrize("name", ["ckpt", "model-1.2", "my ckpt", "модель", "a.b-c"])
def test_good_checkpoint_names(name: str) -> None:
    """Names that TensorFlow takes are accepted. Guards against refusing a name that TensorFlow takes."""
    assert layout.check_checkpoint_name(name) == name


@given(st.integers(0, 10**15))
def test_log_entries_read_back(number: int) -> None:
    """A log entry's name parses to its number. Guards against a listing that overlooks an entry."""
    assert layout.parse_log_entry(layout.log_entry(number).removeprefix(f"{layout.LOG_FOLDER}/")) == number


@pytest.mark.parametrize("name", ["1.json", "0000000000001.json", "000000000001.json.tmp", "x.json", "000000000001"])
def test_other_files_are_no_entries(name: str) -> None:
    """Other names in the log's folder do not parse. Guards against a file that somebody left in the log, taken for its
    tail."""
    assert layout.parse_log_entry(name) is None


def test_pieces_of_a_delta_are_told_from_whole_tensors() -> None:
    """Keys of rows and values name their tensor and first row, and nothing else does. Guards against a program's own
    variable taken for a piece, or a piece restored as a variable."""
    piece = layout.Piece("model/users/.ATTRIBUTES/VARIABLE_VALUE", 1_000)
    assert layout.parse_piece(piece.rows) == layout.parse_piece(piece.values) == piece
    assert piece.rows != piece.values
    for key in (piece.key, f"{piece.key}/.HOLDFAST_ROWS/-1", f"{piece.key}/.HOLDFAST_ROWS/01", "/.HOLDFAST_ROWS/1"):
        assert layout.parse_piece(key) is None


def test_a_delta_builds_on_an_earlier_save_of_its_own_generation() -> None:
    """Anything else is no base. Guards against circles, and against chains that reach into another world."""
    attempt = layout.Attempt("ckpt", 7, "7f3a2c1b", 3)
    assert attempt.may_build_on(layout.prefix("ckpt", 7, "7f3a2c1b", 2))
    for base in (
        attempt.prefix,
        layout.prefix("ckpt", 7, "7f3a2c1b", 4),
        layout.prefix("ckpt", 7, "00000000", 2),
        "ckpt-6",
    ):
        assert not attempt.may_build_on(base)
