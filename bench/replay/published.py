"""The published H100 profiles and JCT figures of KVServe (arXiv 2605.13734), and what our model gives in their place.

V and T (raw bytes of a request; compute) are solved from their raw figures at the two fastest links, where no queue shows:
JCT_raw = T + V/B. Theirs at slower links grow faster than V/B (requests queue), ours get no such queue, so their
figures for raw are not used there. Encoding shares the GPU with prefill: all of it is added to T.
Their stage speed is the harmonic mean of encode and decode: each is taken to be as fast as it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from replay.scenarios import GBIT, LATENCY_S
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.records import Request
from tightwire.kv.control.settings import Settings
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.net.estimator import LinkEstimate

# Their pipelines, as the nearest strategy of ours: it names the profile; speed and ratio are theirs.
PIPELINES = {
    "c0": "mixed:high=12,low=6,share=80+rans/mixed:high=10,low=4,share=80+rans",
    "c6": "mixed:high=12,low=6,share=80+zstd/mixed:high=10,low=4,share=80+zstd",
    "c1": "mixed:high=12,low=6,share=70+rans/mixed:high=6,low=4,share=70+rans",
    "c7": "mixed:high=12,low=6,share=70+zstd/mixed:high=6,low=4,share=70+zstd",
    "c4": "hadamard+mixed:high=8,low=8,share=90+rans/hadamard+mixed:high=5,low=4,share=90+rans",
    "c13": "mixed:high=32,low=16,share=80+rans",
    "c15": "mixed:high=32,low=16,share=80+zstd",
}
RAW_COPY_BYTES_PER_S = 1e12  # a copy within the GPU; its exact speed does not show beside the link's
CHUNKS = 64  # one for each layer of the larger model


def library(folder: Path) -> ProfileLibrary:
    profiles = [Profile("raw", 1.0, RAW_COPY_BYTES_PER_S, RAW_COPY_BYTES_PER_S, 1.0)]
    with (folder / "profiles_qwen2.5-7b_qasper_h100.csv").open() as file:
        for row in csv.DictReader(file):
            speed = float(row["stage_speed_mb_per_s"]) * 1e6
            ratio, quality = float(row["compression_ratio"]), float(row["relative_accuracy"])
            profiles.append(Profile(PIPELINES[row["profile"]], ratio, speed, speed, quality))
    return ProfileLibrary("qwen2.5-7b", profiles, {"source": "arXiv 2605.13734, H100, Qasper"})


@dataclass(frozen=True)
class Compared:
    """One model on one link: JCT in seconds. `unstreamed`: ours, were stages added up as theirs are."""

    model: str
    link_gbit_per_s: float
    theirs_s: float
    ours_s: float
    unstreamed_s: float
    chosen: str


def compare(folder: Path, settings: Settings) -> list[Compared]:
    jct: dict[tuple[str, float, str], float] = {}
    with (folder / "jct_by_bandwidth.csv").open() as file:
        for row in csv.DictReader(file):
            jct[row["model"], float(row["link_gbit_per_s"]), row["method"]] = float(row["jct_ms"]) / 1e3
    profiles, found = library(folder), []
    for model in dict.fromkeys(key[0] for key in jct):
        links = sorted({key[1] for key in jct if key[0] == model})
        fast, faster = ((link, jct[model, link, "raw-bf16"]) for link in links[-2:])
        size = (fast[1] - faster[1]) / (1 / (fast[0] * GBIT) - 1 / (faster[0] * GBIT))
        compute_s = faster[1] - size / (faster[0] * GBIT)
        for link in links:
            controller = Controller(profiles, settings)
            estimate = LinkEstimate(link * GBIT, LATENCY_S, 3)
            decision = controller.decide(Request(int(size), CHUNKS, prefill_s=compute_s), estimate)
            assert decision.candidate is not None
            p = decision.candidate.predicted
            encode_s = 0.0 if decision.chosen == "raw" else p.encode_s
            apart = controller.decide(Request(int(size), CHUNKS, streamed=False), estimate).candidate
            assert apart is not None
            added = apart.predicted.encode_s + apart.predicted.wire_s + apart.predicted.decode_s
            found.append(
                Compared(model, link, jct[model, link, "KVServe"], p.total_s + encode_s, compute_s + added, decision.chosen)
            )
    return found
