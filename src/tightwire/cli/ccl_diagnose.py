"""`tightwire ccl diagnose` and `tightwire ccl watch`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from tightwire.ccl.verdict import Verdict
from tightwire.cli.ccl_panel import HANG_STATUS, panel
from tightwire.errors import ConfigError

_SILENT = (
    "no dump came from {} pipes that were asked: torch looks at its pipe every second only where the job has "
    "TORCH_NCCL_DUMP_ON_TIMEOUT=1, else once in TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(diagnose)
    app.command()(watch)


def diagnose(
    folder: Path | None = typer.Argument(
        None, metavar="DIR", help="The folder of Flight Recorder dumps, one per rank."
    ),
    timeline: Path | None = typer.Option(
        None,
        metavar="FILE",
        help="Instead: a Kineto trace, Parquet or CSV table, or a folder of them; why the job is slow.",
    ),
    columns: str = typer.Option("", help="A table's columns: start=begin_us,end=end_us,rank=r,... (docs/diagnose.md)."),
    json: bool = typer.Option(False, "--json", help="Print a list of verdicts as JSON."),
) -> None:
    """Name the guilty ranks from the dumps of a job that hung, or from the timeline of one that was slow.

    Needs no torch, and trusts no file.
    """
    if (folder is None) == (timeline is None):
        raise ConfigError("folder: give the folder of the dumps, or --timeline with a trace or table")
    console, nothing = Console(), "nothing is unfinished in these dumps: no rank waits"
    if timeline is not None:
        from tightwire.ccl.analyzer.timeline import diagnose as judge_timeline
        from tightwire.ccl.sources import timeline as timelines

        recorded = timelines.read(timeline, timelines.Columns.parse(columns))
        verdicts = judge_timeline(recorded)
        head = [f"{len(recorded.rank)} operations of {len(set(recorded.rank.tolist()))} ranks"]
        nothing = "no rank and no group loses time again and again"
    elif folder is not None:
        from tightwire.ccl.analyzer.dumps import diagnose as judge
        from tightwire.ccl.sources import flight_recorder

        found = flight_recorder.read(folder)
        verdicts = judge(found.dumps, found.unread, found.damaged)
        head = [f"{len(found.dumps)} dumps", *(f"not read: {line}" for line in found.unread)]
    if json:
        typer.echo(_json(verdicts))
        return
    for line in head:
        console.print(Text(line), soft_wrap=True)
    for verdict in verdicts:
        console.print(panel(verdict, f"confidence {verdict.confidence}"))
    if not verdicts:
        console.print(nothing, highlight=False)


def watch(
    where: list[str] = typer.Argument(
        ..., help="A folder where dumps, .sock or .pipe files are; or http://host:port of the worker servers, by rank."
    ),
    every: float = typer.Option(5.0, min=0.1, help="Seconds between two looks."),
    looks: int = typer.Option(0, min=0, help="End after so many looks; 0: with Ctrl-C."),
    json: bool = typer.Option(False, "--json", help="Print each verdict as a line of JSON."),
) -> None:
    """Take dumps from a running job again and again, and say who is guilty when it hangs.

    Exit status 3 when the job hangs at the last look.
    """
    from tightwire.ccl.analyzer.dumps.watch import Watch
    from tightwire.ccl.sources.flight_recorder.live import Live
    from tightwire.core.clock import MonotonicClock

    console, clock, watched, live = Console(), MonotonicClock(), Watch(), Live(where)
    count, unread, told = 0, set[str](), False
    try:
        while True:
            for found, final in live.look():
                for line in found.unread if not json else ():
                    if line not in unread:
                        console.print(Text(f"not read: {line}"), soft_wrap=True)
                unread |= set(found.unread)
                news, over = watched.take(found, final)
                for verdict in news:
                    if json:
                        typer.echo(msgspec.json.encode(record(verdict)).decode())
                    else:
                        console.print(panel(verdict, f"confidence {verdict.confidence}"))
                if over and not json:
                    console.print("it goes on: nothing of that stands any more", highlight=False)
            if live.silent and not told and not json:
                told = True
                console.print(Text(_SILENT.format(live.silent)), soft_wrap=True)
            count += 1
            if count == looks:
                break
            clock.sleep_s(every)
    except KeyboardInterrupt:
        pass
    if watched.standing:
        raise typer.Exit(HANG_STATUS)


def record(verdict: Verdict) -> dict[str, object]:
    """A verdict as `ccl run` writes it."""
    return {**msgspec.to_builtins(verdict), "time_to_verdict_s": verdict.time_to_verdict_s}


def _json(verdicts: Sequence[Verdict]) -> str:
    return msgspec.json.format(msgspec.json.encode([record(each) for each in verdicts]), indent=2).decode()
