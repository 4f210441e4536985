"""Google Cloud Storage by gcp-storage-emulator, as `gcs_emulator.py` runs it: a test of the client's requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from servers.base import Server
from servers.install import HOME
from servers.processes import Processes
from support.ports import free_port

# Else gcsfs asks over gRPC what kind of bucket it is, and waits for a minute, since the emulator does not speak it.
# Read when gcsfs is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

PYTHON = HOME / "bin" / "python"


class Gcs(Server):
    """Google Cloud Storage, without credentials."""

    kind: ClassVar[str] = "gcs"
    protocol: ClassVar[str] = "gs"

    @classmethod
    def missing(cls) -> str:
        package = next(HOME.glob("lib/python*/site-packages/gcp_storage_emulator"), None)
        return "" if package and PYTHON.exists() else "gcp-storage-emulator"

    def options(self, endpoint: str) -> dict[str, Any]:
        return {"token": "anon", "project": "holdfast", "endpoint_url": endpoint}

    def environment(self, endpoint: str) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": endpoint, "GOOGLE_CLOUD_PROJECT": "holdfast"}

    def _start(self, processes: Processes) -> None:
        port = free_port()
        processes.start([PYTHON, Path(__file__).with_name("gcs_emulator.py"), str(port)])
        processes.wait_for(port)
        self.endpoint = f"http://127.0.0.1:{port}"
