"""`tightwire ccl diagnose`"""

from __future__ import annotations

from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from tightwire.cli.ccl_panel import panel


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(diagnose)


def diagnose(
    folder: Path = typer.Argument(..., metavar="DIR", help="The folder of Flight Recorder dumps, one per rank."),
    json: bool = typer.Option(False, "--json", help="Print a list of verdicts as JSON."),
) -> None:
    """Name the guilty ranks from the dumps of a job that hung; needs no torch, and trusts no file."""
    from tightwire.ccl.analyzer.dumps import diagnose as judge
    from tightwire.ccl.sources import flight_recorder

    found = flight_recorder.read(folder)
    verdicts = judge(found.dumps, found.unread, found.damaged)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(verdicts), indent=2).decode())
        return
    console = Console()
    console.print(f"{len(found.dumps)} dumps", highlight=False)
    for line in found.unread:
        console.print(Text(f"not read: {line}"), soft_wrap=True)
    for verdict in verdicts:
        console.print(panel(verdict, f"confidence {verdict.confidence}"))
    if not verdicts:
        console.print("nothing is unfinished in these dumps: no rank waits", highlight=False)
