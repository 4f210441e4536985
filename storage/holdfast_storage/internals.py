"""Private names of other libraries, checked before anything relies on them.

Any release may drop such a name. If that shows only in the middle of a restore or a save, it gives a strange error at
best. At worst it gives a wrong value, if the missing name is taken for an absent object. So each user of such names
lists them once, and the list is checked at the start.
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
    """The private names of one library.

    Attributes:
        library: the package whose version counts.
        works_with: the requirement for pip: all versions that are known to work.
        table: lines of words: a module, or a `module:Class`, and names in it. Of a class, a name is what is found on
            it, or what a method of it sets on its objects. What is called has parameters, `name(a,b)`: it has to take
            these, in this order, and to need no others.
    """

    library: str
    works_with: str
    table: str

    @property
    def names(self) -> list[str]:
        """All names as `module:name` or `module:Class.name`, with their parameters."""
        lines = [line.split() for line in self.table.splitlines() if line.strip()]
        return [f"{where}{'.' if ':' in where else ':'}{name}" for where, *names in lines for name in names]

    def check(self) -> None:
        """Raise InvalidRequest unless every name exists with these parameters. This is checked once in a process.

        Raises ImportError if the library itself is missing.
        """
        if self not in _sound:
            importlib.import_module(self.library)
            faults = [fault for name in self.names if (fault := _fault(name))]
            if faults:
                raise self.refusal(f"it has no {'; no '.join(faults)}")
            _sound.add(self)

    def refusal(self, why: str) -> InvalidRequest:
        """Return the error that this version of the library does not work."""
        version = sys.modules[self.library].__version__
        return InvalidRequest(
            f"Holdfast does not work with {self.library} {version}, of which it uses internals: {why}. Nothing was "
            f"changed. Versions that work: pip install '{self.works_with}'",
            object=self.library,
        )


def _fault(name: str) -> str:
    """Return what is wrong with a name, in words; empty if nothing is."""
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
    """Return whether a method of a class sets an attribute."""
    methods = [
        inspect.unwrap(each) for kind in found.__mro__ for each in vars(kind).values() if inspect.isfunction(each)
    ]
    return any(attribute in each.__code__.co_names and attribute in _set_by(each.__code__) for each in methods)


@cache
def _set_by(code: CodeType) -> frozenset[str]:
    return frozenset(each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
