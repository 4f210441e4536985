"""`holdfast coordinator`, with its arguments, that can be told "stop CALL PATTERN": see `support.stopping`."""

from __future__ import annotations

import sys
import threading

from holdfast.cli import main
from support.stopping import stop_before


def obey() -> None:
    for line in sys.stdin:
        _, call, pattern = line.split()
        stop_before(call, pattern)
        print("will stop", flush=True)


threading.Thread(target=obey, daemon=True).start()
main()
