"""Two models, one profiler: how their fronts differ, and what it costs to serve one with the library of the other.

Both are profiled by `tightwire kv profile` with equal settings. A strategy of one is carried over to the other by its
composition: with the other's rotary frequencies and calibrated tables. All qualities are on prompts that no search saw.

    python bench/second_model.py OTHER [--budget 60] [--work FOLDER] [--picture FILE.png] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import harness
from harness import Result
from tightwire.core.records import Cloud, Table
from tightwire.kv import refmodel
from tightwire.kv.profiler.model import ModelBench, Processes
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.report import plot, text

QUALITIES = (0.99, 0.97, 0.95)
_OF_A_MODEL = re.compile(r"(?<=table=)(\w+)-[0-9a-f]{16}|(?<=theta=)\d+")


@dataclass
class Model:
    """`own`: its front by composition; `borrowed`: the other's front on this model, by composition."""

    name: str
    bench: ModelBench
    own: dict[str, Profile]
    borrowed: dict[str, Profile]

    @property
    def strategies(self) -> dict[str, Strategy]:
        """Those of its space by composition."""
        return {composition(str(strategy)): strategy for strategy in self.bench.space.strategies}


def composition(strategy: str) -> str:
    """A strategy without what is one model's: rotary frequencies and names of calibrated tables."""
    return _OF_A_MODEL.sub(lambda match: match[1] or "its", strategy)


def profiled(name: str, folder: Path, args: argparse.Namespace, work: Path) -> Model:
    """`folder` with its front; profiled once in `work`."""
    library = work / f"{name}.json"
    if not library.exists():
        command = ["kv", "profile", str(folder), "--budget", str(args.budget), "--seed", str(args.seed),
                   "--workers", str(args.workers), "--out", str(library)]  # fmt: skip
        resume = ["--resume"] if library.with_suffix(".journal").exists() else []
        subprocess.run([sys.executable, "-m", "tightwire.cli", *command, *resume], check=True)
    bench = ModelBench(folder, library.with_suffix(".tables"), args.seed)
    bench.executor = Processes(args.workers, folder, library.with_suffix(".tables"), args.seed)
    own = {composition(profile.strategy): profile for profile in ProfileLibrary.load(library).profiles}
    return Model(name, bench, own, {})


def borrow(model: Model, other: Model, work: Path) -> None:
    """Measure the other's front on `model`."""
    os.environ["TIGHTWIRE_TABLES"] = str(work / f"{model.name}.tables")
    strategies = model.strategies
    wanted = [key for key in other.own if key in strategies]
    found = model.bench.qualities([(strategies[key], "fresh") for key in wanted])
    for key, quality in zip(wanted, found, strict=True):
        model.borrowed[key] = model.own.get(key) or model.bench.profile(strategies[key], quality)


def best(profiles: dict[str, Profile], quality: float) -> tuple[str, Profile]:
    """The largest ratio at `quality`."""
    good = [(key, profile) for key, profile in profiles.items() if profile.quality >= quality]
    return max(good, key=lambda each: each[1].ratio)


def compare(model: Model, other: Model, console: Console) -> list[Result]:
    """What `model` has of its own front, and of the other's."""
    rows, results = [], []
    for quality in QUALITIES:
        key, own = best(model.own, quality)
        chosen = model.borrowed.get(best(other.own, quality)[0])
        possible = best(model.borrowed, quality)[1]
        told = f"{chosen.ratio:.2f} at {chosen.quality:.4f}" if chosen else "not in its space"
        rows.append(
            [f"{quality:g}", f"{own.ratio:.2f}", told, f"{possible.ratio:.2f}", Strategy.parse(own.strategy).short]
        )
        name = f"{model.name}.{{}}_at_{quality:g}"
        results.append(Result(name.format("ratio"), own.ratio, "x", "higher", key))
        if chosen:
            results.append(
                Result(name.format("borrowed_quality"), chosen.quality, "x", "higher", "of the other's choice")
            )
        results.append(Result(name.format("borrowed_ratio_share"), possible.ratio / own.ratio, "x", "higher"))
    console.print(text.render(Table(
        f"{model.name}, with its own library and with that of {other.name}",
        ["quality", "own ratio", "what the other's library promises this for", "best of the other's front", "own strategy"],
        rows, right=["quality", "own ratio"],
    )))  # fmt: skip
    shared = len(model.own.keys() & other.own.keys()) / len(model.own)
    return [
        *results,
        Result(f"{model.name}.front_shared", shared, "share", "higher", f"of {len(model.own)} strategies"),
    ]


def picture(models: list[Model]) -> Cloud:
    """Both fronts."""
    points = [
        [
            (p.ratio, 1e9 / p.encode_bytes_per_s + 1e9 / p.decode_bytes_per_s, p.quality)
            for p in m.own.values()
            if p.quality > 0.85
        ]
        for m in models
    ]
    axes = ["ratio", "ns a raw byte", "relative quality"]
    names = [model.name for model in models]
    labels = [[""] * len(each) for each in points]
    return Cloud("Two models, one space: the fronts", axes, names, points, labels, log=axes[:2])


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("other", type=Path, help="a model folder, to be compared with the reference model")
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where the libraries are kept; otherwise temporary")
    parser.add_argument("--picture", type=Path, help="draw both fronts as PNG")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        models = [profiled("llama", refmodel.path(), args, work), profiled("other", args.other, args, work)]
        for model, other in (models, models[::-1]):
            borrow(model, other, work)
        results = [each for model, other in (models, models[::-1]) for each in compare(model, other, Console())]
        for model in models:
            assert model.bench.executor is not None
            model.bench.executor.close()
    if args.picture:
        args.picture.write_bytes(plot.render(picture(models)))
    harness.publish("second_model", results, args.json)


if __name__ == "__main__":
    main()
