"""`tightwire kv plan` and `tightwire kv explain`"""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from tightwire.core.records import Bars, Table
from tightwire.report import text


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(plan)
    app.command()(explain)


def plan(
    library: Path = typer.Option(..., help="A library that tightwire kv profile wrote, on the machine that will encode."),
    model_shape: str = typer.Option("32,8,128", metavar="L,H,D[,dtype]", help="Layers, KV heads, head_dim of the model."),
    link: str = typer.Option("10gbit", help="The link, like 25gbit."),
    prompt: int = typer.Option(8192, min=1, help="Tokens of the prompt."),
    prefill: str = typer.Option("", help="How long its prefill takes, like 800ms: the transfer streams beside it."),
    slo_ttft: str = typer.Option("", help="When all KV must have arrived, like 500ms."),
    quality: float = typer.Option(0.97, help="The relative quality that must be kept."),
    chunk: int = typer.Option(128, min=1, help="Tokens of a piece."),
    out: Path | None = typer.Option(None, help="Write a picture (.png) or a page (.html)."),
) -> None:
    """Would compression help: what would be chosen across link speeds, what it gains over raw, where it breaks even."""
    from tightwire.core.units import parse_rate_bytes_per_s, parse_time_s
    from tightwire.errors import ConfigError
    from tightwire.kv import plan as planning
    from tightwire.kv.control.records import Request
    from tightwire.kv.control.settings import Settings
    from tightwire.kv.profiles import ProfileLibrary

    if out is not None and out.suffix not in (".png", ".html"):
        raise ConfigError(f"out={str(out)!r}: give a name that ends in .png or .html")
    profiles = ProfileLibrary.load(library)
    shape = planning.Shape.parse(model_shape)
    request = Request(
        shape.token_bytes * prompt, -(-prompt // chunk), prompt, parse_time_s(prefill) if prefill else 0.0,
        slo_s=parse_time_s(slo_ttft) if slo_ttft else None,
    )  # fmt: skip
    made = planning.make(profiles, request, parse_rate_bytes_per_s(link), Settings(quality_budget=quality))
    page, console = planning.page(made, profiles), Console()
    console.print(page.introduction, highlight=False)
    for part in page.sections:
        if isinstance(part, Table):
            console.print(text.render(part))
    if out is not None:
        from tightwire.report import html, plot

        if out.suffix == ".png":
            out.write_bytes(plot.render(next(part for part in page.sections if isinstance(part, Bars))))
        else:
            out.write_text(html.render(page), encoding="utf-8")
        console.print(f"wrote {out.resolve()}", highlight=False, soft_wrap=True)


def explain(
    log: Path = typer.Argument(..., help="The connector's decision log (setting `decisions`), or its folder."),
    count: int = typer.Option(10, "-n", min=1, help="How many decisions."),
) -> None:
    """The last decisions of a running connector: what was chosen and why, predicted and measured times."""
    from tightwire.core.units import format_time
    from tightwire.kv.control.log import read
    from tightwire.kv.plan import candidates_of, explained

    records, console = read(log, count), Console()
    rows = []
    for record in records:
        outcome, error = record.outcome, record.error
        measured = "-" if outcome is None else "failed" if outcome.failed else format_time(outcome.total_s)
        rows.append((record.decision, measured, "-" if error is None else f"{error:+.0%}"))
    console.print(text.render(explained(rows)))
    if records and records[-1].decision.candidates:
        console.print(text.render(candidates_of(records[-1])))
