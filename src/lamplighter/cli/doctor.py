"""`lamplighter doctor`: shows what the checks of `operations.doctor` found."""

from dataclasses import asdict
from typing import Annotated

import typer

from lamplighter.cli.config import ConfigOption, find
from lamplighter.cli.invocation import DataOption, JsonOption, console, of


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Details of what is well, too.")] = False,
) -> None:
    """Examine this machine and this installation.

    What is well, what is not, and what to do. Changes nothing. Exit status 1 when something fails."""
    from lamplighter.cli.kinds import engines
    from lamplighter.core.findings import Verdict
    from lamplighter.operations.doctor import examine

    invocation = of(context)
    findings = examine(invocation.folder, find(invocation, named), engines())
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    if invocation.json:
        invocation.show({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        screen = console()
        marks = {
            Verdict.OK: "[green]ok  [/green]",
            Verdict.UNKNOWN: "[dim]?   [/dim]",
            Verdict.WARN: "[yellow]warn[/yellow]",
            Verdict.FAIL: "[red]FAIL[/red]",
        }
        for finding in findings:
            screen.print(f"{marks[finding.verdict]}  [bold]{finding.name}[/bold]", end="  ")
            screen.print(finding.message, markup=False, highlight=False, soft_wrap=True)
            if finding.next_step and (verbose or finding.verdict is not Verdict.OK):
                screen.print(f"      next: {finding.next_step}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
