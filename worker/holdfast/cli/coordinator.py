"""`holdfast coordinator`: the service that commits checkpoints, in a process of its own."""

from __future__ import annotations

import click

from holdfast_storage.errors import InvalidRequest


@click.command(name="coordinator")
@click.option("--root", required=True, metavar="URL", help="The folder that all run directories it serves lie below.")
@click.option(
    "--listen", required=True, metavar="HOST:PORT", help="Where to listen; port 0 takes a free one and prints it."
)
def command(root: str, listen: str) -> None:
    """Run a coordinator until SIGTERM or ctrl-C.

    Workers find it by `CheckpointManager(..., coordinator="HOST:PORT")` or by the environment variable
    HOLDFAST_COORDINATOR. Whoever can reach the port can commit to the runs below URL: listen on a private address.
    """
    address = _checked(listen)
    from holdfast_coordinator.server import serve

    serve(root, address)


def _checked(listen: str) -> str:
    """HOST:PORT, after checking that it is one; an IPv6 address stands in brackets."""
    host, colon, port = listen.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare_ipv6 or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidRequest(
            f"--listen {listen!r} is not HOST:PORT, such as 127.0.0.1:7070, [::1]:7070 or 0.0.0.0:0 for any free port"
        )
    return listen
