"""The fault matrix: every class, injected into real jobs on hosts of their own (network namespaces; needs root), random
rank, step and severity by seed; clean jobs with checkpoints, evaluations, uneven data and a noisy neighbour; and what the
watching costs.

Each run is noted beside `--json FILE` in `FILE.runs` as soon as it is over; with `--resume` those are not run again.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import statistics
import subprocess

import msgspec

from drills import cases, costs
from drills.cases import Case, Clean
from drills.costs import Pair
from drills.playing import CLEAN_STEPS, Played, play
from harness import Result, parser, publish
from notes import Notes
from tightwire.ccl import score
from tightwire.ccl.faults.inject import LASTING
from tightwire.ccl.faults.launch import import_ahead


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of `FILE.runs`: what was run and what came of it."""

    seed: int
    case: Case | None = None
    clean: Clean | None = None
    played: Played | None = None
    pair_number: int | None = None
    pair: Pair | None = None


def percentile(values: list[float], share: float) -> float:
    """The smallest value that as many are not above."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def _or_never(value: float | None) -> float:
    return math.inf if value is None else value


def accuracy(notes: list[Noted], seed: int) -> list[Result]:
    with_fault = [(n.case, n.played) for n in notes if n.case is not None and n.played is not None]
    clean = [n.played for n in notes if n.clean is not None and n.played is not None]
    result = score.total([played.outcome for _, played in with_fault])
    hangs = [_or_never(played.took_s) for case, played in with_fault if case.fault not in LASTING]
    slow = [_or_never(played.steps) for case, played in with_fault if case.fault in LASTING]
    cells = len({(case.fault, case.job, case.ranks) for case, _ in with_fault})
    failed = sum(bool(played.error) for _, played in with_fault)
    note = f"seed {seed}, {cells} cells; {failed} runs failed by themselves and count as wrong"
    neighbours = sum(n.clean.noisy for n in notes if n.clean is not None)
    return [
        Result("matrix.runs", result.runs, "runs", "higher", note),
        Result("matrix.class_accuracy", result.class_accuracy, "share", "higher"),
        Result("matrix.location_accuracy", result.location_accuracy, "share", "higher", "exact ranks or links"),
        Result("matrix.high_confidence_wrong", result.high_confidence_wrong, "runs", "lower"),
        Result("clean.runs", len(clean), "runs", "higher", f"{CLEAN_STEPS} steps; {neighbours} with a noisy neighbour"),
        Result("clean.accusations", sum(bool(played.said) for played in clean), "runs", "lower"),
        Result("clean.failed", sum(bool(played.error) for played in clean), "runs", "lower", "ended by themselves"),
        Result("hang.seconds_to_verdict.p95", percentile(hangs, 0.95), "s", "lower", f"{len(hangs)} runs"),
        Result("slow.steps_to_verdict.p95", percentile(slow, 0.95), "steps", "lower", f"{len(slow)} runs"),
    ]


def overhead(pairs: list[Pair], call: tuple[float, float]) -> list[Result]:
    cores = os.cpu_count() or 1
    found = [
        Result("ring.ns_per_event", costs.event_ns(), "ns", "lower", "native writer, called from Python"),
        Result("probe.call_us", call[0], "us", "lower", f"an allreduce and its wait, which take {call[1]:.1f} us"),
    ]
    if not pairs:
        return found
    plain, watched = [each.plain for each in pairs], [each.watched for each in pairs]
    wall, low, high = costs.share_more([c.step_s for c in plain], [c.step_s for c in watched])
    used, used_low, used_high = costs.share_more([c.processor_s for c in plain], [c.processor_s for c in watched])
    events = statistics.median([c.events for c in watched])
    step_s = statistics.median([c.step_s for c in plain])
    counted = events / 2 * call[0] / 1e6 * costs.RANKS / cores / step_s
    job = f"{len(pairs)} pairs of an {costs.RANKS}-rank DDP job, a step of {1e3 * step_s:.1f} ms"
    memory = statistics.median([float(b.resident_bytes - a.resident_bytes) for a, b in zip(plain, watched, strict=True)])
    return [
        *found,
        Result("overhead.step_share", wall, "share", "lower", f"{job}; 95 % interval {low:.4f} to {high:.4f}"),
        Result(
            "overhead.processor_share", used, "share", "lower",
            f"processor time of the ranks in a step; 95 % interval {used_low:.4f} to {used_high:.4f}",
        ),
        Result(
            "overhead.counted_share", counted, "share", "lower",
            f"{events / 2:.1f} calls of each rank in a step × cost, on {cores} cores",
        ),
        Result(
            "agent.core_share", statistics.median([c.agent_share for c in watched]), "share", "lower",
            "of one core, agent and analyzer together, while all ranks run",
        ),
        Result("rank.memory_mb", memory / 1e6, "MB", "lower", "resident memory more than without, median of pairs"),
    ]  # fmt: skip


def told(what: Case | Clean, played: Played) -> str:
    right = played.outcome.class_right and played.outcome.location_right
    line = f"{'right' if right else 'WRONG'} {what} {_or_never(played.took_s):.1f} s, {_or_never(played.steps):.0f} steps; {played.wall_s:.0f} s"
    if not right:
        line += f"\n      {played.error or [(v.anomaly, v.who, v.confidence, v.cause) for v in played.said]}"
    return line


def call_cost() -> tuple[float, float]:
    """In a process of its own: the probe stays in it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(costs.call_cost)


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--runs", type=int, default=200, help="with a fault")
    arguments_parser.add_argument("--clean", type=int, default=40, help="runs without a fault")
    arguments_parser.add_argument("--pairs", type=int, default=10, help="paired runs without and with the probe")
    arguments_parser.add_argument("--seed", type=int, default=1)
    arguments_parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8], help="sizes of the jobs")
    arguments_parser.add_argument("--faults", nargs="+", choices=cases.FAULTS, default=list(cases.FAULTS))
    arguments_parser.add_argument("--jobs", nargs="+", choices=cases.JOBS, default=list(cases.JOBS))
    arguments_parser.add_argument("--resume", action="store_true", help="go on after the runs in FILE.runs")
    arguments = arguments_parser.parse_args()
    seed, file = arguments.seed, arguments.json
    notes = Notes(Noted, file, seed, arguments.resume)
    call = call_cost()
    import_ahead()

    def results() -> list[Result]:
        return [*accuracy(notes.noted, seed), *overhead([n.pair for n in notes.noted if n.pair is not None], call)]

    chosen: list[Case | Clean] = [
        *cases.with_faults(arguments.runs, seed, arguments.ranks, arguments.faults, arguments.jobs),
        *cases.without(arguments.clean, arguments.ranks, arguments.jobs),
    ]
    for each in chosen:
        known = {"case": each} if isinstance(each, Case) else {"clean": each}
        if not notes.has(**known):
            played = play(each)
            notes.add(Noted(seed, played=played, **known))
            print(told(each, played), flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                publish("diagnosis", results(), file)
    for number in range(arguments.pairs):
        if not notes.has(pair_number=number):
            try:
                notes.add(Noted(seed, pair_number=number, pair=costs.pair(number)))
            except (OSError, ValueError, subprocess.SubprocessError) as error:  # it has no times: the job did not get through
                print(f"pair {number} failed: {error}", flush=True)
    ran = {(n.case.fault, n.case.job, n.case.ranks) for n in notes.noted if n.case is not None}
    all_cells = len(cases.FAULTS) * len(cases.JOBS) * 2
    if len(ran) < all_cells:
        print(f"missing: {all_cells - len(ran)} of {all_cells} cells of the matrix (raise --runs)")
    publish("diagnosis", results(), file)


if __name__ == "__main__":
    main()
