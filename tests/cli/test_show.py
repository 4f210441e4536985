"""`holdfast show`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from click.testing import Result

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def test_tells_origin_and_contents(saved: Any, holdfast_json: HoldfastJson) -> None:
    """`show` tells the origin and all contents. Guards against needing TensorFlow and its reader to look into a
    checkpoint."""
    shown = holdfast_json("show", saved.path)
    assert shown["step"] == 20
    assert shown["world"] == ["worker-0", "worker-1"]
    assert shown["strategy"] == "MultiWorkerMirroredStrategy"
    assert shown["git_commit"] == "0123abc"
    assert shown["versions"]["tensorflow"] == "2.21.0"
    assert shown["metrics"] == {"loss": 0.25}
    assert shown["metadata"] == {"dataset": "digits"}
    assert [o["name"] for o in shown["objects"] if o["role"] == "data"] == [
        "ckpt-20.data-00000-of-00002",
        "ckpt-20.data-00001-of-00002",
    ]
    assert shown["size"] == sum(o["size"] for o in shown["objects"])


def test_tells_where_each_slice_is(saved: Any, holdfast_json: HoldfastJson) -> None:
    """`show` tells where each slice of a tensor is. Guards against naming one object for bytes that are in several."""
    kernel, counter = holdfast_json("show", f"{saved.path}@10")["tensors"]
    assert (kernel["key"], kernel["dtype"], kernel["shape"]) == (
        "kernel/.ATTRIBUTES/VARIABLE_VALUE",
        "float32",
        [4, 2],
    )
    assert kernel["size"] == 32
    assert kernel["stored"] == [
        {"object": "ckpt-10.data-00000-of-00002", "offset": 0, "size": 16, "slice": [[0, 2], [0, 2]]},
        {"object": "ckpt-10.data-00001-of-00002", "offset": 0, "size": 16, "slice": [[2, 2], [0, 2]]},
    ]
    assert (counter["dtype"], counter["shape"], counter["stored"][0]["slice"]) == ("int64", [], None)


def test_tells_what_a_worker_keeps_for_itself(saved: Any, holdfast_json: HoldfastJson) -> None:
    """`show` lists each worker's own tensors. Guards against hiding values that no stock index of the
    checkpoint has."""
    shown = holdfast_json("show", saved.path)
    assert shown["local_keys"] == ["mean"]
    (own,) = shown["local_tensors"]["worker-1"]
    assert own["key"] == "mean/.OWN"
    assert own["stored"][0]["object"] == "local/worker-1.data-00000-of-00001"


def test_text_names_every_tensor_and_object(saved: Any, holdfast: Holdfast) -> None:
    """The text names every tensor and object. Guards against a text that says less than the JSON."""
    text = holdfast("show", saved.path).stdout
    for expected in (
        "kernel/.ATTRIBUTES/VARIABLE_VALUE",
        "4x2",
        "[2:4, 0:2] ckpt-20.data-00001-of-00002 at 0",
        "0123abc",
        "loss=0.25",
        "mean/.OWN",
    ):
        assert expected in text


def test_the_latest_of_a_step_saved_twice(saved: Any, holdfast_json: HoldfastJson) -> None:
    """For a step that was saved twice, the later one is shown. Guards against the abandoned one after a rollback."""
    first, second, again = saved.save(11, 5), saved.save(20, 6), saved.save(11, 7)
    saved.log(first, second, again, number=1)
    assert holdfast_json("show", f"{saved.path}@11")["prefix"] == again.prefix


def test_the_newest_is_the_newest_good_one(saved: Any, holdfast_json: HoldfastJson) -> None:
    """Without a step, the newest good checkpoint is shown. Guards against presenting as newest what no restore would
    take."""
    first, second = saved.save(30, 8), saved.save(40, 9)
    saved.log(first, second, damaged=(second.prefix,), number=1)
    assert holdfast_json("show", saved.path)["step"] == 30
    assert holdfast_json("show", f"{saved.path}@40", status=1)["damaged"]


def test_a_step_that_is_not_there(saved: Any, holdfast: Holdfast) -> None:
    """For a missing step, the error lists the existing steps. Guards against an error that does not help."""
    result = holdfast("show", f"{saved.path}@15")
    assert result.exit_code == 2
    assert "no checkpoint of step 15" in result.stderr
    assert "10, 20" in result.stderr


def test_a_directory_whose_name_ends_like_a_step(saved: Any, holdfast_json: HoldfastJson) -> None:
    """A directory named `run@7` can be given with a slash at its end. Guards against taking it for step 7 of `run`."""
    moved = saved.path.rename(saved.path.with_name("run@7"))
    assert holdfast_json("show", f"{moved}/")["step"] == 20
    assert holdfast_json("show", f"{moved}@10")["step"] == 10


def test_the_folder_of_one_checkpoint(saved: Any, holdfast: Holdfast) -> None:
    """For the folder of one checkpoint, the error says what to type. Guards against a near miss that is not
    explained."""
    folder = next(saved.path.glob("ckpt-20.*"))
    result = holdfast("show", folder)
    assert result.exit_code == 2
    assert f"name it as {saved.path}@20" in result.stderr


def test_a_damaged_index(saved: Any, holdfast: Holdfast) -> None:
    """A damaged index gives one sentence that names the object. Guards against a traceback out of a parser."""
    index = next(saved.path.glob("ckpt-20.*/ckpt-20.index"))
    index.write_bytes(index.read_bytes()[:-20])
    result = holdfast("show", saved.path)
    assert result.exit_code == 1
    assert "ckpt-20.index" in result.stderr
    assert len(result.stderr.splitlines()) == 1
