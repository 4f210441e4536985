"""`holdfast coordinator`: runs the service that commits checkpoints, in a process of its own."""

from __future__ import annotations

import os
import tempfile

import click

from holdfast_storage.errors import InvalidRequest


@click.command(name="coordinator")
@click.option(
    "--root",
    "roots",
    required=True,
    multiple=True,
    metavar="URL",
    help="A folder above run directories to serve. May be given several times.",
)
@click.option(
    "--listen",
    required=True,
    metavar="HOST:PORT",
    help="Where to listen. Port 0 takes a free port and logs it.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST:PORT",
    help="Where others reach it, if not at --listen, for example behind a Kubernetes Service.",
)
@click.option(
    "--tls-cert",
    "certificate",
    default="",
    metavar="FILE",
    help="The certificate to show, with its chain, in PEM form. Without it, one is made at the start.",
)
@click.option("--tls-key", "key", default="", metavar="FILE", help="The private key of --tls-cert, without a password.")
@click.option(
    "--tls-client-ca",
    "client_ca",
    default="",
    metavar="FILE",
    help="Let only clients connect that show a certificate of these authorities, in addition to all else.",
)
@click.option(
    "--token-file",
    default="",
    metavar="FILE",
    help="Let workers show a token in place of the run's key. A line is PREFIX TOKEN; PREFIX is a run, a folder above "
    "runs, or * for all.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Speak without TLS, and let all who reach the port commit to all runs. Workers need HOLDFAST_INSECURE=1.",
)
def command(
    *,
    roots: tuple[str, ...],
    listen: str,
    advertise: str,
    certificate: str,
    key: str,
    client_ca: str,
    token_file: str,
    insecure: bool,
) -> None:
    """Run a coordinator until SIGTERM or Ctrl-C, and log to stderr.

    Tell workers about it with `CheckpointManager(..., coordinator="HOST:PORT")` or the environment variable
    HOLDFAST_COORDINATOR. Whoever can read a run directory below URL can take part in that run, and nobody else, or,
    with --token-file, whoever has a token for it.

    All files are read again when they change. Workers name theirs in HOLDFAST_TLS_CA, HOLDFAST_TLS_CERT,
    HOLDFAST_TLS_KEY and HOLDFAST_TOKEN_FILE.
    """
    if insecure and (certificate or key or client_ca or token_file):
        raise InvalidRequest("--insecure is without TLS and for everybody: leave out all --tls-... and --token-file")
    if bool(certificate) != bool(key):
        raise InvalidRequest("--tls-cert and --tls-key belong together: give both, or none")
    if client_ca and not certificate:
        raise InvalidRequest("--tls-client-ca needs --tls-cert and --tls-key")
    address, directories = _checked_address(listen, "--listen"), [_checked_root(root) for root in roots]
    if advertise:
        _checked_address(advertise, "--advertise")
    from holdfast_coordinator.server import serve
    from holdfast_coordinator.tls_files import TlsFiles
    from holdfast_coordinator.tokens import Tokens
    from holdfast_storage.logger import log_to_stderr

    tls = TlsFiles(certificate, key, client_ca) if certificate else None
    tokens = Tokens(token_file) if token_file else None
    log_to_stderr()
    serve(directories, address, advertise=advertise, tls=tls, tokens=tokens, insecure=insecure)


def _checked_address(address: str, option: str) -> str:
    """Return the address if it is HOST:PORT, with an IPv6 address in brackets. Raises InvalidRequest otherwise."""
    host, colon, port = address.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare_ipv6 or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidRequest(
            f"{option} {address!r} is not HOST:PORT, such as 127.0.0.1:7070, [::1]:7070 or 0.0.0.0:0 for any free port"
        )
    return address


def _checked_root(root: str) -> str:
    """Return the normalised root. Raises InvalidRequest for a local one that cannot be written: sooner than at a save.

    A missing root is not made, since it is most often a missing mount.
    """
    from holdfast_storage.store import normalise

    path = normalise(root)
    if "://" in path:
        return path
    try:
        tempfile.TemporaryFile(dir=path, prefix=".holdfast-").close()
    except OSError as error:
        raise InvalidRequest(
            f"--root {path} cannot be written ({os.strerror(error.errno or 0)}): check its mount and owner",
            object=path,
        ) from error
    return path
