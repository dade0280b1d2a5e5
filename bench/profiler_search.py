"""Searches for the 3-D front, replayed over a table of the whole space (`bench/data`), ten seeds each.

Measurements are looked up; seconds are those that the table recorded for the measurements a search made (a side's values
count once, when the search first needs them), plus the rates of all sides, plus the search's own CPU seconds. The whole
space's seconds are counted the same way. Hypervolume: gains of log ratio (from raw to the space's best), log time (from
the space's slowest to its fastest) and quality (from 0.9 to 1). Codecs are exact, so a measurement brings the strategies
that differ in codecs only, for every method.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

from harness import Result, parser, publish
from peers import search_botorch, search_kvserve, search_optuna
from peers.replay import Replay, Whole
from spacetable import SpaceTable
from tightwire.kv.presets import presets
from tightwire.kv.profiler.search import Observation, Search, Settings

TABLE = Path(__file__).parent / "data" / "space.json.xz"
SHARE = 50  # of the whole space's measurements, for the other methods
OURS, OURS_AT_1_100 = 100, 240  # fewer: seconds are to stay within 1/50 and 1/100 too
Method = Callable[[Replay, int, int], None]


class Run:
    """A method with one seed."""

    def __init__(self, whole: Whole, method: Method, budget: int, seed: int) -> None:
        self.replay = Replay(whole)
        before = time.process_time()
        method(self.replay, budget, seed)
        self.own_s = time.process_time() - before
        self.hypervolume, self.gap = self.replay.share(), self.replay.gap(0.99)
        self.evaluations_share = self.replay.evaluations / whole.measured
        self.wall_share = (whole.table.rates_s + self.replay.seconds + self.own_s) / whole.total_s


def ours(replay: Replay, budget: int, seed: int) -> None:
    search = Search(replay.whole.problem, Settings(float(budget), seed, few_cost=replay.whole.few_cost))
    while asked := search.ask():
        search.tell([Observation(point, which, replay.measure(point, which)) for point, which in asked])


def random(replay: Replay, budget: int, seed: int) -> None:
    for point in np.random.default_rng(seed).choice(np.flatnonzero(~replay.space.lossless), budget, replace=False):
        replay.measure(int(point))


def tpe(replay: Replay, budget: int, seed: int) -> None:
    search_optuna.search(replay, budget, seed, "tpe")


def nsga2(replay: Replay, budget: int, seed: int) -> None:
    search_optuna.search(replay, budget, seed, "nsga2")


def middle(runs: list[Run], name: str) -> float:
    return float(median(getattr(run, name) for run in runs))


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--table", type=Path, default=TABLE)
    arguments_parser.add_argument("--seeds", type=int, default=10)
    arguments_parser.add_argument("--botorch-seeds", type=int, default=1, help="it takes minutes a seed")
    arguments = arguments_parser.parse_args()
    table = SpaceTable.load(arguments.table)
    whole = Whole(table)
    seeds = range(arguments.seeds)
    budget = whole.measured // SHARE
    note = f"{whole.measured} measurements of quality, {whole.total_s:.0f} s; model {table.provenance['model']}"
    results = [
        Result("space.strategies", len(whole.space), "count", "higher", note),
        Result("space.measurements", whole.measured, "count", "higher", "strategies that differ in codecs share one"),
    ]
    for name, share in (("ours", OURS), ("ours_at_1_100", OURS_AT_1_100)):
        count = whole.measured // share
        runs = [Run(whole, ours, count, seed) for seed in seeds]
        detail = f"{count} measurements, {middle(runs, 'own_s'):.1f} s of its own; worst seed {min(r.hypervolume for r in runs):.4f}"
        results += [
            Result(f"{name}.evaluations_share", middle(runs, "evaluations_share"), "share", "lower", detail),
            Result(f"{name}.wall_share", middle(runs, "wall_share"), "share", "lower", "CPU seconds, rates of all sides included"),
            Result(f"{name}.hypervolume", middle(runs, "hypervolume"), "share", "higher", "of the whole space's"),
            Result(f"{name}.best_ratio_gap_at_0.99", middle(runs, "gap"), "share", "lower", f"worst {max(r.gap for r in runs):.4f}"),
        ]
    methods: dict[str, tuple[Method, int, str]] = {
        "random": (random, arguments.seeds, "numpy"), "kvserve": (search_kvserve.search, arguments.seeds, "numpy"),
        "optuna_tpe": (tpe, arguments.seeds, "optuna"), "nsga2": (nsga2, arguments.seeds, "optuna"),
        "botorch": (search_botorch.search, arguments.botorch_seeds, "botorch"),
    }  # fmt: skip
    for name, (method, count, package) in methods.items():
        if not count or find_spec(package) is None:
            print(f"{name}: {package} is not installed or no seeds are asked for: left out")
            continue
        print(f"{name}: {count} seeds", flush=True)
        runs = [Run(whole, method, budget, seed) for seed in range(count)]
        detail = f"{budget} measurements, {count} seeds, {middle(runs, 'own_s'):.1f} s of its own, gap at 0.99 {middle(runs, 'gap'):.3f}"
        results.append(Result(f"{name}.hypervolume", middle(runs, "hypervolume"), "share", "higher", detail))
    publish("profiler_search", results + of_the_space(whole), arguments.json)


def of_the_space(whole: Whole) -> list[Result]:
    """What the table itself says."""
    space, quality = whole.space, whole.quality
    texts = {str(preset.strategy): name for name, preset in presets().items()}
    named = [i for i, s in enumerate(space.strategies) if str(s) in texts or i in whole.fitted]
    good = [i for i in named if quality[space.point[i]] >= 0.99]
    best_preset = max(whole.problem.ratio[i] for i in good)
    which = next(i for i in good if whole.problem.ratio[i] == best_preset)
    best = [np.flatnonzero(quality >= wanted)[whole.best_ratio[quality >= wanted].argmax()] for wanted in (0.99, 0.97)]
    shown = [space.strategies[space.at[point]].short for point in best]
    return [
        Result("best_ratio_vs_best_preset_at_0.99", float(whole.best(0.99) / best_preset), "ratio", "higher",
               f"{whole.best(0.99):.2f} {shown[0]} against {best_preset:.2f} {space.strategies[which].short}"),
        Result("best_ratio_at_0.97", whole.best(0.97), "ratio", "higher", shown[1]),
        Result("proxy.rank_correlation", whole.correlation(), "spearman", "higher", "of the proxy with the quality loss, all points"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
