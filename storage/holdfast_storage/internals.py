"""What is used of another library beyond what it promises to keep: looked for before anything relies on it.

Such a name can be gone with any release. Found missing in the middle of a restore or a save, it makes a strange error
at best, and a wrong value where what is missing is taken for what is absent. So who uses such names lists them, once,
and has the list checked at the start.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

from holdfast_storage.errors import InvalidRequest

_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_sound: set[Internals] = set()


@dataclass(frozen=True, slots=True)
class Internals:
    """Names of one library.

    Attributes:
        library: the package that says which version it is.
        works_with: what pip is to install: all versions that are known to work.
        table: lines of words: a module, or a `module:Class`, and names in it. Of a class, a name is what is found on
            it, or what a method of it sets on its objects. What is called has parameters, `name(a,b)`: it has to take
            these, in this order, and to need no others.
    """

    library: str
    works_with: str
    table: str

    @property
    def names(self) -> list[str]:
        """Each as `module:name` or `module:Class.name`, with its parameters."""
        lines = [line.split() for line in self.table.splitlines() if line.strip()]
        return [f"{where}{'.' if ':' in where else ':'}{name}" for where, *names in lines for name in names]

    def check(self) -> None:
        """Raises InvalidRequest unless every name is there, with these parameters. Looked for once in a process.

        ImportError if the library itself is missing.
        """
        if self not in _sound:
            importlib.import_module(self.library)
            faults = [fault for name in self.names if (fault := _fault(name))]
            if faults:
                raise self.refusal(f"it has no {'; no '.join(faults)}")
            _sound.add(self)

    def refusal(self, why: str) -> InvalidRequest:
        """That this version of the library cannot be worked with."""
        version = sys.modules[self.library].__version__
        return InvalidRequest(
            f"Holdfast does not work with {self.library} {version}, of which it uses internals: {why}. Nothing was "
            f"changed. Versions that work: pip install '{self.works_with}'",
            object=self.library,
        )


def _fault(name: str) -> str:
    """What is missing of a name, in words; empty if nothing is."""
    module, _, path = name.partition(":")
    path, is_called, parameters = path.rstrip(")").partition("(")
    try:
        owner: Any = None
        found: Any = importlib.import_module(module)
    except ImportError:
        return f"{path} (there is no {module})"
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            return "" if isinstance(found, type) and _sets(found, attribute) else f"{path} (in {module})"
        owner, found = found, getattr(found, attribute)
    if is_called:
        is_method = isinstance(owner, type) and inspect.isfunction(inspect.getattr_static(owner, attribute))
        takes, wanted = list(inspect.signature(found).parameters.values())[is_method:], parameters.split(",")
        others = [each for each in takes if each.name not in wanted]
        needed = [each for each in others if each.default is each.empty and each.kind not in _ANY]
        if needed or ",".join(each.name for each in takes if each.name in wanted) != parameters:
            return f"{path}({parameters}) (in {module} it is {path}{inspect.signature(found)})"
    return ""


def _sets(found: type, attribute: str) -> bool:
    """Whether a method of a class sets an attribute."""
    methods = [
        inspect.unwrap(each) for kind in found.__mro__ for each in vars(kind).values() if inspect.isfunction(each)
    ]
    return any(attribute in each.__code__.co_names and attribute in _set_by(each.__code__) for each in methods)


@cache
def _set_by(code: CodeType) -> frozenset[str]:
    return frozenset(each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
