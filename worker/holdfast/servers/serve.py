"""The program of a parameter server."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from holdfast.servers.agent import Agent
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

log = logger("holdfast")


def serve_parameter_server(storage_options: Mapping[str, Any] | None = None) -> NoReturn:
    """Be a parameter server, in place of `tf.distribute.Server(...).join()`, and write what lies here when the chief
    saves. Does not return. On SIGTERM, the save in flight is finished, for up to a minute, and the process ends with 0.
    If the chief's manager has a `preemption`, SIGTERM is such notice, too: all save first, while there is time.

    To be called in the main thread of each `ps` task. TF_CONFIG says which one this is. The run directory is the
    chief's to name: it must be at the same place here.

    Args:
        storage_options: as in `CheckpointManager`. The chief's are never sent: each process has its own credentials.

    Raises InvalidRequest if TF_CONFIG does not name a parameter server, or this TensorFlow does not work with Holdfast.
    """
    import tensorflow as tf

    from holdfast.tensorflow_internals import answer_calls

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type != "ps" or resolver.task_id is None:
        said = f"TF_CONFIG says that this is task {resolver.task_id} of job {resolver.task_type}"
        raise InvalidRequest(
            f"{said if resolver.task_type else 'TF_CONFIG names no task'}: only tasks of job `ps` call "
            "serve_parameter_server(), workers go on to call tf.distribute.Server(...).join()",
            object="TF_CONFIG",
        )
    agent = Agent(resolver.task_id, storage_options)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    answer_calls(agent.answer)  # before anybody can call
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol=resolver.rpc_layer or "grpc",
        start=True,
    )
    threading.Thread(target=agent.watch, name="holdfast-watch", daemon=True).start()
    log.info("%s serves at %s", agent.task, server.target)
    ended.wait()
    agent.end()
    # TensorFlow's server cannot be stopped, and Python would wait for its threads.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
