"""docs/security.md lists what the tests try. `REWRITE=1` writes the list anew."""

from __future__ import annotations

import os
from pathlib import Path

from security.attack_list import attack_list

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- The list is made by tests/security/test_attack_list.py. -->\n", "<!-- The list ends. -->"


def test_the_page_lists_the_tests() -> None:
    """The list in docs/security.md is that of the tests. Guards against attacks that are said to be tried and no longer
    are."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    listed, found, after = rest.partition(END)
    assert found, f"no list in {PAGE}"
    if os.environ.get("REWRITE"):
        PAGE.write_text(f"{before}{BEGIN}\n{attack_list()}\n\n{END}{after}")
    else:
        assert listed == f"\n{attack_list()}\n\n", "REWRITE=1 writes it anew: read the difference"
