"""Certificates and tokens are replaced while a job of several processes goes on saving."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_protos.settings import CA, CERTIFICATE, KEY, TOKEN_FILE
from holdfast_storage.store import Store
from support.certificates import Authority, put
from support.light_job import PROGRAMS, Start, expect, tell
from support.light_worker import committed
from support.relay import relay

pytestmark = pytest.mark.processes

OLD, NEW = "old-token" * 2, "new-token" * 2


def test_no_save_is_lost_while_everything_is_replaced(start: Start, store: Store, address: str, tmp_path: Path) -> None:
    """The coordinator's certificate, its authority, the clients' certificates, their authority and the token are
    replaced, one step at a time as an operator does it. After each, and in the middle of a save, all connections break.
    Every save is committed, and neither side is restarted. Guards against files that are read only at the start of a
    process, and against a time in which old and new do not go together."""
    site = tmp_path / "site"
    site.mkdir()
    servers, new_servers, clients, new_clients = (Authority(name) for name in ("s", "new s", "c", "new c"))
    ca, client_ca = put(site / "ca.pem", servers.pem), put(site / "client-ca.pem", clients.pem)
    tokens, token = put(site / "tokens", f"{store.url} {OLD}\n"), put(site / "token", f"{OLD}\n")
    server, worker = servers.signed().write(site, "server"), clients.signed("worker").write(site, "worker")
    replacements = [
        lambda: servers.signed().write(site, "server"),
        lambda: put(Path(ca), servers.pem + new_servers.pem),
        lambda: new_servers.signed().write(site, "server"),
        lambda: put(Path(ca), new_servers.pem),
        lambda: put(Path(client_ca), clients.pem + new_clients.pem),
        lambda: new_clients.signed("worker").write(site, "worker"),
        lambda: put(Path(client_ca), new_clients.pem),
        lambda: put(Path(tokens), f"{store.url} {OLD}\n{store.url} {NEW}\n"),
        lambda: put(Path(token), f"{NEW}\n"),
        lambda: put(Path(tokens), f"{store.url} {NEW}\n"),
    ]
    serve = ["-m", "holdfast.cli", "coordinator", "--root", os.path.dirname(store.url), "--listen", address]
    files = ["--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", client_ca, "--token-file", tokens]
    start(*serve, *files).expect(f"listens on {address}")
    environment = {CA: ca, CERTIFICATE: worker[0], KEY: worker[1], TOKEN_FILE: token}
    step = 0
    with relay(address) as way:
        workers = [start(PROGRAMS / "worker.py", store.url, n, 2, way.address, "{}", **environment) for n in range(2)]
        expect(workers, "joined")
        for replace in replacements:
            replace()
            for cut in ("before", "amid", "never"):
                step += 1
                if cut == "before":
                    way.cut()
                tell(workers, f"save {step}")
                if cut == "amid":
                    way.cut()
                expect(workers, f"step {step}: committed")
        tell(workers, "close")
        expect(workers, "closed")
    assert [record.step for record in committed(store)] == list(range(1, step + 1))
    assert step == 30
