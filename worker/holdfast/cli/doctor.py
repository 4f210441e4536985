"""`holdfast doctor`: whether a storage does what Holdfast relies on."""

from __future__ import annotations

import click

from holdfast.cli.output import JSON


@click.command(name="doctor")
@click.argument("url", metavar="URL")
@JSON
def command(url: str, as_json: bool) -> None:
    """Try out whether the storage at URL does what Holdfast relies on, and how fast.

    URL is where runs are to be kept: a bucket, a folder in one, or a directory that exists. Some hundred MiB are
    written below a folder of their own, read and deleted again; nothing is left behind. Exit status 1 if a run there
    could lose something.
    """
    from holdfast.cli.output import console, print_json
    from holdfast_storage.examine import examine
    from holdfast_storage.store import normalise

    out = console()
    findings = []
    for finding in examine(url):
        findings.append(finding)
        if not as_json:
            verdict = finding.verdict.upper() if finding.bad else finding.verdict
            out.print(f"{verdict:<14}{finding.check}: {finding.says}")
    bad = [finding.check for finding in findings if finding.bad]
    if as_json:
        print_json(
            {
                "url": normalise(url),
                "good": not bad,
                "checks": [
                    {"check": f.check, "verdict": f.verdict, "says": f.says, "figures": dict(f.figures)}
                    for f in findings
                ],
            }
        )
    elif bad:
        out.print(f"{normalise(url)} is not a safe place for a run: {', '.join(bad)}")
    else:
        out.print(f"{normalise(url)} does all that Holdfast relies on")
    if bad:
        click.get_current_context().exit(1)
