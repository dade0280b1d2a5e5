"""`tightwire kv keys`"""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command("keys")(keys)


def keys(folder: Path = typer.Argument(help="Where to write public.key and secret.key; made if it is not there.")) -> None:
    """Write a pair of keys, so that KV goes encrypted and only between those who know each other.

    Each side needs a pair of its own and the other's public key: the sender as its peer, the receiver in its list of
    authorized keys.
    """
    from tightwire.net.keys import Keys

    made = Keys.generate()
    made.save(folder)
    console = Console()
    console.print(f"wrote {folder}; its public key:", highlight=False, soft_wrap=True)
    console.print(made.public.decode(), markup=False, highlight=False, soft_wrap=True)
