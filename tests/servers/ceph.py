"""S3 by Ceph: one monitor, one object store daemon and the gateway, without authentication among them.

Debian's packages; the settings are explained at https://docs.ceph.com/en/pacific/rados/configuration/ and
https://docs.ceph.com/en/pacific/radosgw/config-ref/.
"""

from __future__ import annotations

import shutil
import uuid
from typing import Any, ClassVar, Literal

from servers.base import Server
from servers.processes import Processes
from support.ports import free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")

SETTINGS = """
[global]
fsid = {fsid}
mon initial members = a
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket =
log to file = false
log to stderr = true
err to stderr = true
# One daemon keeps the only copy of everything, on whatever is free.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
# Nothing leaves this machine: no encryption, and the network's own checksums are enough.
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
ms client mode = crc
ms service mode = crc
ms cluster mode = crc
ms crc data = false
# A pool is made in tens of milliseconds, not in seconds.
paxos propose interval = 0.02
paxos min wait = 0.01

[mon.a]
mon data = {folder}/mon

[osd.0]
osd data = {folder}/osd
osd objectstore = {objectstore}
osd class load list = *
osd class default list = *
memstore device bytes = 17179869184
memstore page set = true
bluestore block size = 17179869184

[client.rgw]
rgw data = {folder}/rgw
# Without tcp_nodelay every answer that says no comes 40 ms late: its body waits for the acknowledgement of its header.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw dynamic resharding = false
rgw enable usage log = false
# What was deleted is gone soon: else tests fill the store, and a full one hangs its writers without an error.
rgw gc obj min wait = 1
rgw gc processor period = 2
rgw gc processor max time = 2
rgw gc max concurrent io = 32
"""


class Ceph(Server):
    """S3, with a user who owns everything and one who may only read it.

    objectstore: `memstore` keeps data in memory; `bluestore` on the disk, as in production.
    """

    kind: ClassVar[str] = "s3"
    protocol: ClassVar[str] = "s3"
    key, secret = "holdfast", "holdfast-secret"

    def __init__(self, objectstore: Literal["memstore", "bluestore"] = "memstore") -> None:
        self._objectstore = objectstore
        super().__init__()

    @classmethod
    def missing(cls) -> str:
        return ", ".join(program for program in PROGRAMS if shutil.which(program) is None)

    def options(self, endpoint: str) -> dict[str, Any]:
        return {"key": self.key, "secret": self.secret, "endpoint_url": endpoint}

    def environment(self, endpoint: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def reader(self, endpoint: str = "") -> dict[str, Any]:
        """The storage options of a user who may read everything and write nothing."""
        if not self._has_reader:
            self._administer(
                "subuser create --uid=holdfast --subuser=holdfast:reader --access=read --key-type=s3 "
                "--access-key=reader --secret-key=reader-secret"
            )
            self._has_reader = True
        return self.options(endpoint or self.endpoint) | {"key": "reader", "secret": "reader-secret"}

    def _start(self, processes: Processes) -> None:
        folder, port = processes.folder, free_port()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        monitor = f"v2:127.0.0.1:{free_port()}"
        self._settings = folder / "ceph.conf"
        self._settings.write_text(
            SETTINGS.format(fsid=fsid, monitor=monitor, folder=folder, objectstore=self._objectstore, port=port)
        )
        self._has_reader = False
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        conf = ["-c", self._settings]
        processes.run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[{monitor}]", folder / "monmap"])
        processes.run(["ceph-mon", "-i", "a", "--mkfs", "--monmap", folder / "monmap", *conf])
        processes.start(["ceph-mon", "-i", "a", "-f", *conf])
        processes.run(["ceph", *conf, "osd", "new", osd])
        processes.run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, *conf])
        processes.start(["ceph-osd", "-i", "0", "-f", *conf])
        processes.start(["radosgw", "-n", "client.rgw", "-f", *conf])
        processes.wait_for(port)
        self.endpoint = f"http://127.0.0.1:{port}"
        self._administer(
            f"user create --uid=holdfast --display-name=holdfast --access-key={self.key} --secret-key={self.secret}"
        )

    def _administer(self, command: str) -> None:
        self._processes.run(["radosgw-admin", "-n", "client.rgw", "-c", self._settings, *command.split()])
