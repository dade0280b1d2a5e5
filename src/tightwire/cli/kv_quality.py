"""`tightwire kv quality` and `tightwire kv sensitivity`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tightwire.core.records import Table
from tightwire.errors import ConfigError
from tightwire.report import text

if TYPE_CHECKING:
    from tightwire.kv.quality import Cell, Estimate, Quality, Suite

_MODEL = typer.Argument(None, help="A Hugging Face causal LM folder; the reference model that ships, if none is given.")
_LENGTHS = typer.Option("128,256,512,1024", help="Lengths of the prompts in tokens, separated by commas.")
_PROMPTS = typer.Option(8, min=1, max=1000, help="Prompts for each task and length.")
_SEED = typer.Option(0, help="Of the prompts and of the intervals.")
_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the record to FILE.")
_STRATEGY = "uniform:levels=4+pack"


def quality(
    model: Path | None = _MODEL,
    strategy: list[str] = typer.Option([], "--strategy", "-s", help="A strategy or a preset's name; may be repeated."),
    lengths: str = _LENGTHS,
    prompts: int = _PROMPTS,
    seed: int = _SEED,
    json: Path | None = _JSON,
) -> None:
    """Measure what strategies cost a model in quality, against raw KV, with 95 % intervals."""
    from tightwire.kv.presets import resolve

    wanted = {name: resolve(name) for name in strategy}
    if not wanted:
        raise ConfigError(
            "strategy is missing; give --strategy once or more; tightwire kv strategies lists what there is"
        )
    console = Console()
    with _bar() as bar:
        suite = _suite(bar, model, lengths, prompts, seed)
        task = bar.add_task("measuring", total=len(wanted))
        found, ratios = [], []
        for parsed in wanted.values():
            found.append(suite.measure(parsed))
            ratios.append(suite.ratio(parsed))
            bar.advance(task)
    console.print(text.render(_overall(list(wanted), found, ratios, suite)))
    console.print(text.render(_exact(list(wanted), found)))
    _write(json, [
        {"name": name, "ratio": ratio, **msgspec.to_builtins(each)}
        for name, ratio, each in zip(wanted, ratios, found, strict=True)
    ], suite, seed)  # fmt: skip


def sensitivity(
    model: Path | None = _MODEL,
    strategy: str = typer.Option(_STRATEGY, "--strategy", "-s", help="What a part is compressed with."),
    lengths: str = _LENGTHS,
    prompts: int = typer.Option(4, min=1, max=1000, help="Prompts for each task and length."),
    seed: int = _SEED,
    out: Path = typer.Option(Path("sensitivity.png"), help="The picture."),
    tables: Path | None = typer.Option(None, metavar="FOLDER", help="Also write tables for mixed and allocate there."),
    json: Path | None = _JSON,
) -> None:
    """Measure how much each layer and head of K and V loses when it alone is compressed, and draw it."""
    from tightwire.kv.presets import resolve
    from tightwire.kv.sensitivity import measure
    from tightwire.report import heatmap

    parsed = resolve(strategy)
    console = Console()
    with _bar() as bar:
        suite = _suite(bar, model, lengths, prompts, seed)
        task = bar.add_task("measuring", total=None)
        found = measure(suite, parsed, lambda done, total: bar.update(task, completed=done, total=total))
    rows = [["all", f"{found.k.whole:.5f}", f"{found.v.whole:.5f}"]]
    for layer in range(len(found.k.layers)):
        rows.append([f"layer {layer}", f"{found.k.layers[layer]:.5f}", f"{found.v.layers[layer]:.5f}"])
        for head, (k, v) in enumerate(zip(found.k.heads[layer], found.v.heads[layer], strict=True)):
            rows.append([f"  head {head}", f"{k:.5f}", f"{v:.5f}"])
    notes = [f"loss of relative quality when this alone goes through {parsed.short}"]
    console.print(text.render(Table("Sensitivity", ["compressed", "K", "V"], rows, ["K", "V"], notes)))
    panels = {"K": found.k.heads, "V": found.v.heads}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(heatmap.render(heatmap.Heat("Sensitivity of heads", "loss", "layer", "KV head", panels)))
    _say(console, "picture", out)
    if tables is not None:
        for side in ("k", "v"):
            for made in (found.mixed_table(side), found.allocate_table(side, suite.head_dim), found.deadzone_table(side)):
                _say(console, f"table for {side.upper()}", made.save(tables))
    _write(json, found, suite, seed)


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(quality)
    app.command()(sensitivity)


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


def _suite(bar: Progress, model: Path | None, lengths: str, prompts: int, seed: int) -> Suite:
    try:
        chosen = [int(length) for length in lengths.split(",")]
    except ValueError as error:
        raise ConfigError(f"lengths={lengths!r}: give whole numbers separated by commas, such as 128,512") from error
    from tightwire.kv.quality import Suite

    task = bar.add_task("prefilling", total=None)

    def progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return Suite.of(model, seed=seed, lengths=chosen, prompts=prompts, progress=progress)


def _overall(names: list[str], found: list[Quality], ratios: list[float], suite: Suite) -> Table:
    columns = ["strategy", "ratio", "relative quality", "KL / nats", "perplexity ÷ raw", "same greedy token"]
    rows = [
        [
            name, f"{ratio:.2f}", f"{each.relative:.4f} [{each.relative_ci[0]:.4f}, {each.relative_ci[1]:.4f}]",
            _interval(each.kl), _interval(each.perplexity), _interval(each.agreement),
        ]
        for name, ratio, each in zip(names, ratios, found, strict=True)
    ]  # fmt: skip
    lengths = ", ".join(map(str, suite.lengths))
    notes = [f"{suite.prompts} prompts for each task and length ({lengths} tokens); in brackets: 95 % intervals"]
    return Table("Quality against raw KV", columns, rows, columns[1:], notes)


def _exact(names: list[str], found: list[Quality]) -> Table:
    cells = found[0].exact
    columns = ["exact match", "length", "raw", *names]
    rows = [
        [cell.task, str(cell.length), f"{cell.raw:.0%}", *(_share(each.exact[place]) for each in found)]
        for place, cell in enumerate(cells)
    ]
    notes = ["share of exactly right greedy answers; in brackets: relative to raw KV, 95 % interval"]
    return Table("Answers", columns, rows, columns[1:], notes)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _share(cell: Cell) -> str:
    relative = cell.relative
    return f"{cell.strategy:.0%}" + (f" [{relative.low:.2f}, {relative.high:.2f}]" if relative else "")


def _write(path: Path | None, results: Any, suite: Suite, seed: int) -> None:
    if path is not None:
        facts = {"suite": suite.fingerprint, "model": suite.model.fingerprint, "lengths": suite.lengths,
                 "prompts": suite.prompts, "seed": seed, "results": results}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")


def _say(console: Console, what: str, path: Path) -> None:
    console.print(f"{what}: {path.resolve()}", highlight=False, soft_wrap=True)
