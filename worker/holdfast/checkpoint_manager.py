"""The public class. It is made when a program first asks for it, since it imports TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from holdfast.manager import Manager


class CheckpointManager(Manager, tf.train.CheckpointManager):  # type: ignore[misc]
    # Nothing of TensorFlow's class is used. Being one lets this manager pass where a program asks for one, as
    # orbit.Controller and TensorFlow's PreemptionCheckpointHandler do.
    __doc__ = Manager.__doc__
