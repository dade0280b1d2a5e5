"""`tightwire kv …`"""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from tightwire.cli import kv_keys, kv_plan, kv_profile, kv_quality, kv_router
from tightwire.core.records import Bars, Table
from tightwire.report import text

app = typer.Typer(
    help="Send KV caches with as few bytes as the link and the quality budget ask for.", no_args_is_help=True
)
kv_quality.register(app)
kv_profile.register(app)
kv_plan.register(app)
kv_router.register(app)
kv_keys.register(app)


@app.command()
def strategies(
    strategy: str | None = typer.Argument(None, help="Check and explain this strategy instead of listing the stages."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List the stages that can be composed and the published methods, or check one strategy.

    A strategy is a chain of stages joined by +, for K and V alike, or K's chain / V's chain:
    hadamard+uniform:levels=16,axis=group,group=64+pack
    """
    from tightwire.kv.describe import count, published, stages
    from tightwire.kv.presets import resolve

    console = Console()
    if strategy is not None:
        parsed = resolve(strategy)
        if as_json:
            print(json.dumps(parsed.to_json()))
        else:
            console.print(f"valid: {parsed}", markup=False, highlight=False, soft_wrap=True)
        return
    tables = {"stages": stages(), "presets": published()}
    if as_json:
        rows = {name: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for name, t in tables.items()}
        print(json.dumps(rows))
        return
    for table in tables.values():
        console.print(text.render(table))
    chains = count()
    console.print(
        f"{chains} chains with the usual settings, {chains * chains} pairs of one for K and one for V.",
        highlight=False,
    )


@app.command()
def demo(
    out: Path = typer.Option(Path("tightwire-demo"), help="Folder for the picture and the HTML report."),
    userspace: bool = typer.Option(False, help="Shape the link in user space even where namespaces can be made."),
    prompts: int = typer.Option(3, min=1, max=20, help="How many prompts."),
    tokens: int = typer.Option(900, min=64, max=2000, help="Length of a prompt in tokens."),
) -> None:
    """Prefill here, decode there: raw, one fixed strategy and auto over links of three speeds."""
    run_demo(Console(), out, userspace, prompts, tokens)


def run_demo(console: Console, out: Path, userspace: bool = False, prompts: int = 3, tokens: int = 900) -> None:
    """Run the kv demo, print its tables, write its files and print their paths."""
    from tightwire.kv.demo import prompts as texts
    from tightwire.kv.demo import run
    from tightwire.report import html, plot

    with console.status("starting a prefill and a decode process") as status:

        def say(line: str) -> None:
            if console.is_terminal:
                status.update(line)
            else:
                console.print(f"  {line}", highlight=False, soft_wrap=True)

        made = texts.make(prompts + 4, tokens)
        page = run.summarise(run.run(made[:prompts], made[prompts:], say, userspace))
    for part in page.sections:
        if isinstance(part, Table):
            console.print(text.render(part))
    out.mkdir(parents=True, exist_ok=True)
    report, picture = out / "kv.html", out / "kv.png"
    report.write_text(html.render(page), encoding="utf-8")
    picture.write_bytes(plot.render(next(part for part in page.sections if isinstance(part, Bars))))
    console.print(f"report: {report.resolve()}\npicture: {picture.resolve()}", highlight=False, soft_wrap=True)
