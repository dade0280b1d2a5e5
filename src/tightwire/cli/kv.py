"""`tightwire kv …`"""

import typer

app = typer.Typer(help="Send KV caches with as few bytes as the link and the quality budget ask for.", no_args_is_help=True)
