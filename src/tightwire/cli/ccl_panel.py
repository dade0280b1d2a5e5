"""A verdict in the terminal, and in the exit status."""

from __future__ import annotations

from rich.panel import Panel
from rich.text import Text

from tightwire.ccl.verdict import TITLES, Verdict

HANG_STATUS = 3  # a hang was told


def panel(verdict: Verdict, closing: str) -> Panel:
    """Who is guilty, the evidence, and the `closing` line; red for a hang, yellow for a slow job, green when it is over."""
    lines = [f"guilty: {verdict.who} — {verdict.cause}", *(f"• {line}" for line in verdict.evidence), closing]
    over = verdict.ended_s is not None
    title = f"{verdict.anomaly}: {'over: ' if over else ''}{TITLES[verdict.anomaly]}"
    style = "green" if over else "red" if verdict.is_hang else "yellow"
    return Panel(Text("\n".join(lines)), title=title, title_align="left", border_style=style)
