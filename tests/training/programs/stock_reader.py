"""Reads run directories with TensorFlow alone, in a Python where Holdfast cannot be imported.

Started with a JSON list of [directory, kind of state] as its argument; prints a JSON list of what it found.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from typing import Any


class NoHoldfast:
    """First in `sys.meta_path`: nothing of Holdfast is found, whatever is installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("holdfast"):
            raise ModuleNotFoundError(f"no module named {name}", name=name)


def main() -> None:
    sys.meta_path.insert(0, NoHoldfast)
    sys.path.insert(0, os.path.dirname(__file__))
    try:
        import holdfast  # noqa: F401
    except ModuleNotFoundError:
        found = [read(directory, kind) for directory, kind in json.loads(sys.argv[1])]
        print(json.dumps(found))
    else:
        sys.exit("Holdfast can be imported")


def read(directory: str, kind: str) -> dict[str, Any]:
    import state
    import tensorflow as tf
    from values import digests

    latest = tf.train.latest_checkpoint(directory)
    reader = tf.train.load_checkpoint(latest)
    keys = [key for key in reader.get_variable_to_dtype_map() if key != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    checkpoint = state.make(kind, nullcontext(), filled=False)
    checkpoint.restore(latest).assert_consumed()
    return {
        "latest": latest,
        "loaded": digests({key: reader.get_tensor(key) for key in keys}),
        "restored": digests(state.numbers_of(checkpoint)),
    }


if __name__ == "__main__":
    main()
