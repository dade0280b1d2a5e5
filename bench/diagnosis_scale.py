"""Thousands of ranks: seeded incidents of every class with one to three simultaneous faults in simulated clusters, hours in
which nothing is wrong, and what the collector costs.

Each part is noted beside `--json FILE` in `FILE.runs` as soon as it is over; with `--resume` those are not run again.

    python bench/diagnosis_scale.py --json FILE --seed S --incidents 300 --hours 24
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import msgspec

from harness import Report, Result, parser, publish
from notes import Notes
from scale import cases, clean, costs, figure, playing
from scale.cases import Case
from scale.clean import Hour, Spent
from scale.costs import Cost
from scale.playing import Played
from tightwire.ccl import score


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of `FILE.runs`: what was run and what came of it."""

    seed: int
    case: Case | None = None
    played: Played | None = None
    hour: Hour | None = None
    spent: Spent | None = None
    size: int | None = None
    cost: Cost | None = None


def main() -> None:
    arguments = _arguments()
    seed, file = arguments.seed, arguments.json
    notes = Notes(Noted, file, seed, arguments.resume)
    for size in arguments.sizes:
        if not notes.has(size=size):
            notes.add(Noted(seed, size=size, cost=costs.measure(size, seed)))
            print(notes.noted[-1].cost, flush=True)
    for ranks, count in zip(arguments.ranks, arguments.incidents, strict=True):
        _play(
            [each for each in cases.incidents(ranks, count, seed, arguments.classes) if not notes.has(case=each)],
            notes,
            seed,
        )
    for number in range(arguments.hours):
        hour = Hour(number, arguments.clean_ranks)
        if not notes.has(hour=hour):
            notes.add(Noted(seed, hour=hour, spent=clean.spend(hour, seed)))
            print(hour, notes.noted[-1].spent, flush=True)
    measured = [each.cost for each in notes.noted if each.cost is not None]
    others = [each for path in arguments.beside for each in msgspec.json.decode(path.read_bytes(), type=Report).results]
    taken = [each for each in others if each.name in ("dumps.location_accuracy", "plugin.ns_per_event")]
    publish("diagnosis_scale", [*_accuracy(notes.noted), *_clean(notes.noted), *_cost(measured), *taken], file)
    if arguments.plot is not None:
        figure.save(measured, arguments.plot)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument(
        "--ranks", type=int, nargs="*", default=[4096, 16384], choices=list(cases.LAYOUTS), help="sizes of the clusters"
    )
    made.add_argument("--incidents", type=int, nargs="*", default=[200, 100], help="of each size")
    made.add_argument("--classes", nargs="+", default=cases.ANOMALIES, choices=cases.ANOMALIES, help="of incidents")
    made.add_argument("--hours", type=int, default=24, help="in which nothing is wrong, each a job of its own")
    made.add_argument("--clean-ranks", type=int, default=1024, choices=list(cases.LAYOUTS), help="of those jobs")
    made.add_argument("--sizes", type=int, nargs="*", default=list(costs.SIZES), help="at which the cost is measured")
    made.add_argument(
        "--beside",
        type=Path,
        nargs="*",
        default=[],
        help="results of flight_recorder.py and nccl_plugin.py, taken over",
    )
    made.add_argument("--plot", type=Path, help="a picture of the cost")
    made.add_argument("--resume", action="store_true", help="go on after the parts in FILE.runs")
    arguments = made.parse_args()
    if len(arguments.ranks) != len(arguments.incidents):
        made.error(f"--ranks gives {len(arguments.ranks)} sizes, --incidents {len(arguments.incidents)} counts")
    return arguments


