"""The list of attacks in docs/security.md, in the words of the tests that try them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]

ELSEWHERE = (
    "processes/test_floods.py",
    "storage/test_hostile_folders.py",
    "service/test_hostile_run.py",
    "processes/test_two_users.py",
    "processes/test_other_users.py",
    "processes/test_floods.py",
    "storage/test_hostile_fields.py",
    "service/test_hostile_fields.py",
    "proof/test_fuzzing.py",
    "proof/test_fuzzing_calls.py",
    "service/test_checks.py",
    "service/test_shares.py",
    "service/test_lies.py",
    "storage/test_run_key.py",
    "service/test_run_keys.py",
    "service/test_certificates.py",
    "service/test_tokens.py",
    "service/test_proofs.py",
    "service/test_without_cryptography.py",
    "cli/test_odd_files.py",
    "cli/test_evil_names.py",
    "service/test_evil_names.py",
    "storage/test_server_errors.py",
    "storage/test_scrub.py",
)
"""Test files of other folders that are about attacks. Each is one line of the list."""

GUARDS = " Guards against "


def attack_list() -> str:
    """Return it as Markdown: each test of this folder, and each file of `ELSEWHERE`.

    Raises ValueError for a test that does not say what holds and what it guards against.
    """
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    parts = [_table(path) for path in files if path.stem != f"test_{Path(__file__).stem}"]
    return "\n\n".join([*parts, _elsewhere()])


def _table(path: Path) -> str:
    module = ast.parse(path.read_text())
    lines = [f"**{_sentence(module)}** `{path.relative_to(TESTS.parent)}`", "", "| test | what holds | against |"]
    lines.append("| --- | --- | --- |")
    for test in _tests(module):
        holds, guards, against = " ".join((ast.get_docstring(test) or "").split()).partition(GUARDS)
        if not guards:
            raise ValueError(f"{path.name}::{test.name} does not say what holds, and what it guards against")
        lines.append(_row(f"`{test.name.removeprefix('test_')}`", holds, against.rstrip(".")))
    return "\n".join(lines)


def _elsewhere() -> str:
    lines = ["**Elsewhere**", "", "| tests | about |", "| --- | --- |"]
    for name in ELSEWHERE:
        lines.append(_row(f"`tests/{name}`", _sentence(ast.parse((TESTS / name).read_text()))))
    return "\n".join(lines)


def _tests(module: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def _sentence(module: ast.Module) -> str:
    """Return the first paragraph of a module's docstring, on one line."""
    return " ".join((ast.get_docstring(module) or "").partition("\n\n")[0].split())


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
