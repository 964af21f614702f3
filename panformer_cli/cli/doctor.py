"""`panformer doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from panformer_cli.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from panformer_cli.engine.doctor.finding import Finding

LABELS = {"ok": "ok", "missing": "-", "warning": "warning", "failed": "FAILED"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> int:
    """Examine this installation; a bug report needs the output.

    Lists versions, devices, the kernels that deformable attention uses, optional packages, and the folders that are
    written. Runs a tiny model on the default device and compares it with the plain computation. Each problem is
    listed with the command that fixes it. The exit code is 1 if something that panformer needs fails.

    \b
    panformer doctor
    panformer doctor --json
    """
    from panformer_cli.engine.doctor.doctor import examine

    if as_json:
        findings = list(examine())
        is_good = not _failed(findings)
        click.echo(json.dumps({"good": is_good, "findings": [one.to_json() for one in findings]}, indent=2))
        return int(not is_good)
    findings = list(_printed(examine()))
    failed = _failed(findings)
    _print_fixes(findings)
    problems = f"{counted(len(failed), 'problem')}: {', '.join(failed)}"
    click.echo(problems if failed else "Everything that panformer needs works.")
    return int(bool(failed))


def _failed(findings: Iterable[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.status == "failed"]


def _printed(findings: Iterable[Finding]) -> Iterable[Finding]:
    """Yield each finding after printing it. No library draws this table: it may be broken."""
    section = ""
    for finding in findings:
        if finding.section != section:
            click.echo(f"{finding.section}" if not section else f"\n{finding.section}")
            section = finding.section
        click.echo(f"  {LABELS[finding.status]:8}{finding.name:18}  {finding.found}")
        yield finding


def _print_fixes(findings: Iterable[Finding]) -> None:
    """Print how to fix what failed or is slow, then how to install what is optional."""
    for heading, statuses in (("To fix", ("failed", "warning")), ("Optional", ("missing",))):
        fixes = {finding.fix: finding.name for finding in findings if finding.status in statuses and finding.fix}
        if fixes:
            click.echo(f"\n{heading}")
        for fix, name in fixes.items():
            click.echo(f"  {name}: {fix}")
    click.echo()
