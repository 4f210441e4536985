"""Text that others chose, made printable."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_storage.errors import SaveFailed
from holdfast_storage.printable import LONGEST, printable, printable_json
from support.evil import EVIL, faults

TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # unpaired surrogates, too


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ckpt-7.0a1b2c3d.1/ckpt-7",
        "s3://bucket/été",
        "日本語",
        "Ελλάδα, ישראל, العربية",
        "👍🏽 ❤️",
        r"C:\new",
        "[0:2] a",
    ],
)
def test_what_names_need_stays(text: str) -> None:
    """Letters of all scripts, marks, emoji, spaces and backslashes stay. Guards against names that nobody can read."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u200b\u2060\ufeff\xad", r"\u200b\u2060\ufeff\xad"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\u3164\U000e0041\ue000", r"\u3164\U000e0041\ue000"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_is_no_visible_character_is_an_escape(text: str, shown: str) -> None:
    """Each such character is shown as an escape. Guards against a name that clears a terminal, hides a part of itself,
    or looks like another one."""
    assert printable(text) == shown


@given(TEXT, st.sampled_from([40, 60, LONGEST]))
@example(EVIL, 60)
def test_always(text: str, longest: int) -> None:
    """The result is one visible line of bounded length, and stays as it is when it is made printable again. Guards
    against a character that was forgotten, and against escapes of escapes."""
    shown = printable(text, longest)
    assert shown.isprintable()
    assert not faults(shown)
    assert len(shown) <= longest
    assert printable(shown, longest) == shown
    shown.encode()


@given(st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=40))
def test_plain_text_stays(text: str) -> None:
    """ASCII text stays as it is. Guards against quotes or escapes that nobody needs."""
    assert printable(text, 40) == text


def test_a_long_text_is_cut() -> None:
    """A text that is too long ends in its length. Guards against a name of a megabyte in each line of a log."""
    assert printable("n" * 5000, 60).endswith("n... (5,000 characters)")
    assert printable("\n" * 5000, 60).endswith("... (5,000 characters)")
    assert len(str(SaveFailed("n" * (LONGEST + 1)))) == LONGEST


@given(st.recursive(TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
@example({EVIL: [EVIL]})
def test_json_means_the_same(document: object) -> None:
    """JSON is the same document, and shows nothing but visible characters. Guards against `--json` on a terminal, which
    obeys C1 controls, and against programs that get another name."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    assert json.loads(printable_json(text)) == json.loads(text)
    assert not faults(printable_json(text))


def test_errors_are_printable() -> None:
    """The texts of an error are printable. Guards against a traceback, or a program's own words about it, that write to
    the terminal."""
    error = SaveFailed(f"Could not write {EVIL}", workers=[EVIL], phase=EVIL, object=EVIL)
    assert not faults(" ".join([str(error), *error.workers, error.phase, error.object]))
