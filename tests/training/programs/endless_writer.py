"""A job of one worker that saves as fast as it can, keeps one checkpoint, and ends at the first line on stdin."""

from __future__ import annotations

import os
import sys
import threading

from support import light_manager


def main(directory: str) -> None:
    os.environ["TF_CONFIG"] = light_manager.ALONE
    light_manager.install()
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), end.set()), daemon=True).start()
    manager, checkpoint = light_manager.make(directory, max_to_keep=1)
    with manager:
        manager.restore_or_initialize()
        while not end.is_set():
            checkpoint.step += 1
            manager.save()
    print(f"saved {checkpoint.step}\n", end="", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
