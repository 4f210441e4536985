"""The parameter servers of a cluster, as the chief calls them: all at the same time, each through TensorFlow itself."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import tensorflow as tf

from holdfast.session.lane import Pending
from holdfast.tensorflow_internals import call_on
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task
from holdfast_storage.errors import HoldfastError, InvalidRequest, SaveFailed
from holdfast_storage.failure_message import decode

T = TypeVar("T")

ANSWERS_WITHIN = 10.0
"""Seconds for which a server may take to say hello, before it counts as one that does not answer."""

FAREWELL_WITHIN = 5.0
"""Seconds for which the end of a manager waits for a server to hear of it."""


class Servers:
    """The servers, for one manager of the chief.

    Args:
        count: the number of them.
        manager: the manager's name, which no other has.
        timeout: seconds after which a call that is not answered is an error.

    What servers refuse is raised as what it is, by the first of them. What TensorFlow raises is told by their names.
    """

    def __init__(self, count: int, manager: str, timeout: float) -> None:
        self.devices = [f"/job:ps/replica:0/task:{index}/device:CPU:0" for index in range(count)]
        self._manager = manager
        self._timeout = timeout
        self._ask_all = tf.function(self._asked, autograph=False)

    def everyone(self, do: str, **fields: Any) -> list[Any]:
        """Make the same call to all servers, and return their answers."""
        return self.tell(do, [fields] * len(self.devices))

    def tell(self, do: str, fields: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Make a call to each server, and return their answers."""
        return self.answers(lambda: self._ask_all(self.requests(do, fields)))

    def say_farewell(self) -> None:
        """Have all servers leave this manager's world. Those that are dead or silent keep nobody from it."""
        with suppress(RuntimeError):  # no thread can be started: they leave when the coordinator has been away
            self._ask_each("leave", FAREWELL_WITHIN)

    def requests(self, do: str, fields: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return calls, one for each server, as tensors: for a function of TensorFlow that also hands over values."""
        with tf.device("CPU:0"):
            return [self.request(do, each) for each in fields]

    def request(self, do: str, fields: Mapping[str, Any]) -> Any:
        """Return a call as a tensor, on the device of the caller."""
        return tf.constant(json.dumps({"do": do, "manager": self._manager, **fields}))

    def answers(self, call: Callable[[], Sequence[Any]]) -> list[Any]:
        """Make calls, by a function that returns an answer of each server, and return what they say."""
        try:
            replies = [json.loads(_bytes(each)) for each in self._within(self._timeout, call)]
        except tf.errors.OpError as error:
            raise self.translated(error) from error
        for reply in replies:
            if "failure" in reply:
                raise decode(pb.Failure.FromString(bytes.fromhex(reply["failure"]))).to_error()
        return [reply["done"] for reply in replies]

    def _asked(self, requests: Sequence[Any]) -> list[Any]:
        return [call_on(device, each)[0] for device, each in zip(self.devices, requests, strict=True)]

    def _within(self, timeout: float, call: Callable[[], T]) -> T:
        """Return what a call returns. It is on a thread that a server which does not answer may keep."""
        done: Pending[T] = Pending()

        def run() -> None:
            try:
                done.set(call())
            except BaseException as error:
                done.fail(error)

        threading.Thread(target=run, name="holdfast-servers", daemon=True).start()
        if done.wait(timeout):
            return done.result()
        silent = ", ".join(self._who_is_wrong()) or "some of them"
        raise SaveFailed(f"no answer from the parameter servers within {timeout:.0f} s: {silent}", phase="ask")

    def translated(self, error: Any) -> HoldfastError:
        """Return the error for what TensorFlow raises of a call, which names the servers that are wrong."""
        wrong = self._who_is_wrong()
        if not wrong:
            return SaveFailed(f"a call to the parameter servers failed: {_first_line(error)}", phase="ask")
        without = [why for why in wrong.values() if "without Holdfast" in why]
        kind = InvalidRequest if without else SaveFailed
        return kind("; ".join(f"{task} {why}" for task, why in wrong.items()), workers=list(wrong), phase="ask")

    def _who_is_wrong(self) -> dict[str, str]:
        """Return what is wrong with those servers that do not answer."""
        return self._ask_each("hello", ANSWERS_WITHIN)

    def _ask_each(self, do: str, within: float) -> dict[str, str]:
        """Make a call to each server on its own. Return what is wrong with those that do not answer."""
        request = json.dumps({"do": do, "manager": self._manager})
        asked: list[threading.Event] = []
        wrong: dict[str, str] = {}

        def ask(index: int, said: threading.Event) -> None:
            try:
                _bytes(call_on(self.devices[index], tf.constant(request))[0])
            except Exception as error:
                # TensorFlow may tell of one server's death in a call to another.
                named = re.search(r"remote target /job:ps/replica:0/task:(\d+)", str(error))
                wrong[str(Task("ps", int(named[1]) if named else index))] = _in_words(error)
            said.set()

        for index in range(len(self.devices)):
            asked.append(threading.Event())
            threading.Thread(target=ask, args=(index, asked[-1]), name="holdfast-hello", daemon=True).start()
        silent = [str(Task("ps", index)) for index, said in enumerate(asked) if not said.wait(within)]
        return dict.fromkeys(silent, f"does not answer within {within:.0f} s") | wrong


_KNOWN = {
    "Could not find callback": "runs without Holdfast: call holdfast.serve_parameter_server() there, in place of "
    "tf.distribute.Server(...).join()",
    "context_id": "was started again, and its variables are gone: start the chief again, which restores them",
    "incarnation": "was started again, and its variables are gone: start the chief again, which restores them",
    "failed to connect": "does not answer: start it again, and then the chief, which restores its variables",
}


def _in_words(error: Exception) -> str:
    text = str(error)
    return next((words for part, words in _KNOWN.items() if part in text), f"cannot be called: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(getattr(error, "message", "") or error)).strip()[:300]


def _bytes(reply: Any) -> bytes:
    value = reply.numpy()
    return value if isinstance(value, bytes) else bytes(value.item())
