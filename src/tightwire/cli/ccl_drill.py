"""`tightwire ccl drill`"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import typer
from rich.console import Console

from tightwire.ccl import score
from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

STEP, SLOW_STEPS, ENDLESS = 40, 80, 1_000_000
WRONG, NOTHING_INJECTED = 1, 4
OWN_HOSTS = "python -m tightwire.ccl.faults.launch --ranks 4 --hosts train.py"


class OverError(Exception):
    """The time is over, or the verdict has come and the job would go on."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(drill)


def drill(
    fault: str = typer.Argument("stop", help="What one rank does; any of those in docs/ccl.md."),
    command: list[str] = typer.Argument(None, help="Your job, after -- [default: a sample job]."),
    rank: int | None = typer.Option(None, help="The rank that misbehaves [default: any, by --seed]."),
    ranks: int = typer.Option(4, min=2, help="Of the sample job."),
    job: str = typer.Option("ddp", help="The sample job: ddp, fsdp, tensor or pipeline."),
    call: int = typer.Option(200, min=1, help="In your job: from this call of torch.distributed on."),
    severity: float = typer.Option(2.0, min=1.1, help="How many times as long a step becomes, about."),
    seed: int = typer.Option(0, help="Draws the rank."),
    limit: float = typer.Option(180.0, min=1.0, help="Seconds until the job is ended without a verdict."),
) -> None:
    """Break a job on purpose, in a way that is written down, and see whether the right rank or link is named.

    Exit status: 0 when it was, 1 when not, 4 when nothing could be injected. The job is ended in any case.
    """
    from tightwire.ccl import watch
    from tightwire.ccl.faults.drill import IN_ANY_JOB, Order
    from tightwire.ccl.faults.inject import FAULTS, NETWORK
    from tightwire.ccl.probe.attach import DRILL
    from tightwire.cli.ccl import show

    known = IN_ANY_JOB if command else FAULTS
    if fault not in known:
        where = "cannot be played in a job of your own" if fault in FAULTS else "is unknown"
        raise ConfigError(f"fault={fault!r} {where}; give one of {', '.join(known)}")
    if command and fault in NETWORK and "--hosts" not in command:
        raise ConfigError(f"fault={fault!r} needs ranks on hosts of their own; start the job with {OWN_HOSTS}, as root")
    if (fault in NETWORK or fault == "quota") and os.geteuid() != 0:
        raise ConfigError(f"fault={fault!r} needs root; try sleep instead, or run the command as root")
    console, said = Console(stderr=True), list[Verdict]()
    with tempfile.TemporaryDirectory(prefix="tightwire-drill-") as folder:
        truth_file = Path(folder) / "truth.json"

        def told(verdict: Verdict) -> None:
            show(console, verdict)
            said.append(verdict)
            if not verdict.is_hang and truth_file.exists() and _judged(truth_file, said).class_right:
                raise OverError

        if command:
            order = Order(fault, str(truth_file), call, severity, rank, seed)
            started = {DRILL: msgspec.json.encode(order).decode()}
        else:
            started, command = {}, _sample(fault, job, ranks, seed if rank is None else rank, severity, truth_file)
        with contextlib.suppress(OverError), _within(limit), _environment(started):
            watch.run(command, told, patience_s=0.5)
        if not truth_file.exists():
            console.print(f"drill: nothing was injected: the job never came to {'call' if started else 'step'} "
                          f"{call if started else STEP}", highlight=False, soft_wrap=True)  # fmt: skip
            raise typer.Exit(NOTHING_INJECTED)
        truth, outcome = json.loads(truth_file.read_text()), _judged(truth_file, said)
    right = outcome.class_right and outcome.location_right
    last = next((verdict for verdict in reversed(said) if verdict.ended_s is None), None)
    where = ", ".join([f"rank {each}" for each in truth["guilty_ranks"]] or [f"link {each}" for each in truth["guilty_links"]])
    answer = "nothing" if last is None else f"{last.anomaly}, {last.who}, {last.at_s - truth['at_s']:.1f} s after it began"
    console.print(f"injected: {truth['class']} ({fault}), {where}", highlight=False)
    console.print(f"said:     {answer}: {'right' if right else 'WRONG'}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if right else WRONG)


def _judged(truth_file: Path, said: list[Verdict]) -> score.Outcome:
    told = json.loads(truth_file.read_text())
    return score.judge(score.Truth(told["class"], told["guilty_ranks"], told["guilty_links"]), said)


def _sample(fault: str, job: str, ranks: int, rank: int, severity: float, truth: Path) -> list[str]:
    from tightwire.ccl.faults.inject import LASTING, NETWORK

    steps = STEP + SLOW_STEPS if fault in LASTING else ENDLESS
    return [
        sys.executable, "-m", "tightwire.ccl.faults.launch", "--ranks", str(ranks),
        *(["--hosts"] if fault in NETWORK else []), "-m", "tightwire.ccl.faults.sample_job", "--job", job, "--steps",
        str(steps), "--fault", fault, "--rank", str(rank % ranks), "--step", str(STEP), "--severity", str(severity),
        "--truth", str(truth),
    ]  # fmt: skip


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


@contextlib.contextmanager
def _within(limit_s: float) -> Iterator[None]:
    def over(_number: int, _frame: object) -> None:
        raise OverError

    previous = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
