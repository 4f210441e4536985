"""The first call of a training program whose other workers do not come. Without TensorFlow.

Argument: run directory. The environment says which task this is.
"""

from __future__ import annotations

import sys

from holdfast.errors import CoordinatorUnavailable
from support import light_manager

light_manager.install()

manager, _ = light_manager.make(sys.argv[1], join_timeout=8.0)
try:
    manager.restore_or_initialize()
    print("went on\n", end="", flush=True)
except CoordinatorUnavailable:
    print("gave up\n", end="", flush=True)
