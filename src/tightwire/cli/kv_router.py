"""`tightwire kv router`"""

from __future__ import annotations

import typer

from tightwire.errors import ConfigError


def router(
    prefill: list[str] = typer.Option(..., help="Address of a prefill instance; may be repeated."),
    decode: list[str] = typer.Option(
        ..., help="Address of a decode instance; may be repeated, then each with =tcp://host:port, where it takes KV."
    ),
    host: str = typer.Option("127.0.0.1", help="Address to listen at."),
    port: int = typer.Option(8000, min=1, max=65535, help="Port to listen at."),
) -> None:
    """Serve the OpenAI API over prefill and decode instances of vLLM: both are asked at the same time.

    tightwire kv router --prefill http://a:8100 --decode http://b:8200 --port 8000
    """
    try:
        from tightwire.kv.router import serve
    except ImportError as error:
        raise ConfigError(
            f"the router needs aiohttp ({error}); install it with pip install 'tightwire[router]'"
        ) from error
    typer.echo(f"http://{host}:{port}/v1 over {len(prefill)} prefill and {len(decode)} decode")
    serve(prefill, decode, host, port)


def register(app: typer.Typer) -> None:
    app.command()(router)
