"""The controller on replayed links, loads and wrong profiles, against every static choice and a clairvoyant oracle.

Simulated transfers have physics of their own (`replay/physics.py`); the latency model is measured on real transfers.
The oracle knows what each strategy will take for each request, chance included. `--published` and `--traces` name folders
with the published figures (arXiv 2605.13734) and the Mooncake trace; what needs them is left out without.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import Result, parser, publish
from replay import published, transfers
from replay.play import Played, fates, play, recovered_after, scaled, switched_after
from replay.scenarios import GBIT, Load, bursts, lengths, load, published_trace, ramps, steady, steps
from tightwire.kv.control.controller import Controller, family
from tightwire.kv.control.records import Request
from tightwire.kv.control.settings import Settings
from tightwire.kv.profiles import ProfileLibrary
from tightwire.net.estimator import LinkEstimate

HERE = Path(__file__).parent
TOKEN_BYTES = 128 * 1024  # 32 layers × 8 heads × 128 × K and V × 2 bytes
CLASSES = {"chat": 0.9, "code": 0.99, "search": 0.97}
STEPS = [0.02, 2.0, 0.1, 8.0, 0.02, 8.0, 0.5, 0.1]  # Gbit/s
HOLD_S = 200.0
FACTORS = (0.25, 0.5, 2.0, 4.0)
MISPROFILED_AT = (0.1, 1.0, 3.0)  # Gbit/s
SETTINGS = Settings(quality_budget=0.97)


@dataclass(frozen=True)
class Trace:
    name: str
    played: Played
    at_s: np.ndarray


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--library", type=Path, default=HERE / "replay" / "library.json", help="measured by replay/measure_library.py")
    made.add_argument("--published", type=Path, help="folder of the published figures")
    made.add_argument("--traces", type=Path, help="folder of the Mooncake trace")
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--rounds", type=int, default=2, help="of real transfers; 0: none")
    asked = made.parse_args()
    library = ProfileLibrary.load(asked.library)
    results = []
    for name, runs in (("", traces(library, asked)),):
        results += scores(name, runs)
    results += misprofiled(library, asked.seed)
    results.append(decide_us(library))
    if asked.published is not None:
        results += jct(asked.published)
    if asked.rounds:
        results += latency_model(asked.rounds, lambda line: print(f"  {line}", flush=True))
    publish("controller_replay", results, asked.json)


def traces(library: ProfileLibrary, asked: object) -> list[Trace]:
    seed, folder, figures = asked.seed, asked.traces, asked.published  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    runs = []

    def run(name: str, of: ProfileLibrary, link, requests: Load, settings: Settings = SETTINGS) -> None:  # type: ignore[no-untyped-def]
        print(f"  {name}: {len(requests.requests)} requests", flush=True)
        runs.append(Trace(name, play(of, fates(of, link, requests, seed), link, requests, settings), requests.at_s))

    def some(count: int, spread_s: float, s_per_token: float = 1e-4, hits: float = 0.5, classes: dict[str, float] | None = None) -> Load:  # fmt: skip
        return load(lengths(folder, count, rng), spread_s, TOKEN_BYTES, s_per_token, hits, rng, classes)

    end_s = HOLD_S * len(STEPS)
    run("steps", library, steps([GBIT * rate for rate in STEPS], HOLD_S), some(40 * len(STEPS), end_s))
    run("ramps", library, ramps(0.05 * GBIT, 8 * GBIT, 400.0, end_s), some(300, end_s))
    run("bursts", library, bursts(4 * GBIT, 0.1, end_s, rng), some(300, end_s))
    mixed = Settings(quality_budget=0.97, workload_budgets=CLASSES)
    run("workload_mix", library, ramps(0.05 * GBIT, 8 * GBIT, 400.0, end_s), some(300, end_s, classes=CLASSES), mixed)
    run("steady", library, steady(0.2 * GBIT), some(200, end_s))
    if figures is not None:
        h100, link = published.library(figures), published_trace(figures)
        run("published_trace", h100, link, some(600, 60.0))
        slow = type(link)(link.at_s, link.rate / 10, link.latency_s)
        run("published_trace_tenth", h100, slow, some(600, 60.0))
    return runs


def scores(prefix: str, runs: list[Trace]) -> list[Result]:
    results = []
    for trace in runs:
        note = f"time ÷ the oracle's − 1; {trace.played.vs_best_static:.3f} × the best static choice"
        results.append(Result(f"regret.{trace.name}", trace.played.regret, "share", "lower", note))
        results.append(
            Result(f"vs_best_static.{trace.name}", trace.played.vs_best_static, "ratio", "lower", "total time, allowed by every budget")
        )
    results.append(Result("regret.worst", max(t.played.regret for t in runs), "share", "lower", "of all traces"))
    stepped = next(t for t in runs if t.name == "steps")
    switched = switched_after(stepped.played, stepped.at_s, [HOLD_S * number for number in range(1, len(STEPS))])
    results.append(Result("switch_requests.worst", switched, "requests", "lower", "until one within 5 % of the oracle, over 7 steps"))
    results.append(Result("budget_violations", sum(t.played.violations for t in runs), "requests", "lower", f"of {sum(len(t.at_s) for t in runs)}"))  # fmt: skip
    error = statistics.median(np.concatenate([t.played.model_error for t in runs]).tolist())
    results.append(Result("latency_model.simulated_median_abs_error", error, "share", "lower", "against the simulation's physics"))
    return results


def misprofiled(library: ProfileLibrary, seed: int) -> list[Result]:
    """One stage of one family profiled wrong, on steady links."""
    rng = np.random.default_rng(seed + 1)
    families = {p.strategy: family(p.strategy) for p in library.profiles}
    worst, where, regrets = 0, "", []
    for rate in MISPROFILED_AT:
        link, requests = steady(rate * GBIT), load(np.full(100, 4096.0), 1000.0, TOKEN_BYTES, 1e-4, 0.0, rng)
        found = fates(library, link, requests, seed)
        for name in dict.fromkeys(families.values()):
            for stage in ("encode", "decode"):
                for factor in FACTORS:
                    believed = scaled(library, name, stage, factor, families)
                    played = play(library, found, link, requests, SETTINGS, believed)
                    after = recovered_after(played)
                    regrets.append(played.regret)
                    if after >= worst:
                        worst, where = after, f"{stage} of {name} × {factor:g} at {rate:g} Gbit/s"
    note = f"until every 10 requests are within 5 % of the oracle; {len(regrets)} cases; worst: {where}"
    return [
        Result("misprofile_recovery_requests.worst", worst, "requests", "lower", note),
        Result("misprofile_regret.worst", max(regrets), "share", "lower", "of 100 requests, learning included"),
    ]


def decide_us(library: ProfileLibrary) -> Result:
    """16 candidates, links and sizes that change."""
    assert len(library.profiles) >= 16
    raw = [p for p in library.profiles if p.strategy == "raw"]
    others = [p for p in library.profiles if p.strategy != "raw"][:15]
    controller = Controller(ProfileLibrary(library.model, raw + others, {}), Settings(quality_budget=0.9))
    times = []
    for number in range(4000):
        request, link = Request(10**8 + number, 64, 8192, prefill_s=0.5), LinkEstimate(1e8 * (1 + number % 7), 1e-4, 3)
        start_s = time.perf_counter()
        controller.decide(request, link)
        times.append(time.perf_counter() - start_s)
    return Result("decide_us.median", statistics.median(times) * 1e6, "us", "lower", "16 candidates, full record built")


def jct(folder: Path) -> list[Result]:
    found = published.compare(folder, SETTINGS)
    for each in found:
        print(f"  {each.model} {each.link_gbit_per_s:g} Gbit/s: {each.theirs_s:.3f} → {each.ours_s:.3f} s, unstreamed {each.unstreamed_s:.3f} s, {each.chosen[:40]}")  # fmt: skip
    ratio: Callable[[published.Compared], float] = lambda each: each.ours_s / each.theirs_s  # noqa: E731
    slow = [each for each in found if each.link_gbit_per_s < 25]
    note = "our model ÷ their measured JCT; V and T solved from their raw figures at the two fastest links"
    return [
        Result("published_jct_ratio.worst", max(map(ratio, found)), "ratio", "lower", note),
        Result("published_jct_ratio_below_25gbit.worst", max(map(ratio, slow)), "ratio", "lower", note),
        Result(
            "published_jct_ratio_unstreamed.worst", max(each.unstreamed_s / each.theirs_s for each in found), "ratio",
            "lower", "the same choice without streaming, stages added up: what streaming is worth",
        ),
    ]  # fmt: skip


def latency_model(rounds: int, say: Callable[[str], None]) -> list[Result]:
    samples, kind = transfers.measure(rounds, say)
    errors = [sample.error for sample in samples]
    note = f"{len(samples)} real transfers, {len({s.strategy for s in samples})} strategies, 5 link speeds; {kind}"
    return [
        Result("latency_model.median_abs_error", statistics.median(errors), "share", "lower", note),
        Result("latency_model.p90_abs_error", float(np.quantile(errors, 0.9)), "share", "lower", note),
    ]


if __name__ == "__main__":
    main()
