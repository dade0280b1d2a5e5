"""`tightwire ccl agent` and `tightwire ccl collect`: one job on several hosts."""

from __future__ import annotations

import threading
from pathlib import Path

import typer
from rich.console import Console

from tightwire.ccl.actions import Actions, Command, Metrics, Webhook
from tightwire.ccl.fleet.backlog import DEFAULT_BYTES
from tightwire.ccl.fleet.judging import Judging, News
from tightwire.cli.ccl_panel import HANG_STATUS, panel
from tightwire.core.clock import MonotonicClock
from tightwire.errors import ConfigError
from tightwire.net.keys import Keys, load_authorized

DEFAULT_LISTEN = "tcp://127.0.0.1:7711"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(agent)
    app.command()(collect)


def agent(
    command: list[str] | None = typer.Argument(None, help="This host's part of the job, after --; without, rings of a job that is started otherwise."),
    collector: str = typer.Option(..., "--collector", "--to", help="Where the collector listens, tcp://HOST:PORT; or redis://HOST:PORT/DATABASE, the password in $TIGHTWIRE_REDIS_PASSWORD."),
    job: str = typer.Option("default", help="The job's name; agents and their folders are told apart by it."),
    folder: Path | None = typer.Option(None, help="The rings on this host; default: /dev/shm/tightwire-JOB."),
    keys: Path | None = typer.Option(None, help="Folder with a pair of keys: encrypted, and known to the collector."),
    server: str | None = typer.Option(None, help="The collector's public key or its file; default: the pair in --keys serves all."),
    memory: int = typer.Option(DEFAULT_BYTES // 2**20, min=1, help="MiB kept while the collector is away, and for one that starts again."),
) -> None:  # fmt: skip
    """On each host: ship what its ranks do to a collector. With a command, start it with the probe on, and exit as it does.

    A job that is started otherwise needs TIGHTWIRE_CCL=FOLDER in its environment.
    """
    from tightwire.ccl.fleet.station import Station, default_folder, on_signals
    from tightwire.ccl.fleet.uplinks import connector

    console, clock = Console(stderr=True), MonotonicClock()

    def say(text: str) -> None:
        console.print(f"tightwire: {text}", highlight=False, markup=False, soft_wrap=True)

    if not job or "/" in job:
        raise ConfigError(f"job={job!r}: a name without / is needed, like --job pretrain-7")
    pair = None if keys is None else Keys.load(keys, server or str(keys))
    chosen = folder or default_folder(job)
    station = Station(job, chosen, connector(collector, pair, clock, say), clock, memory * 2**20)
    say(f"agent {station.about.host} of job {job!r}; rings in {chosen}")
    if command:
        raise typer.Exit(station.run_with(command))
    on_signals(station.stop)
    station.run()


def collect(
    listen: str = typer.Option(DEFAULT_LISTEN, "--listen", "--from", help="tcp://ADDRESS:PORT; or redis://HOST:PORT/DATABASE, which agents write to."),
    keys: Path | None = typer.Option(None, help="Folder with a pair of keys; then only agents with a known key are let in."),
    authorized: Path | None = typer.Option(None, help="The agents' public keys, one a line; default: the pair in --keys serves all."),
    insecure: bool = typer.Option(False, help="Listen beyond this machine without keys."),
    out: Path = typer.Option(Path("tightwire-incidents"), help="Folder for incidents, and for what is open."),
    once: bool = typer.Option(False, help="End when the job has ended; the exit status is 3 when it hung."),
    webhook: list[str] = typer.Option([], help="POST each verdict as JSON to this address; may be given again."),
    execute: list[str] = typer.Option([], "--exec", help="Run this command line, the verdict as JSON on its input."),
    metrics: str | None = typer.Option(None, metavar="HOST:PORT", help="Serve Prometheus metrics here."),
) -> None:  # fmt: skip
    """Judge jobs over all hosts whose agents report here: verdicts as `ccl run` gives them, until Ctrl-C."""
    from tightwire.ccl.fleet.collecting import Collecting
    from tightwire.ccl.fleet.lobbies import open_lobby
    from tightwire.ccl.fleet.station import on_signals

    console, clock, stopped = Console(stderr=True), MonotonicClock(), threading.Event()

    def say(text: str) -> None:
        console.print(f"tightwire: {text}", highlight=False, markup=False, soft_wrap=True)

    def tell(judging: Judging, news: News) -> None:
        verdict, folder = news.known.verdict, news.known.folder
        match news.what:
            case "found":
                say(f"job {judging.job}: still open: {verdict.anomaly}, {verdict.who}: {verdict.cause} ({folder})")
            case "closed" if verdict.ended_s is None:
                say(f"job {judging.job}: {verdict.anomaly} is over: {news.known.reason} ({folder})")
            case _:
                since = "it was last seen to move" if verdict.is_hang else "it began"
                closing = f"said {verdict.time_to_verdict_s:.1f} s after {since}; confidence {verdict.confidence}"
                console.print(panel(verdict, closing))
                say(f"job {judging.job}: a page of it: tightwire ccl report {folder}")
                act(verdict)

    act = Actions([*map(Webhook, webhook), *map(Command, execute), *([Metrics(metrics)] if metrics else [])])
    pair = None if keys is None else Keys.load(keys)
    known = load_authorized(authorized) if authorized else frozenset() if pair is None else frozenset({pair.public})
    lobby = open_lobby(listen, clock, pair, known, insecure, say)
    on_signals(stopped.set)
    say(f"collector at {lobby.endpoint}; incidents in {out}")
    try:
        hangs = Collecting(lobby, out, clock, tell, say).run(stopped.is_set, once)
    finally:
        lobby.close()
        act.wait()
    raise typer.Exit(HANG_STATUS if hangs and once else 0)
