"""The origin of a checkpoint, for its manifest."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from holdfast.trackables import kind_of

PACKAGES = (
    *("holdfast", "tensorflow", "keras", "tf_keras", "numpy", "grpcio", "protobuf"),
    *("fsspec", "s3fs", "aiobotocore", "gcsfs", "adlfs"),
)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a checkpoint."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str:
    """Return the git commit of the training program, with `-dirty` if it was changed since; empty if unknown."""
    folder = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else os.getcwd()
    try:
        done = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def strategy_name(checkpoint: Any) -> str:
    """Return the distribution strategy of a checkpoint's variables; empty if there is none."""
    from holdfast.tensorflow_internals import strategies_of

    return next(map(kind_of, strategies_of(checkpoint)), "")