def _play(left: list[Case], notes: Notes[Noted], seed: int) -> None:
    """Those of one cluster after the other: its first steps are run once."""
    for ranks, layout in sorted({(each.ranks, each.layout) for each in left}):
        watched = playing.warm(cases.LAYOUTS[ranks][layout], seed)
        for case in (each for each in left if (each.ranks, each.layout) == (ranks, layout)):
            played = playing.play(watched, case, seed * 100_000 + case.number)
            notes.add(Noted(seed, case=case, played=played))
            right = played.outcome.class_right and played.outcome.location_right
            print(
                f"{'right' if right else 'WRONG'} {case.anomaly} {ranks} {case.number} {played.wall_s:.0f} s",
                flush=True,
            )
            if not right:
                print(
                    f"      {case.faults}\n      {played.error or [(v.anomaly, v.who, v.cause) for v in played.said]}",
                    flush=True,
                )


def _accuracy(noted: list[Noted]) -> list[Result]:
    done = [(each.case, each.played) for each in noted if each.case is not None and each.played is not None]
    found = []
    for ranks in sorted({case.ranks for case, _ in done}):
        mine = [(case, played) for case, played in done if case.ranks == ranks]
        result = score.total([played.outcome for _, played in mine])
        several = sum(len(case.faults) > 1 for case, _ in mine)
        note = f"{result.runs} incidents, {several} of them with two or three faults"
        found += [
            Result(f"r{ranks}.class_accuracy", result.class_accuracy, "share", "higher", note),
            Result(
                f"r{ranks}.location_accuracy",
                result.location_accuracy,
                "share",
                "higher",
                "exact set of ranks and links",
            ),
            Result(f"r{ranks}.high_confidence_wrong", result.high_confidence_wrong, "incidents", "lower"),
        ]
    looks = [spent_s for _, played in done for spent_s in played.verdict_s]
    records = [played.capture_s for _, played in done]
    return [
        *found,
        Result("incidents", len(done), "", "higher"),
        Result("verdict_s.p95", _percentile(looks, 0.95), "s", "lower", "processor time of the look that ends in a verdict"),
        Result("capture_s.p95", _percentile(records, 0.95), "s", "lower", "the incident's record, after the verdict"),
    ]  # fmt: skip


def _clean(noted: list[Noted]) -> list[Result]:
    spent = [(each.hour, each.spent) for each in noted if each.hour is not None and each.spent is not None]
    hours = sum(each.simulated_s for _, each in spent) / 3600
    alarms = sum(len(each.said) for _, each in spent)
    steps, ranks = sum(each.steps for _, each in spent), sorted({hour.ranks for hour, _ in spent})
    note = f"{hours:.1f} simulated hours: {len(spent)} jobs of an hour, of {ranks} ranks, {steps} steps"
    if not spent:
        return []
    name = "clean24h.false_alarms" if hours >= 24 else "clean.false_alarms"
    return [Result(name, alarms, "verdicts", "lower", note), Result("clean.hours", hours, "h", "higher")]


def _cost(measured: list[Cost]) -> list[Result]:
    found = []
    for each in sorted(measured, key=lambda each: each.ranks):
        note = f"{each.calls_per_rank_s:.0f} calls of each rank in a second"
        found.append(Result(f"r{each.ranks}.realtime_factor", 1 / each.second_s, "×", "higher", note))
        found.append(Result(f"r{each.ranks}.memory_gb", each.memory_gb, "GB", "lower"))
    at = next((each for each in measured if each.ranks == 16384), None)
    if at is not None:
        wire = f"reports of hosts of 8 ranks; {at.idle_bytes_per_rank_sweep:.0f} where nothing changed"
        found += [
            Result(
                "ingest.realtime_factor", 1 / at.second_s, "×", "higher", "16,384 ranks, a summary a second, one core"
            ),
            Result("memory_gb", at.memory_gb, "GB", "lower", "the collector's process, 16,384 ranks"),
            Result("wire.bytes_per_rank_sweep", at.bytes_per_rank_sweep, "bytes", "lower", wire),
            Result(
                "wire.idle_bytes_per_rank_sweep", at.idle_bytes_per_rank_sweep, "bytes", "lower", "while the job hangs"
            ),
        ]
    return found


def _percentile(values: list[float], share: float) -> float:
    """The smallest value that as many are not above."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


if __name__ == "__main__":
    main()
