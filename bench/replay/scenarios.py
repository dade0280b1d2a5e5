"""Links over time and requests over time."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replay.physics import CHUNK_TOKENS, F64, Timeline
from tightwire.kv.control.records import Request

GBIT = 1e9 / 8
LATENCY_S = 1e-4
PREFILL_ERROR = 0.05  # of what the engine expects of itself


@dataclass(frozen=True)
class Load:
    """When each request comes, what the controller is told, and the prefill that it really takes."""

    at_s: F64
    requests: list[Request]
    prefill_s: F64


def steady(rate: float) -> Timeline:
    return Timeline(np.array([0.0]), np.array([rate]), LATENCY_S)


def steps(rates: list[float], hold_s: float) -> Timeline:
    return Timeline(np.arange(len(rates)) * hold_s, np.array(rates), LATENCY_S)


def ramps(low: float, high: float, period_s: float, end_s: float) -> Timeline:
    """Up and down on a logarithmic scale."""
    at_s = np.arange(0, end_s, period_s / 200)
    phase = np.abs((at_s / period_s * 2) % 2 - 1)
    return Timeline(at_s, low * (high / low) ** phase, LATENCY_S)


def bursts(rate: float, share: float, end_s: float, rng: np.random.Generator) -> Timeline:
    """Others take all but `share` of the link, for times and at times that are exponential."""
    at_s, rates, now_s = [0.0], [rate], 0.0
    while now_s < end_s:
        for mean_s, speed in ((20.0, rate * share), (6.0, rate)):
            now_s += rng.exponential(mean_s)
            at_s.append(now_s)
            rates.append(speed)
    return Timeline(np.array(at_s), np.array(rates), LATENCY_S)


def published_trace(folder: Path) -> Timeline:
    with (folder / "bandwidth_over_time.csv").open() as file:
        rows = [(float(row["time_s"]), float(row["link_gbit_per_s"]) * GBIT) for row in csv.DictReader(file)]
    return Timeline(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), LATENCY_S)


def lengths(traces: Path | None, count: int, rng: np.random.Generator) -> F64:
    """Prompt lengths in tokens: the Mooncake trace's, else lognormal ones like them; 256 to 16,384."""
    if traces is not None:
        with (traces / "mooncake_conversation.jsonl").open() as file:
            found = [json.loads(line)["input_length"] for line in file]
        chosen = rng.choice(np.array(found, float), count)
    else:
        chosen = np.exp(rng.normal(8.9, 1.0, count))
    return np.clip(chosen, 256, 16384)


def load(tokens: F64, spread_s: float, token_bytes: int, s_per_token: float, hits: float, rng: np.random.Generator, classes: dict[str, float] | None = None) -> Load:  # fmt: skip
    """Requests of these lengths, evenly over `spread_s`; the share `hits` needs no prefill; `classes` in turn by chance."""
    prefill_s = np.where(rng.random(len(tokens)) < hits, 0.0, tokens * s_per_token)
    told = prefill_s * np.exp(rng.normal(0, PREFILL_ERROR, len(tokens)))
    names = list(classes) if classes else [None]
    requests = [
        Request(
            int(size) * token_bytes, -(-int(size) // CHUNK_TOKENS), int(size), float(expected),
            workload=names[int(rng.integers(len(names)))],
        )
        for size, expected in zip(tokens, told, strict=True)
    ]  # fmt: skip
    return Load(np.linspace(0, spread_s, len(tokens), endpoint=False), requests, prefill_s)
