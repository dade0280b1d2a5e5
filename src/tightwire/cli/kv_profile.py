"""`tightwire kv profile`"""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from tightwire.report import text


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(profile)


def profile(
    model: Path | None = typer.Argument(None, help="A Hugging Face model folder; by default the one that ships."),
    budget: int = typer.Option(100, min=1, help="How many measurements of quality."),
    out: Path = typer.Option(Path("library.json"), help="The library; picture, page, tables and journal go beside it."),
    seed: int = typer.Option(0, min=0, help="Equal seeds give equal searches."),
    workers: int = typer.Option(1, min=1, help="Processes that measure quality, one thread each."),
    resume: bool = typer.Option(False, help="Go on with the journal of a run that ended early."),
    quality: float = typer.Option(0.99, min=0.5, max=0.9999, help="Relative quality at which the best ratio is wanted."),
    ray: str | None = typer.Option(None, metavar="ADDRESS", help="Measure on a Ray cluster (`local` starts one here)."),
) -> None:
    """Find the strategies that nothing beats in ratio, speed and quality at once, with few measurements of quality."""
    from tightwire.errors import ConfigError
    from tightwire.kv import refmodel
    from tightwire.kv.profiler import engine, summary
    from tightwire.kv.profiler.model import Executor, ModelBench, Processes
    from tightwire.kv.profiler.search import Settings
    from tightwire.report import html, plot

    console = Console()
    journal, tables = out.with_suffix(".journal"), out.with_suffix(".tables")
    if journal.exists() and not resume:
        raise ConfigError(f"out={str(out)!r}: {journal} is of an earlier run; go on with --resume, or remove it")
    if resume and not journal.exists():
        raise ConfigError(f"resume: there is no {journal}; leave --resume out")
    folder = model or refmodel.path()
    bench = ModelBench(folder, tables, seed)
    settings = Settings(float(budget), seed, (quality,) if quality < 0.97 else (quality, 0.97))
    executor: Executor
    if ray is None:
        executor = Processes(workers, folder, tables, seed)
    else:
        from tightwire.kv.profiler.on_ray import Ray

        executor = Ray(ray, workers, folder, tables, seed)
    bench.executor = executor
    with console.status(f"{len(bench.space)} strategies: measuring ratio and speed") as status:

        def say(progress: engine.Progress) -> None:
            if console.is_terminal:
                status.update(str(progress))
            else:
                console.print(f"  {progress}", highlight=False, soft_wrap=True)

        try:
            outcome = engine.run(bench, settings, journal, say)
        finally:
            executor.close()
    outcome.library.save(out)
    page = summary.page(outcome)
    out.with_suffix(".html").write_text(html.render(page), encoding="utf-8")
    out.with_suffix(".png").write_bytes(plot.render(summary.picture(outcome.found)))
    console.print(f"{outcome.progress}", highlight=False, soft_wrap=True)
    console.print(text.render(summary.best(outcome.found)))
    console.print(text.render(summary.published(outcome.found)))
    for what, suffix in (("library", ".json"), ("picture", ".png"), ("report", ".html")):
        path = out if what == "library" else out.with_suffix(suffix)
        console.print(f"{what}: {path.resolve()}", highlight=False, soft_wrap=True)
