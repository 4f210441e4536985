"""Threads that are preempted wherever CPython may take the word from them.

A thread of CPython may lose the interpreter to another, or be interrupted by a signal handler if it is the main one,
where a function begins, where a loop comes round, and after each call, before anything is done with its result. The
product's functions get code that asks at each of these *places* (`at_a_place`), compiled from their own sources, in
place: modules, classes and functions stay the same objects. Without it they run at full speed.
"""

from __future__ import annotations

import ast
import builtins
import gc
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import greenlet

from simulation.fakes import Now

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")

_ASK = "__at_a_place__"

_INSTANT = frozenset(
    "len isinstance issubclass min max sum abs str int float bool bytes repr tuple list dict set frozenset range zip "  # noqa: SIM905
    "enumerate iter type id hash callable memoryview getattr hasattr".split()
)
"""Calls that change nothing which another thread could see."""

_PURE = "holdfast_storage.bundle"
"""Functions of bytes."""


def _has_places(module: ModuleType) -> bool:
    """Not where results are remembered: the second story of a seed would be another one than the first."""
    remembers = any(isinstance(each, _lru_cache_wrapper) for each in vars(module).values())
    return not remembers and not module.__name__.startswith(_PURE)


class _Places(ast.NodeTransformer):
    """Puts the question where it belongs. A call by name of something instant is left alone."""

    def _asks_first(self, node: Any) -> Any:
        self.generic_visit(node)
        ask = ast.Expr(ast.Call(ast.Name(_ASK, ast.Load()), [], []))
        first = 0
        while first < len(node.body) and _goes_first(node.body[first]):
            first += 1
        at = node.body[min(first, len(node.body) - 1)]
        node.body.insert(first, ast.fix_missing_locations(ast.copy_location(ask, at)))
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_For = visit_AsyncFor = visit_While = _asks_first

    def visit_Await(self, node: ast.Await) -> ast.Await:
        # Not between making a coroutine and waiting for it, where nothing can come.
        if isinstance(node.value, ast.Call):
            ast.NodeTransformer.generic_visit(self, node.value)
        else:
            self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _INSTANT:
            return node
        ask = ast.Call(ast.Name(_ASK, ast.Load()), [node], [])
        return ast.fix_missing_locations(ast.copy_location(ask, node))


def _goes_first(node: ast.stmt) -> bool:
    """A docstring, or what must come before its names are used."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, (ast.Nonlocal, ast.Global))


def _compiled(path: str) -> dict[tuple[str, int], CodeType]:
    """The code of every function of a file, that asks. Those that cannot be told apart are left out."""
    tree = _Places().visit(ast.parse(Path(path).read_bytes(), path))
    found: dict[tuple[str, int], list[CodeType]] = {}

    def walk(code: CodeType) -> None:
        for each in code.co_consts:
            if isinstance(each, CodeType):
                found.setdefault((each.co_qualname, each.co_firstlineno), []).append(each)
                walk(each)

    walk(compile(tree, path, "exec", dont_inherit=True))
    return {key: codes[0] for key, codes in found.items() if len(codes) == 1}


class Instrumented:
    """The functions of some modules, with both of their codes."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        asking = [module for module in modules if _has_places(module)]
        codes = {path: _compiled(path) for module in asking if (path := getattr(module, "__file__", None))}
        self._functions: list[tuple[FunctionType, CodeType, CodeType]] = []
        gc.unfreeze()  # it would not tell of what it has put aside
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and (of_file := codes.get(each.__code__.co_filename)):
                code = of_file.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
                if code is not None:
                    self._functions.append((each, each.__code__, code))

    def __len__(self) -> int:
        return len(self._functions)

    @contextmanager
    def asking(self, ask: Callable[..., Any]) -> Iterator[None]:
        """Inside this, `ask` is called at every place: with nothing, or with what a call gave, to be given back."""
        setattr(builtins, _ASK, ask)
        try:
            for function, _, code in self._functions:
                function.__code__ = code
            yield
        finally:
            for function, code, _ in self._functions:
                function.__code__ = code


class Installed:
    """The result of preparing `patches.installed()`."""

    functions: Instrumented


class Preemption:
    """Takes the word from whoever runs, by the seed.

    Attributes:
        switches: how often it did.
        places: how often it might have.
    """

    def __init__(self, world: World, draw: random.Random) -> None:
        self._world = world
        self._draw = draw
        self._every = draw.choice([15, 60, 250])  # places, in the mean
        self._stalls = draw.choice([0.0, 0.0, 0.03, 0.2])
        self._stalls_for = draw.choice([0.02, 0.3, 2.0])
        self._left = 0
        self._gap = 0
        self.places = 0
        self.switches = 0
        self._next()

    def soon(self, most: int = 80) -> None:
        """Let the next switch come within so many places: somebody has a signal that is to come at a random one."""
        self.places += self._gap - self._left
        self._gap = self._left = 1 + self._draw.randrange(most)

    def calm(self) -> None:
        """Hold up nobody for long from now on."""
        self._stalls = 0.0

    @contextmanager
    def on(self) -> Iterator[None]:
        with Installed.functions.asking(self._ask), mock.patch.object(Now, "place", self._ask):
            yield

    def _ask(self, value: Any = None) -> Any:
        self._left -= 1
        if self._left <= 0:
            self._switch()
        return value

    def _next(self) -> None:
        self.places += self._gap
        self._gap = self._left = 1 + int(self._draw.expovariate(1.0 / self._every))

    def _switch(self) -> None:
        self._next()
        scheduler = Now.scheduler
        process = scheduler.current
        if process is None or not process.alive or scheduler.held or greenlet.getcurrent() is scheduler.hub:
            return
        self.switches += 1
        stalls = self._stalls and self._draw.random() < self._stalls
        scheduler.pause(self._stalls_for * self._draw.random() if stalls else 0.0, "its turn", preempted=True)
