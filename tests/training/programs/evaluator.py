"""Reads checkpoints of a living run with TensorFlow's own reader, each some time after it was found."""

from __future__ import annotations

import json
import random
import sys
import time

import holdfast
from holdfast import reading


def main(directory: str, reads: int) -> None:
    import tensorflow as tf

    reading.POLL = 0.005
    moments, failures, seen = random.Random(0), [], set()
    for prefix in holdfast.checkpoints_iterator(directory, timeout=60):
        seen.add(prefix)
        time.sleep(moments.uniform(0, 0.1))  # it builds its model
        try:
            reader = tf.train.load_checkpoint(prefix)
            for key in reader.get_variable_to_dtype_map():
                reader.get_tensor(key)
        except Exception as error:
            failures.append(f"{prefix}: {error}")
        if len(seen) == reads:
            break
    print(json.dumps({"read": len(seen), "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
