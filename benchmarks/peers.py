"""Libraries to compare with that are no dependencies of the project: in a folder of their own, installed when asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / ".venv-peers"
_PACKAGES = ("torch",)

MISSING = {"dcp": "not installed: `--peers` does it, 5.4 GB. PyPI has PyTorch for Linux with CUDA alone, not without"}
"""Who needs them, and what there is to say where they are not."""


def install() -> None:
    """Install what is missing. subprocess.CalledProcessError if it cannot be had."""
    if not installed():
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        constraints = ["--constraint", str(_ROOT / "constraints.txt")]
        subprocess.run([*command, *constraints, "--target", str(_FOLDER), *_PACKAGES], check=True)


def installed() -> bool:
    return all((_FOLDER / package).is_dir() for package in _PACKAGES)


def use() -> None:
    """Let this process find the peers, after everything that it finds without."""
    if str(_FOLDER) not in sys.path:
        sys.path.append(str(_FOLDER))
