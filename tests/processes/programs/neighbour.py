"""Another user of the host, who looks for the ports and sockets of a user, and for what they are good for.

Arguments: the user's number, and its run directory.
"""

from __future__ import annotations

import re
import socket
import sys
from contextlib import closing, suppress

from holdfast_protos.client import Access, Link, Refusal, Unreachable
from holdfast_protos.conventions import UNIX
from holdfast_storage.errors import HoldfastError
from holdfast_storage.run_key import read_key
from holdfast_storage.store import open_store


def main(user: str, directory: str) -> None:
    ports = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            rows = [line.split() for line in lines][1:]
        ports += [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[7] == user]
    print(f"{len(ports)} ports", flush=True)
    reached = 0
    with open("/proc/net/unix") as lines:
        names = {line.split()[7] for line in lines if len(line.split()) > 7}
    sockets = {name for name in names if re.fullmatch("@holdfast-[0-9a-f]{32}", name)}
    for name in sockets:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as one:
            one.connect(name.replace("@", "\0", 1))
            reached += 1
    print(f"{reached} sockets", flush=True)
    store = open_store(directory)
    try:
        print("the key is", read_key(store), flush=True)
    except HoldfastError as error:
        print(f"no key: {error}", flush=True)
    for address in [*(f"127.0.0.1:{port}" for port in ports), *(f"{UNIX}{name[1:]}" for name in sockets)]:
        try:
            with closing(Link(address, Access(store.url, lambda: bytes(32), b"neighbour"))):
                print(f"taken in at {address}", flush=True)
        except (Unreachable, Refusal) as error:  # the latter from another job on this host
            print(f"refused: {error}", flush=True)
    print("done", flush=True)


main(*sys.argv[1:])
