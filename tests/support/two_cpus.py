"""Two logical CPU devices, for MirroredStrategy. Import before anything of TensorFlow runs."""

from __future__ import annotations

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

DEVICES = ["CPU:0", "CPU:1"]
