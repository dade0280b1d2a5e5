"""`tightwire ccl top`"""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer
from rich.console import Console, Group
from rich.live import Live

from tightwire.errors import ConfigError

SHARED = Path("/dev/shm")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(top)


def top(
    folder: Path | None = typer.Option(None, help="Where the job's rings are [default: the newest job on this machine]."),
    every: float = typer.Option(1.0, min=0.1, help="Seconds between two looks."),
    looks: int = typer.Option(0, min=0, help="End after so many looks; 0: with Ctrl-C."),
) -> None:
    """A running job live: its groups with their rates and who lags, its ranks with what they wait in."""
    from tightwire.ccl.agent import Agent
    from tightwire.ccl.overview import Overview
    from tightwire.core.clock import MonotonicClock
    from tightwire.report import text

    clock, overview, console = MonotonicClock(), Overview(), Console()
    chosen = folder or newest()
    with (
        contextlib.closing(Agent(chosen, clock)) as agent,
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, auto_refresh=False, screen=console.is_terminal and not looks) as live,
    ):
        count = 0
        while True:
            overview.take(agent.look())
            live.update(Group(*(text.render(table) for table in overview.tables(clock.now_s()))), refresh=True)
            count += 1
            if count == looks:
                break
            clock.sleep_s(every)


def newest() -> Path:
    """The folder of the job that started last on this machine."""
    found = [path for path in (*SHARED.glob("tightwire-*"), SHARED / "tightwire") if any(path.glob("rank-*.ring"))]
    if not found:
        raise ConfigError(
            f"folder: no job under observation was found in {SHARED}; start one with tightwire ccl run, or give --folder"
        )
    return max(found, key=lambda path: max(ring.stat().st_mtime for ring in path.glob("rank-*.ring")))
