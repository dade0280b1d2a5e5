"""Runs the demo and turns it into records."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from tightwire.core.records import Bars, Page, Table
from tightwire.core.units import format_rate, format_size, format_time
from tightwire.kv import refmodel
from tightwire.kv.demo import fleet
from tightwire.kv.demo.messages import Calibrate, Calibrated, Decode, Decoded, Prefill, Sent
from tightwire.kv.profiles import Profile
from tightwire.kv.quality import common_prefix
from tightwire.kv.strategy import Strategy

FIXED = "hadamard+uniform:levels=16+pack"
CANDIDATES = (
    "raw",
    "hadamard+uniform:levels=256+pack",
    FIXED,
    "hadamard+uniform:levels=16+zstd/hadamard+uniform:levels=8+zstd",
    "hadamard+uniform:levels=10+zstd",
)
RATES_BYTES_PER_S: tuple[float | None, ...] = (2e6 / 8, 20e6 / 8, None)
MODES = ("raw", "fixed", "auto")
CONTINUATION = 16


@dataclass(frozen=True)
class Run:
    """One request as measured, all times in seconds since it was submitted."""

    rate_bytes_per_s: float | None
    mode: str
    prefill_s: float
    first_token_s: float
    done_s: float
    ratio: float
    agreement: float
    strategy: str
    reason: str
    raw_wire_s: float


@dataclass(frozen=True)
class Outcome:
    runs: list[Run]
    profiles: list[Profile]
    link: str
    measured: dict[float | None, float]


def run(
    prompts: list[list[int]], calibration: list[list[int]], say: Callable[[str], None], userspace: bool = False
) -> Outcome:
    """The demo itself: every mode on every link for every prompt (token ids). `say` reports progress."""
    runs: list[Run] = []
    measured: dict[float | None, float] = {}
    with fleet.start(refmodel.path(), userspace=userspace) as workers:
        say("both workers are up; measuring the candidate strategies on this model and machine")
        calibrated = workers.prefill.ask(Calibrate(calibration, list(CANDIDATES)))
        assert isinstance(calibrated, Calibrated)
        baselines = []
        for ids in prompts:
            local = workers.decode.ask(Decode(None, ids, CONTINUATION))
            assert isinstance(local, Decoded)
            baselines.append(local.tokens)
        for rate in RATES_BYTES_PER_S:
            measured[rate] = workers.set_rate(rate)
            say(f"link {_name(rate)}: the sender measures {format_rate(measured[rate])}")
            for index, ids in enumerate(prompts):
                # The modes take turns within a prompt: what disturbs the machine disturbs all of them.
                for mode in MODES:
                    say(f"link {_name(rate)}: prompt {index + 1} of {len(prompts)}, {mode}")
                    runs.append(_one(workers, rate, mode, ids, baselines[index], measured[rate]))
        return Outcome(runs, calibrated.profiles, workers.kind, measured)


def _one(workers: fleet.Fleet, rate: float | None, mode: str, ids: list[int], baseline: list[int], link: float) -> Run:
    name = f"{mode}-{time.monotonic_ns()}"
    strategy = {"raw": "raw", "fixed": FIXED, "auto": "auto"}[mode]
    start_s = time.monotonic()
    workers.decode.tell(Decode(name, ids, CONTINUATION))
    workers.prefill.tell(Prefill(name, ids, strategy))
    sent, decoded = workers.prefill.reply(), workers.decode.reply()
    assert isinstance(sent, Sent)
    assert isinstance(decoded, Decoded)
    return Run(
        rate, mode, sent.prefill_s, decoded.first_token_at_s - start_s, decoded.done_at_s - start_s,
        sent.raw_bytes / max(sent.wire_bytes, 1), common_prefix(baseline, decoded.tokens), sent.strategy,
        decoded.error or (sent.decision.reason if sent.decision else ""), sent.raw_bytes / link,
    )  # fmt: skip


def summarise(outcome: Outcome) -> Page:
    """Tables and a picture: medians over the prompts."""
    rows, reasons = [], []
    for rate in RATES_BYTES_PER_S:
        raw_jct = _median(outcome, rate, "raw", "done_s")
        for mode in MODES:
            of = [r for r in outcome.runs if (r.rate_bytes_per_s, r.mode) == (rate, mode)]
            jct = _median(outcome, rate, mode, "done_s")
            rho = statistics.median(r.raw_wire_s / (r.done_s - r.first_token_s + r.prefill_s) for r in of)
            rows.append(
                [
                    _name(rate), f"{rho:.2g}", mode, format_time(_median(outcome, rate, mode, "first_token_s")),
                    format_time(jct), f"{raw_jct / jct:.2f}×", f"{_median(outcome, rate, mode, 'ratio'):.2f}",
                    f"{100 * statistics.mean(r.agreement for r in of):.0f} %", _short(of[-1].strategy),
                ]
            )  # fmt: skip
            if mode == "auto":
                reasons.append([_name(rate), _short(of[-1].strategy), of[-1].reason])
    main = Table(
        "KV transfer from a prefill to a decode process",
        ["link", "ρ", "mode", "TTFT", "JCT", "vs raw", "ratio", "same output", "strategy"],
        rows,
        ["ρ", "TTFT", "JCT", "vs raw", "ratio", "same output"],
        [
            f"link: {outcome.link}; medians over {len(outcome.runs) // 9} prompts; ρ = raw wire time ÷ compute time",
            "same output: share of the continuation, up to its first difference, that equals the one without a transfer",
        ],
    )
    why = Table("What auto chose and why", ["link", "strategy", "reason"], reasons)
    profiles = Table(
        "What was measured about the candidates at start-up",
        ["strategy", "ratio", "encode", "decode", "quality"],
        [
            [_short(p.strategy), f"{p.ratio:.2f}", f"{format_size(p.encode_bytes_per_s)}/s", f"{format_size(p.decode_bytes_per_s)}/s", f"{p.quality:.3f}"]
            for p in outcome.profiles
        ],
        ["ratio", "encode", "decode", "quality"],
        ["settings at their defaults are not shown; quality: p(chosen) ÷ p(best) under raw KV, mean over the answers to calibration prompts; auto needs 0.97"],
    )  # fmt: skip
    bars = Bars(
        "Job completion time", "seconds", [_name(rate) for rate in RATES_BYTES_PER_S], list(MODES),
        [[_median(outcome, rate, mode, "done_s") for rate in RATES_BYTES_PER_S] for mode in MODES], log=True,
    )  # fmt: skip
    introduction = (
        "The KV cache of real prompts is sent from a prefill process to a decode process. Raw sends it as it is, "
        "fixed always uses one strategy, auto measures the link and chooses."
    )
    return Page("tightwire kv demo", introduction, [main, bars, why, profiles])


def _median(outcome: Outcome, rate: float | None, mode: str, field: str) -> float:
    return statistics.median(
        float(getattr(r, field)) for r in outcome.runs if (r.rate_bytes_per_s, r.mode) == (rate, mode)
    )


def _short(strategy: str) -> str:
    return Strategy.parse(strategy).short


def _name(rate: float | None) -> str:
    return "unshaped" if rate is None else format_rate(rate)
