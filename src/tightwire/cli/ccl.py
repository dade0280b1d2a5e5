"""`tightwire ccl …`"""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path

import typer
from rich.console import Console

from tightwire.ccl import incident, journal, watch
from tightwire.ccl.actions import Actions, Command, Metrics, Webhook
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.cli import ccl_diagnose, ccl_drill, ccl_hosts, ccl_report, ccl_top
from tightwire.cli.ccl_panel import HANG_STATUS, panel
from tightwire.errors import ConfigError
from tightwire.report import text

app = typer.Typer(help="Know why a collective is stuck: which rank, why, and the evidence.", no_args_is_help=True)
ccl_diagnose.register(app)
ccl_drill.register(app)
ccl_hosts.register(app)
ccl_report.register(app)
ccl_top.register(app)


class OnHang(str, Enum):
    stop = "stop"
    report = "report"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    command: list[str] = typer.Argument(..., help="The job, after --: torchrun --nproc-per-node 4 train.py"),
    out: Path | None = typer.Option(None, help="Folder for verdict.json and incident.json [default: tightwire-incidents/TIME]."),
    on_hang: OnHang = typer.Option(OnHang.stop, help="End the hung job once the verdict stands, or only report."),
    patience: float = typer.Option(2.0, min=0.0, help="Seconds between the verdict and the end of the job."),
    webhook: list[str] = typer.Option([], help="POST the verdict as JSON to this address; may be given again."),
    execute: list[str] = typer.Option([], "--exec", help="Run this command line, the verdict as JSON on its input."),
    metrics: str | None = typer.Option(None, metavar="HOST:PORT", help="Serve Prometheus metrics here."),
) -> None:
    """Run a job under observation; when it hangs or slows down, name the rank or link, the reason and the evidence.

    Exit status: the job's own, or 3 when a hang was diagnosed. A slow job runs on.
    """
    console, watchers, folders = Console(stderr=True), list[Watcher](), dict[str, Path]()

    def told(verdict: Verdict) -> None:
        show(console, verdict)
        act(verdict)
        folder = out or Path("tightwire-incidents") / time.strftime("%Y%m%d-%H%M%S")
        if verdict.is_hang:  # another class that began with the first has a folder beside it
            beside = folder.with_name(f"{folder.name}-{len(folders) + 1}") if folders else folder
            folder = folders.setdefault(verdict.anomaly, beside)
        problem = journal.write(folder, verdict, incident.capture(watchers[0].collector, verdict, command))
        if problem is not None:
            console.print(f"tightwire: {problem}", highlight=False, soft_wrap=True)
            return
        console.print(f"verdict: {folder / 'verdict.json'}", highlight=False, soft_wrap=True)
        console.print(f"a page of it: tightwire ccl report {folder}", highlight=False, soft_wrap=True)

    if not command:
        raise ConfigError("command is missing; give it after --, like: tightwire ccl run -- torchrun train.py")
    act = Actions([*map(Webhook, webhook), *map(Command, execute), *([Metrics(metrics)] if metrics else [])])
    watched = watch.run(command, told, on_hang.value, patience, on_start=watchers.append)
    act.wait()
    if watched.ranks == 0:
        console.print("tightwire: no rank was seen; the probe needs torch 2.5 or later in the job", highlight=False)
    for what in watched.unseen:
        console.print(f"tightwire: not seen: {what}", highlight=False, soft_wrap=True)
    raise typer.Exit(HANG_STATUS if watched.verdict is not None else watched.status)


@app.command()
def demo() -> None:
    """Freeze one rank of a 4-rank DDP training job and see it named."""
    run_demo(Console())


def run_demo(console: Console) -> None:
    """Run the ccl demo and print its verdict and table."""
    from tightwire.ccl import demo as ccl_demo

    console.print("starting a 4-rank DDP job under observation; one rank will be frozen", highlight=False)
    table = ccl_demo.run(lambda verdict: show(console, verdict))
    console.print(text.render(table))


def show(console: Console, verdict: Verdict) -> None:
    """A panel for one verdict."""
    since = "it was last seen to move" if verdict.is_hang else "it began"
    closing = f"said {verdict.time_to_verdict_s:.1f} s after {since}; confidence {verdict.confidence}"
    console.print(panel(verdict, closing))
