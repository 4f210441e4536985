"""Who may import whom: the arrows between the packages, and no TensorFlow where it is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import holdfast
import holdfast_coordinator
import holdfast_protos
import holdfast_storage

PACKAGES = {
    package.__name__: Path(str(package.__file__)).parent
    for package in (holdfast_protos, holdfast_storage, holdfast_coordinator, holdfast)
}
ALLOWED = {
    "holdfast_protos": set[str](),
    "holdfast_storage": {"holdfast_protos"},
    "holdfast_coordinator": {"holdfast_protos", "holdfast_storage"},
    "holdfast": {"holdfast_protos", "holdfast_storage"},
}
WITH_COORDINATOR = ("cli", "session")
"""Modules and folders of the worker that may import the coordinator: the command line, and what embeds one."""


def imports(path: Path, package: str, root: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, inside functions too."""
    module = [package, *path.relative_to(root).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module[: len(module) - node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def sources() -> list[tuple[str, Path]]:
    return [(name, path) for name, root in PACKAGES.items() for path in sorted(root.rglob("*.py"))]


@pytest.mark.parametrize(("package", "path"), sources(), ids=lambda value: getattr(value, "name", value))
def test_arrows(package: str, path: Path) -> None:
    """Packages import only along the arrows. Guards against a storage layer that needs the coordinator, or a worker
    that needs it without embedding one."""
    root = PACKAGES[package]
    allowed = {package, *ALLOWED[package]}
    if package == "holdfast" and path.relative_to(root).with_suffix("").parts[0] in WITH_COORDINATOR:
        allowed.add("holdfast_coordinator")
    ours = {name.partition(".")[0] for name in imports(path, package, root)} & set(PACKAGES)
    assert ours <= allowed, f"{path} imports {ours - allowed}"


APART = {("saving", "restoring"), ("restoring", "saving"), ("session", "saving"), ("session", "restoring")}
"""Wings of the worker of which the first does not need the second."""


def rooms(folder: Path) -> dict[str, set[str]]:
    """Return the modules and folders directly in a folder, each with the others of them that it imports."""
    package = next(name for name, root in PACKAGES.items() if folder.is_relative_to(root))
    root = PACKAGES[package]
    name = ".".join((package, *folder.relative_to(root).parts, ""))
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).with_suffix("").parts[0]
        below = (each.removeprefix(name).partition(".")[0] for each in imports(path, package, root) if name in each)
        found.setdefault(room, set()).update(below)
    return {room: (others & found.keys()) - {room} for room, others in found.items() if room != "__init__"}


@pytest.mark.parametrize("folder", sorted({path.parent for _, path in sources()}), ids=lambda folder: folder.name)
def test_there_are_no_circles(folder: Path) -> None:
    """Imports lead down. Guards against rooms none of which can be read, tested or changed without the others."""
    list(TopologicalSorter(rooms(folder)).static_order())


def test_wings_stand_apart() -> None:
    """Saving and restoring share the session alone. Guards against a save that cannot be changed without a restore."""
    arrows = {(room, other) for room, others in rooms(PACKAGES["holdfast"]).items() for other in others}
    assert not arrows & APART


PURE = (
    "holdfast_protos.conventions",
    "holdfast_storage.bundle.dtypes",
    "holdfast_storage.cluster",
    "holdfast_storage.decision",
    "holdfast_storage.errors",
    "holdfast_storage.failure",
    "holdfast_storage.layout",
    "holdfast_storage.printable",
    "holdfast_storage.records",
)
"""Modules below the core that it may import; with the packages around them they need the standard library alone."""


def is_of(name: str, modules: Iterable[str]) -> bool:
    """Whether a name is one of these modules, or is in one of them."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def test_the_core_is_pure() -> None:
    """The core is pure. Guards against decisions that read a clock, draw a random number or do I/O, and cannot be
    played again."""
    core = PACKAGES["holdfast_coordinator"] / "core"
    impure = {"time", "datetime", "random", "secrets", "uuid", "os", "io", "socket", "logging", "threading", "asyncio"}
    for path in sorted(core.glob("*.py")):
        for name in imports(path, "holdfast_coordinator", PACKAGES["holdfast_coordinator"]):
            top = name.partition(".")[0]
            inside = is_of(name, ("holdfast_coordinator.core", *PURE))
            standard = top in sys.stdlib_module_names and top not in impure
            assert inside or standard, f"{path} imports {name}"


def test_what_the_core_builds_on_is_pure() -> None:
    """What the core builds on is pure. Guards against a module below the core that pulls in what it must not have."""
    for name in PURE:
        package, *parts = name.split(".")
        root = PACKAGES[package]
        files = [root.joinpath(*parts[:i], "__init__.py") for i in range(len(parts))]
        for path in (*files, root.joinpath(*parts).with_suffix(".py")):
            for module in imports(path, package, root):
                pure = is_of(module, PURE) or module.partition(".")[0] in sys.stdlib_module_names
                assert pure, f"{path} imports {module}"


TENSORFLOW = ("tensorflow", "keras", "tf_keras", "numpy")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("holdfast", (*TENSORFLOW, "holdfast_coordinator")),
        ("holdfast.cli", (*TENSORFLOW, "holdfast_coordinator")),
        ("holdfast.session.session", (*TENSORFLOW, "holdfast_coordinator")),
        ("holdfast_coordinator.server", (*TENSORFLOW, "holdfast")),
    ],
)
def test_what_an_import_does_not_bring(module: str, without: tuple[str, ...]) -> None:
    """Imports do not bring TensorFlow or gRPC where they should not. Guards against five seconds for `holdfast --help`,
    and a coordinator that needs TensorFlow."""
    code = f"import sys, {module}; print(sorted(set({without}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
