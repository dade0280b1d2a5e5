"""`tightwire ccl …`"""

import typer

app = typer.Typer(help="Know why a collective is stuck: which rank, why, and the evidence.", no_args_is_help=True)
