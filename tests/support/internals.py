"""Names of other libraries: taken away, as a release may do, and found in our sources."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def leaf(name: str) -> str:
    """The last part of what an entry of an `Internals` names."""
    return name.partition("(")[0].rpartition(":")[2].rpartition(".")[2]


def rename(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Rename what an entry of an `Internals` names, where it is defined; its last part is what it was called."""
    module, _, path = name.partition("(")[0].partition(":")
    *outer, leaf = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    for each in inspect.getmro(owner) if isinstance(owner, type) else [owner]:
        if leaf in vars(each):
            monkeypatch.setattr(each, f"{leaf}_renamed", vars(each)[leaf], raising=False)
            monkeypatch.delattr(each, leaf)
        elif isinstance(each, type):
            for method in filter(inspect.isfunction, vars(each).values()):
                _rename_in(monkeypatch, inspect.unwrap(method), leaf)
    return leaf


def _rename_in(monkeypatch: pytest.MonkeyPatch, method: FunctionType, name: str) -> None:
    code = method.__code__
    if name in code.co_names:
        names = tuple(f"{name}_renamed" if each == name else each for each in code.co_names)
        monkeypatch.setattr(method, "__code__", code.replace(co_names=names))


def foreign_names(path: Path, ours: set[str], theirs: set[str]) -> Iterator[tuple[int, str]]:
    """Private names of others in a module, with their lines: attributes, texts for `getattr` and its like, imports.

    ours: what is defined in this project.
    theirs: names of others, which an object of ours may have as well.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if node.attr not in ours or (node.attr in theirs and not _is_self(node.value)):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from ((node.lineno, text) for text in texts if isinstance(text, str) and _is_private(text))
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(each.name for each in node.names)]
            yield from ((node.lineno, name) for name in names if _is_private(name) and name not in ours)


def defined_names(folder: Path) -> set[str]:
    """Return what the sources in a folder define: functions, classes, variables, and attributes of their objects."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                found.add(node.attr)
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
