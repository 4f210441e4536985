"""The picture of what `holdfast diff` finds: the norms by tensor, the worst first.

It is drawn from what `--json` prints. The names of tensors were chosen by others: nothing in them is a formula or a
command. Those who see no colours tell a cross from a dot.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.printable import printable

MOST = 40
"""The most tensors with a row of their own. One more row is for all others."""

_SUFFIXES = (".png", ".svg")
_LONGEST_NAME, _LONGEST_PLACE = 60, 120  # characters
_USUAL = "/.ATTRIBUTES/VARIABLE_VALUE"  # how nearly every key ends
_BLUE, _VERMILION, _GREY = "#0072b2", "#d55e00", "#808080"

Changed = dict[str, Any]


def check(path: Path) -> None:
    """Raise InvalidRequest if no picture can be drawn there. Asked before anything is compared."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidRequest(f"{path}: a picture is a file that ends in {' or '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path} cannot be written: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        told = "a picture needs matplotlib, not installed here: pip install 'holdfast[picture]'"
        raise InvalidRequest(f"{told} ({error})") from error


def draw(path: Path, document: dict[str, Any], summary: str) -> None:
    """Draw a picture, in place of what the file was. Raises StorageError if it cannot be written.

    document: what `holdfast diff --json` prints; summary: the same in one line.
    """
    from matplotlib import style

    content = BytesIO()
    wanted = ["default", {"svg.fonttype": "none"}]  # nothing of a matplotlibrc; text that can be searched
    with style.context(wanted, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no font has all letters
        _figure(document, summary).savefig(content, format=path.suffix.lower()[1:], dpi=120)
    try:
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}", object=str(path)) from error


def _figure(document: dict[str, Any], summary: str) -> Any:
    from matplotlib.figure import Figure

    changed = sorted(document["changed"], key=_badness, reverse=True)
    rows, others = changed[:MOST], changed[MOST:]
    names = [_name(each) for each in rows]
    if others:
        names.append(f"{len(others)} others, each at most")
    places = (f"{side}  {_place(document[side.lower()])}" for side in "AB")
    figure = Figure(figsize=(12, 1.5 + 0.22 * len(names)), layout="constrained")
    figure.suptitle("\n".join([*places, summary]), x=0.01, ha="left", fontsize=10, parse_math=False)
    if rows:
        panels = figure.subplots(1, 2, sharey=True)
        _panel(panels[0], "relative", rows, others, title="‖B − A‖ / ‖A‖")
        _panel(panels[1], "l2", rows, others, title="‖B − A‖")
        panels[0].set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        panels[0].set_ylim(len(names) - 0.5, -0.5)  # the worst on top
    return figure


def _badness(each: Changed) -> tuple[float, ...]:
    """Return by what tensors are ordered: differences without a number are worse than any with one."""
    if each["max_abs"] is None:
        return (-1.0,)
    norms = (math.inf if each[norm] is None else each[norm] for norm in ("relative", "l2"))
    return (each["not_finite"] > 0, *norms)


def _panel(axes: Any, norm: str, rows: Sequence[Changed], others: Sequence[Changed], *, title: str) -> None:
    for place, each in enumerate(rows):
        if each[norm]:
            marker, colour = ("X", _VERMILION) if each["not_finite"] else ("o", _BLUE)
            axes.plot(math.log10(each[norm]), place, marker, color=colour)
    if largest := max((each[norm] or 0.0 for each in others), default=0.0):
        axes.plot(math.log10(largest), len(rows), "<", color=_GREY)
    axes.xaxis.set_major_formatter(_power)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _power(exponent: float, _: int | None) -> str:
    """Return a power of ten, which may be too large for a float: matplotlib's own scale ends before."""
    whole = math.floor(exponent := round(exponent, 6))
    return f"{10 ** (exponent - whole):.2g}" + (f"e{whole}" if whole else "")


def _place(side: dict[str, Any]) -> str:
    return _cut(printable(f"{side['run'].rstrip('/')}/{side['prefix']}"), _LONGEST_PLACE)


def _name(each: Changed) -> str:
    """Return the name of a tensor, and what its dots do not say."""
    name = _cut(printable(each["key"].removesuffix(_USUAL)), _LONGEST_NAME)
    if each["task"]:
        name += f" of {each['task']}"
    if each["max_abs"] is None:
        return f"{name} (no norms)"
    if each["not_finite"]:
        return f"{name} ({each['not_finite']} not finite)"
    if each["l2"] is None:
        return f"{name} (too large)"
    return f"{name} (A is zero)" if each["relative"] is None else name


def _cut(text: str, longest: int) -> str:
    """Return a text whose middle is left out if it is long: names differ at both ends."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"
