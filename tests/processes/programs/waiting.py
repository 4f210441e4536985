"""A training program that makes one call and ends, without closing its manager. Without TensorFlow.

Arguments: run directory, and "stay" to end only when it is told to. The environment says which task this is.
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
    if "stay" in sys.argv:
        sys.stdin.readline()
except CoordinatorUnavailable:
    print("gave up\n", end="", flush=True)
