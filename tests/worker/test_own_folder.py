"""The folder that TensorFlow's tutorials give to each worker but the chief."""

from __future__ import annotations

import pytest

from holdfast.session.own_folder import check_folder
from holdfast.session.this_task import ALONE, ThisTask
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest

CLUSTER = (("chief", ("a:1",)), ("worker", ("b:1", "c:1")))


@pytest.mark.parametrize("base", ["/tmp", "s3://bucket/runs"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_folder_of_a_tutorial(base: str, index: int) -> None:
    """A worker in a tutorial's folder is refused at once, with the chief's directory. Guards against workers that wait
    for each other until their time is over."""
    here = ThisTask(Task("worker", index), CLUSTER)
    with pytest.raises(InvalidRequest, match=rf"of worker-{index} is .*, which may be {base}/ckpt\. Remove no folder"):
        check_folder(here, f"{base}/workertemp_{index}/ckpt")


@pytest.mark.parametrize(
    "directory", ["/tmp/ckpt", "/tmp/workertemp_0/ckpt", "/tmp/workertemp_11/ckpt", "/tmp/my_workertemp_1/ckpt"]
)
def test_other_folders(directory: str) -> None:
    """No other folder is refused. Guards against a job that cannot start because of a folder's name."""
    check_folder(ThisTask(Task("worker", 1), CLUSTER), directory)


@pytest.mark.parametrize("here", [ALONE, ThisTask(Task("chief", 0), CLUSTER)])
def test_the_chief_may_be_anywhere(here: ThisTask) -> None:
    """Who is alone, or the chief, may have any folder. Guards against a reader that cannot look at what an old job has
    left."""
    check_folder(here, "/tmp/workertemp_0/ckpt")
