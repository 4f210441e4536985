"""Imports TensorFlow for a command: without what it logs when it starts, and with Keras on it."""

from __future__ import annotations

import os


def import_quietly() -> None:
    """Import TensorFlow and Keras. What the environment says of their logs counts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        import keras  # noqa: F401
        import tensorflow as tf
    except ImportError as error:
        from holdfast_storage.errors import InvalidRequest

        raise InvalidRequest(f"this needs TensorFlow and Keras: pip install holdfast[tensorflow] ({error})") from error
    tf.get_logger().setLevel("ERROR")
