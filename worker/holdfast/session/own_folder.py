"""The folder that TensorFlow's tutorials give to each worker but the chief, found out before anybody waits for it.

There each worker writes a whole checkpoint, of which the chief's counts; `workertemp_1` is for what worker 1 writes.
Here all workers write parts of one checkpoint. A worker in a folder of its own would wait for the chief, and the chief
for it, until their time is over.
"""

from __future__ import annotations

from holdfast.session.this_task import ThisTask
from holdfast_storage.errors import InvalidRequest


def check_folder(here: ThisTask, directory: str) -> None:
    """Raise InvalidRequest if the run directory is one that a tutorial makes for this worker alone."""
    own = f"workertemp_{here.task.index}"
    parts = directory.split("/")
    if here.is_chief or own not in parts:
        return
    parts.remove(own)
    raise InvalidRequest(
        f"the directory of {here.task} is {directory}. {own} is the folder that TensorFlow's tutorials give to this "
        f"worker alone, but Holdfast's workers write one checkpoint together: give all of them the chief's directory, "
        f"which may be {'/'.join(parts)}. Remove no folder after a save, as the tutorials do",
        object=directory,
    )
