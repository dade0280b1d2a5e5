"""`tightwire ccl report`"""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(report)


def report(
    incident: Path = typer.Argument(..., help="The folder of an incident, or its incident.json."),
    out: Path | None = typer.Option(None, help="The page [default: report.html beside the incident]."),
    trace: Path | None = typer.Option(None, help="Also a Chrome trace, for ui.perfetto.dev."),
) -> None:
    """An incident as an HTML page: the evidence, who waits for whom, and a timeline."""
    from tightwire.ccl import chrome_trace, incident_page
    from tightwire.ccl.incident import Incident
    from tightwire.report import html

    console = Console()
    found = Incident.load(incident)
    page = out or (incident if incident.is_dir() else incident.parent) / "report.html"
    page.write_text(html.render(incident_page.page(found)), encoding="utf-8")
    console.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)
    if trace is not None:
        trace.write_text(json.dumps(chrome_trace.events(found)), encoding="utf-8")
        console.print(f"trace: {trace.resolve()}", highlight=False, soft_wrap=True)
