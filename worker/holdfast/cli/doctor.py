"""`holdfast doctor`: checks that a storage does what Holdfast needs."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from holdfast.cli.output import JSON
from holdfast_storage.logger import logger


@contextmanager
def _heedful() -> Iterator[None]:
    """A context in which SIGTERM raises, so that what was made is deleted, and findings are not logged in addition."""
    log = logger("holdfast.storage")
    level, handler = log.level, signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        signal.signal(signal.SIGTERM, handler)


@click.command(name="doctor")
@click.argument("url", metavar="URL")
@JSON
def command(url: str, as_json: bool) -> None:
    """Check that a storage does what Holdfast needs.

    URL is where you want to keep runs: a bucket, a folder in one, or an existing directory. Credentials and endpoint
    are those of this shell. Some hundred MiB are written to a new folder, read, and deleted, and the speed is measured;
    nothing is left behind. Exit status 1 if a run there could lose something.
    """
    from holdfast.cli.examination import examine
    from holdfast.cli.output import Output, as_document, print_json
    from holdfast_storage.store import normalise

    out = Output()
    findings = []
    with _heedful(), closing(examine(url)) as examination:
        for finding in examination:
            findings.append(finding)
            if not as_json:
                verdict = finding.verdict.upper() if finding.bad else finding.verdict
                out.say(f"{verdict:<14}{finding.check}: {finding.says}")
    bad = [finding.check for finding in findings if finding.bad]
    if as_json:
        print_json(
            {
                "url": normalise(url),
                "good": not bad,
                "checks": as_document(findings),
            }
        )
    elif any(finding.verdict == "fails" for finding in findings):
        out.say(f"{normalise(url)} cannot hold a run as it is: see {', '.join(bad)}")
    elif bad:
        out.say(f"{normalise(url)} is safe only for one coordinator at a time: see {', '.join(bad)}")
    else:
        out.say(f"{normalise(url)} does everything that Holdfast needs")
    if bad:
        click.get_current_context().exit(1)
