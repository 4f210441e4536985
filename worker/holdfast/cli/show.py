"""`holdfast show`: describes one checkpoint, its origin, and what is stored where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.holds import NO_HOLDS, holds, holds_in_words
from holdfast.cli.output import JSON, as_document
from holdfast.cli.target import TARGET, Run, open_checkpoint

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast_storage.bundle.index import Index
    from holdfast_storage.records import CheckpointRecord


@click.command(name="show")
@TARGET
@JSON
def command(target: str, as_json: bool) -> None:
    """Describe a checkpoint: origin, sizes and every tensor.

    Without STEP it is the newest of RUN, with STEP the latest of that step. Each tensor is shown with dtype, shape and
    the objects that hold its bytes, slice by slice if it is stored in slices.
    """
    from holdfast.cli.output import Output, print_json

    document = _describe(*open_checkpoint(target))
    if as_json:
        print_json(document)
    else:
        _print(Output(), document)
    if document["damaged"]:
        click.get_current_context().exit(1)


def _describe(run: Run, record: CheckpointRecord) -> dict[str, Any]:
    chain = run.state.chain(record)
    lost = record not in run.state.restorable
    document = {"run": run.store.url, **as_document(record), "chain": [c.prefix for c in chain], "damaged": lost}
    del document["metrics"]  # of these the log has only those by which some rule keeps the best
    document |= holds(run.state).get(record.prefix, NO_HOLDS)
    # What the log says of a checkpoint, above all its time, goes before what its manifest says.
    return (_describe_stock(run, record) if record.stock else _describe_ours(run, record)) | document


def _describe_ours(run: Run, record: CheckpointRecord) -> dict[str, Any]:
    from holdfast_storage.checkpoint.index import read_index
    from holdfast_storage.checkpoint.manifest import read_manifest

    manifest = read_manifest(run.store, record)
    main = read_index(run.store, record.bundle, manifest)
    folder = f"{record.folder}/"
    local = {
        str(o.task): _tensors(read_index(run.store, folder + prefix, manifest), prefix)
        for o in manifest.objects
        if o.role == "local" and (prefix := o.name.removesuffix(".index")) != o.name
    }
    return {
        **as_document(manifest),
        "size": manifest.size,
        "chain_size": sum(read_manifest(run.store, each).size for each in run.state.chain(record)),
        "objects": [
            {
                "name": o.name,
                "size": o.size,
                "crc32c": o.crc32c,
                "role": o.role,
                "written_by": str(o.task or "coordinator"),
            }
            for o in manifest.objects
        ],
        "tensors": _tensors(main, record.bundle.removeprefix(folder)),
        "local_tensors": local,
    }


def _describe_stock(run: Run, record: CheckpointRecord) -> dict[str, Any]:
    from holdfast_storage import layout
    from holdfast_storage.checkpoint.index import data_objects, read_index
    from holdfast_storage.errors import CheckpointDamaged

    index = read_index(run.store, record.prefix)
    names = {layout.index_object(record.prefix): "index"}
    names |= {name: "data" for _, name in sorted(data_objects(index, record.prefix).items())}
    objects: list[dict[str, Any]] = []
    for name, role in names.items():
        size = run.store.size(name)
        if size is None:
            raise CheckpointDamaged(f"{run.store.url}/{name} is missing", object=name)
        objects.append({"name": name, "size": size, "role": role})
    return {
        "size": sum(o["size"] for o in objects),
        "chain_size": sum(o["size"] for o in objects),
        "objects": objects,
        "tensors": _tensors(index, record.prefix),
        "local_tensors": {},
    }


def _tensors(index: Index, prefix: str) -> list[dict[str, Any]]:
    """Describe every tensor and its place. `slice` is start and length along each dimension, None for the whole."""
    from holdfast_storage.bundle import dtypes
    from holdfast_storage.checkpoint.index import data_objects

    objects = data_objects(index, prefix)
    described = []
    for key, tensor in index.tensors.items():
        pieces = [
            {
                "object": objects[entry.shard],
                "offset": entry.offset,
                "size": entry.size,
                "slice": None if extents is None else [list(extent) for extent in extents],
            }
            for extents, entry in index.pieces(key)
        ]
        described.append(
            {
                "key": key,
                "dtype": dtypes.name(tensor.dtype),
                "shape": list(tensor.shape),
                "size": sum(entry.size for _, entry in index.pieces(key)),
                "stored": pieces,
            }
        )
    return described


def _print(out: Output, document: dict[str, Any]) -> None:
    from holdfast.cli.output import count, human_size, human_time, table

    origin = {
        "checkpoint": f"{document['run'].rstrip('/')}/{document['prefix']}",
        "step": str(document["step"]),
        "saved": human_time(document["time"]),
        "size": f"{human_size(document['size'])} in {count(len(document['objects']), 'object')}",
    }
    if document["base"]:
        needs = f"{count(len(document['chain']), 'checkpoint')} of {human_size(document['chain_size'])} together"
        origin["delta on"] = f"{document['base']}; a restore needs {needs}"
    if document["stock"]:
        origin["origin"] = "written by TensorFlow itself: only its own checksums, one a tensor, vouch for it"
    else:
        origin |= {
            "world": f"{count(len(document['world']), 'worker')}: {', '.join(document['world'])}",
            "strategy": document["strategy"] or "none",
            "git commit": document["git_commit"] or "unknown",
            "versions": ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
        }
        origin |= {name: _inline(document[name]) for name in ("metadata", "metrics") if document[name]}
    if kept := [*["for ever"] * document["preserved"], *holds_in_words(document)]:
        origin["kept"] = ", ".join(kept)
    if document["damaged"]:
        what = "it, or something that it needs," if document["base"] else "it"
        origin["DAMAGED"] = f"two readers found {what} damaged; it is kept for inspection and never restored"
    width = max(map(len, origin))
    for name, value in origin.items():
        out.say(f"{name:<{width}}  {value}")

    out.say()
    out.say("Objects")
    columns = [">size", "role", *(() if document["stock"] else ("written by",)), "object"]
    out.print(table(columns, ([human_size(o["size"]), o["role"], *_writer(o), o["name"]] for o in document["objects"])))
    _print_tensors(out, "Tensors", document["tensors"])
    for worker, tensors in document["local_tensors"].items():
        _print_tensors(out, f"Tensors of {worker} alone", tensors)


def _writer(described: dict[str, Any]) -> list[str]:
    return [described["written_by"]] if "written_by" in described else []


def _print_tensors(out: Output, title: str, tensors: list[dict[str, Any]]) -> None:
    from holdfast.cli.output import human_size, table

    out.say()
    out.say(title)
    rows = (
        (t["key"], t["dtype"], _shape(t["shape"]), human_size(t["size"]), [_place(p) for p in t["stored"]])
        for t in tensors
    )
    out.print(table(("key", "dtype", "shape", ">size", "stored in"), rows))


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _place(piece: dict[str, Any]) -> str:
    """Return `ckpt-7.data-00000-of-00002 at 4096`, with the slice in front as Python writes it."""
    where = f"{piece['object']} at {piece['offset']}"
    if piece["slice"] is None:
        return where
    return f"[{', '.join(f'{start}:{start + length}' for start, length in piece['slice'])}] {where}"


def _inline(mapping: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in mapping.items())
