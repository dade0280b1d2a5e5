"""The `tightwire` command: parse, call, print. One file per group of commands."""

import sys
from pathlib import Path

import typer
from rich.console import Console

from tightwire import __version__
from tightwire.cli import ccl, kv
from tightwire.errors import TightwireError

app = typer.Typer(
    name="tightwire",
    help="What crosses the wire between the machines of an LLM system.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(kv.app, name="kv")
app.add_typer(ccl.app, name="ccl")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tightwire {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Send KV caches with less, adaptively (kv); know why a collective is stuck (ccl)."""


@app.command()
def demo(
    out: Path = typer.Option(Path("tightwire-demo"), help="Folder for the picture and the HTML report."),
) -> None:
    """Both jobs in two minutes: KV over three links, and a frozen rank found."""
    console = Console()
    kv.run_demo(console, out)
    ccl.run_demo(console)


def main() -> None:
    """Entry point: an error that the user can mend is printed without a traceback; exit status 2."""
    try:
        app()
    except TightwireError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
