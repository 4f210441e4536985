"""Names of other libraries that these may take away: found missing when a store is opened, each of them."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import pytest

from holdfast_storage import internals
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.internals import Internals
from holdfast_storage.store import open_store
from holdfast_storage.store.internals import INTERNALS
from support.internals import ROOT, defined_names, foreign_names, leaf, rename

URLS = {"s3": "s3://bucket/run", "gs": "gs://bucket/run", "az": "az://bucket/run", "": "memory://run"}
OPTIONS = {"s3": {"anon": True}, "gs": {"token": "anon"}, "az": {"account_name": "account", "anon": True}, "": {}}
NAMES = [(protocol, name) for protocol, tables in INTERNALS.items() for table in tables for name in table.names]
STORAGE = ROOT / "storage" / "holdfast_storage"


@pytest.fixture(autouse=True)
def as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been looked for yet."""
    monkeypatch.setattr(internals, "_sound", set())


@pytest.mark.parametrize(("protocol", "name"), NAMES)
def test_a_name_that_is_gone_is_refused(protocol: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a store refuses a library that lacks a private name that we use. Guards against a first request that
    fails with an AttributeError, or does something else than intended."""
    renamed = rename(monkeypatch, name)
    with pytest.raises(InvalidRequest, match=rf"\b{renamed}\b.*Versions that work: pip install '[\w-]+>=") as refused:
        open_store(URLS[protocol], OPTIONS[protocol])
    assert importlib.import_module(refused.value.object).__version__ in str(refused.value)


@pytest.mark.parametrize("protocol", URLS)
def test_what_is_there_is_not_refused(protocol: str) -> None:
    """Opening a store accepts the tested versions. Guards against a store that cannot be opened with the very versions
    that were tested."""
    open_store(URLS[protocol], OPTIONS[protocol])
    assert internals._sound >= set(INTERNALS[protocol])


@pytest.mark.parametrize("parameters", ["", "b,a,c", "a,c", "a,b", "a,b,c,e"])
def test_other_parameters_are_refused(parameters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a store refuses a library whose functions take other parameters. Guards against a call that has the same
    name and takes its arguments for others."""

    def function(a: int, b: int, *, c: int, d: int = 0) -> None: ...

    library = ModuleType("library")
    library.__version__ = "1"  # type: ignore[attr-defined]
    library.function = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "library", library)
    Internals("library", "library>=1", "library function(a,b,c)").check()
    with pytest.raises(InvalidRequest, match=r"it has no function\(.*\(in library it is function\(a: "):
        Internals("library", "library>=1", f"library function({parameters})").check()


def test_versions_are_those_of_the_extras() -> None:
    """The versions in the error are those of the extras. Guards against pip installing a version that an error then
    rejects, or an error that names a version that pip rejects."""
    project = (ROOT / "pyproject.toml").read_text()
    for extra, protocol in (("s3", "s3"), ("gcs", "gs"), ("azure", "az")):
        known = ", ".join(f'"{table.works_with}"' for table in INTERNALS[protocol])
        assert f"{extra} = [{known}]" in project
    assert f'"{INTERNALS[""][0].works_with}"' in project
    assert all("<" in table.works_with for tables in INTERNALS.values() for table in tables)


def test_no_other_name_is_private() -> None:
    """No other private name of these libraries is used. Guards against a name that nobody checks, so nobody notices
    when it is gone."""
    ours = defined_names(STORAGE)
    listed = {leaf(name) for _, name in NAMES}
    for path in STORAGE.rglob("*.py"):
        for line, name in foreign_names(path, ours, listed):
            assert name in listed, f"{path}:{line} uses {name}: list it in store/internals.py"
            assert (STORAGE / "store") in path.parents, f"{path}:{line} uses {name}: only the module of a store may"


def test_each_name_is_used() -> None:
    """Each checked name is used. Guards against a version that is refused because of something that nobody needs any
    more."""
    sources = "".join(path.read_text() for path in (STORAGE / "store").rglob("*.py") if path.stem != "internals")
    for _, name in NAMES:
        assert re.search(rf"\b{leaf(name)}\b", sources), name
