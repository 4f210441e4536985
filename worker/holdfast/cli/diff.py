"""`holdfast diff`: tells what differs between two checkpoints."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import diff_picture
from holdfast.cli.output import JSON, as_document
from holdfast.cli.target import Run, open_checkpoint, reading

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast_storage.checkpoint.contents import Contents, Tensor


@click.command(name="diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the norms as well, the worst first: into a .png or .svg, which is replaced if it is there.",
)
@JSON
def command(a: str, b: str, picture: Path | None, as_json: bool) -> None:
    """Tell what differs between two checkpoints: tensors, by how much, and what is said of them.

    A and B are RUN[@STEP], of one run or of two, in any storages. Tensors are compared by key, those of one worker
    alone as well: added and removed ones, those of another dtype or shape, and for all others the norms of B - A. Every
    byte that is compared is verified. What both have in common by a delta is not read.

    Exit status: 0 if they were compared, whether or not they differ ("equal" in the JSON), 1 if one is damaged or
    cannot be read, 2 if there is no such checkpoint.
    """
    from holdfast.cli.output import Output, print_json, progress
    from holdfast_storage.checkpoint.contents import read_contents

    if picture:
        diff_picture.check(picture)
    compare, to_read = _comparing()
    with ExitStack() as leases:
        sides = []
        for target in (a, b):
            run, record = open_checkpoint(target)
            leases.enter_context(reading(run, record))
            sides.append((run, read_contents(run.store, record)))
        (_, one), (_, other) = sides
        with progress("diff", lambda: to_read(one, other)) as advance:
            differences = compare(one, other, advance)
    document = _describe(sides, differences)
    if picture:
        diff_picture.draw(picture, document, _summary(document))
    if as_json:
        print_json(document)
    else:
        _print(Output(), document)


def _comparing() -> Any:
    from holdfast_storage.errors import InvalidRequest

    try:
        from holdfast.comparing import compare, to_read
    except ImportError as error:  # it comes with TensorFlow
        raise InvalidRequest("Checkpoints are compared by numpy, which is not installed") from error
    return compare, to_read


def _describe(sides: list[tuple[Run, Contents]], differences: Any) -> dict[str, Any]:
    (_, one), (_, other) = sides
    a, b = one.tensors, other.tensors
    changed = [
        {
            **_name(key),
            "a": _kind(a[key]),
            "b": _kind(b[key]),
            **{name: _number(value) for name, value in as_document(differences[key]).items()},
        }
        for key in sorted(differences)
    ]
    both = sorted(a.keys() & b.keys())
    reshaped = [
        {**_name(key), "a": _kind(a[key]), "b": _kind(b[key])} for key in both if _kind(a[key]) != _kind(b[key])
    ]
    document: dict[str, Any] = {
        "a": {"run": one.store.url, "prefix": one.record.prefix, "step": one.record.step},
        "b": {"run": other.store.url, "prefix": other.record.prefix, "step": other.record.step},
        "added": [{**_name(key), **_kind(b[key])} for key in sorted(b.keys() - a.keys())],
        "removed": [{**_name(key), **_kind(a[key])} for key in sorted(a.keys() - b.keys())],
        "reshaped": reshaped,
        "changed": changed,
        "unchanged": len(both) - len(reshaped) - len(changed),
        "said": _what_is_said(one, other),
    }
    return {"equal": not any(document[name] for name in ("added", "removed", "reshaped", "changed")), **document}


def _name(key: tuple[str, str]) -> dict[str, Any]:
    return {"task": key[0] or None, "key": key[1]}


def _kind(tensor: Tensor) -> dict[str, Any]:
    from holdfast_storage.bundle import dtypes

    return {"dtype": dtypes.name(tensor.dtype), "shape": list(tensor.shape)}


def _number(value: Any) -> Any:
    """Return a number that JSON has: a norm can be too large for any."""
    return None if value in (float("inf"), float("-inf")) else value


def _what_is_said(a: Contents, b: Contents) -> list[dict[str, Any]]:
    """Return what is said differently of two checkpoints, with null for what is not said of one."""
    one, other = _said(a), _said(b)
    names = [*one, *(name for name in other if name not in one)]
    return [
        {"name": name, "a": one.get(name), "b": other.get(name)} for name in names if one.get(name) != other.get(name)
    ]


def _said(side: Contents) -> dict[str, Any]:
    said: dict[str, Any] = {"step": side.record.step, "time": side.record.time}
    if side.manifest is None:
        return said
    m = as_document(side.manifest)
    said |= {name: m[name] for name in ("world", "strategy", "git_commit")}
    return said | {
        f"{group}.{name}": v for group in ("versions", "metadata", "metrics") for name, v in m[group].items()
    }


def _print(out: Output, document: dict[str, Any]) -> None:
    from holdfast.cli.output import human_time, table

    for side in ("a", "b"):
        out.say(f"{side.upper()}  {document[side]['run'].rstrip('/')}/{document[side]['prefix']}")
    if document["said"]:
        shown = (
            [d["name"], *(human_time(d[s]) if d["name"] == "time" else _value(d[s]) for s in ("a", "b"))]
            for d in document["said"]
        )
        out.say()
        out.print(table(("", "A", "B"), shown))
    kinds = [
        *(("removed", _label(d), _told(d), "") for d in document["removed"]),
        *(("added", _label(d), "", _told(d)) for d in document["added"]),
        *(("reshaped", _label(d), _told(d["a"]), _told(d["b"])) for d in document["reshaped"]),
    ]
    if kinds:
        out.say()
        out.print(table(("", "key", "A", "B"), kinds))
    if document["changed"]:
        out.say()
        columns = ("changed", "dtype and shape", ">elements", ">L2", ">max", ">relative")
        out.print(table(columns, ([_label(d), _told(d["a"]), *_norms(d)] for d in document["changed"])))
    out.say()
    out.say(_summary(document))


def _summary(document: dict[str, Any]) -> str:
    from holdfast.cli.output import count

    if document["equal"]:
        return f"all {count(document['unchanged'], 'tensor')} equal"
    told = (f"{len(document[name])} {name}" for name in ("changed", "added", "removed", "reshaped"))
    return f"tensors: {', '.join(told)}, {document['unchanged']} unchanged"


def _label(d: dict[str, Any]) -> str:
    return f"{d['key']} of {d['task']}" if d["task"] else str(d["key"])


def _told(kind: dict[str, Any]) -> str:
    return f"{kind['dtype']} {'x'.join(map(str, kind['shape'])) or 'scalar'}"


def _norms(d: dict[str, Any]) -> list[str]:
    elements = f"{d['elements']}, {d['not_finite']} not finite" if d["not_finite"] else str(d["elements"])
    return [elements, *("-" if d[name] is None else f"{d[name]:.4g}" for name in ("l2", "max_abs", "relative"))]


def _value(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else repr(value)
