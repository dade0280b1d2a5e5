"""Job completion time and time to first token against ρ = raw wire time ÷ compute time, on real vLLM processes.

Two hosts, each a vLLM engine on a core of its own in a network namespace; the link between them is a token bucket.
Prefill pushes to decode, as raw, under three published presets and under `auto`; `unstreamed` is raw sent after the
prefill, the papers' baseline. Then a prefix store (Redis) behind the same link. Needs root (namespaces) and, for the
second part, `redis-server`.

    python bench/serving_sweep.py --json FILE [--trace mooncake_conversation.jsonl] [--requests 5] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import harness
from harness import Result
from serving import requests
from serving.host import Answer, Host
from tightwire.kv import refmodel
from tightwire.kv.control import log
from tightwire.kv.presets import presets
from tightwire.kv.store.keys import TAIL_TOKENS
from tightwire.net import testbed

RHOS = (0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0)
STATIC = ("quarot-4", "kvquant-3", "kvserve-mixed-80")
MODES = ("raw", *STATIC, "auto")
FAST_ROUNDS = 40  # where the wire hardly counts, differences are small and requests are short
SETTLING = 2  # requests after a change of the link that are not counted, of every mode
BUDGET = 0.97
MAX_LEN, STEP_TOKENS = 4096, 128
KV_BYTES_PER_TOKEN = 2 * 4 * 2 * 64 * 2
PREFIX_TOKENS, PREFIX_SHARE = 3800, 0.27


@dataclass
class Timing:
    ttft_s: list[float] = field(default_factory=list)
    jct_s: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def add(self, start_s: float, answer: Answer, job: requests.Job) -> None:
        self.ttft_s.append(answer.first_s - start_s)
        self.jct_s.append(answer.done_s - start_s)
        self.right.append(job.right(answer.tokens))


def library(work: Path, budget: int) -> Path:
    """The profile of the reference model on this machine; made once in `work`."""
    path = work / "library.json"
    if not path.exists():
        command = ["kv", "profile", "--budget", str(budget), "--quality", str(BUDGET), "--out", str(path)]
        subprocess.run([sys.executable, "-m", "tightwire.cli", *command], check=True)
    os.environ["TIGHTWIRE_TABLES"] = str(path.with_suffix(".tables"))
    return path


def parameters(name: str, mode: str) -> dict[str, Any]:
    strategies = presets()
    if mode == "unstreamed":
        return {"transfer_id": name, "strategy": "raw", "stream": False}
    if mode in strategies:
        return {"transfer_id": name, "strategy": str(strategies[mode].strategy)}
    return {"transfer_id": name, "strategy": mode}


def alone(host: Host, jobs: list[requests.Job]) -> Timing:
    """The jobs on one engine, without a transfer."""
    timing = Timing()
    for number, job in enumerate(jobs):
        host.forget()
        start_s = time.monotonic()
        host.add(f"alone-{number}", job.ids, job.count)
        timing.add(start_s, host.wait(f"alone-{number}"), job)
    return timing


class Sweep:
    """Both hosts and the link between them."""

    def __init__(self, console: Console, bed: testbed.Testbed, prefill: Host, decode: Host, decisions: Path) -> None:
        self._console, self._bed, self._prefill, self._decode = console, bed, prefill, decode
        self._decisions, self._order = decisions, random.Random(1)
        self.chosen = "raw"

    def one(self, mode: str, job: requests.Job) -> tuple[float, Answer]:
        """One job through both hosts; (when it was submitted, the answer of decode)."""
        for host in (self._prefill, self._decode):
            host.forget()
        name = f"{mode}-{time.monotonic_ns()}"
        params = parameters(name, mode)
        start_s = time.monotonic()
        self._decode.add(name, job.ids, job.count, params)
        self._prefill.add(name, job.ids, 1, params)
        answer = self._decode.wait(name)
        self._prefill.wait(name)
        return start_s, answer

    def run(self, jobs: list[requests.Job], rhos: list[float]) -> dict[float, dict[str, Timing]]:
        """Timings by ρ and mode."""
        self._bed.set_rate(None)
        for mode in (*MODES, "unstreamed"):
            self.one(mode, jobs[0])  # first use: code is compiled and tables are read
        alone(self._decode, jobs[:1])
        compute_s = statistics.mean(alone(self._decode, jobs).jct_s)
        raw_bytes = statistics.mean(len(job.ids) for job in jobs) * KV_BYTES_PER_TOKEN
        self._console.print(f"compute {compute_s:.2f} s and {raw_bytes / 1e6:.2f} MB of KV a request, on average")
        found: dict[float, dict[str, Timing]] = {}
        for rho in rhos:
            self._bed.set_rate(raw_bytes / (rho * compute_s))
            modes = (*MODES, "unstreamed") if rho == 10.0 else MODES
            found[rho] = defaultdict(Timing)
            for _ in range(SETTLING):
                self.one("auto", jobs[0])
            for job in jobs * (FAST_ROUNDS if rho < 1 else 1):
                # The modes take turns within a job, in any order: what disturbs the machine disturbs all of them.
                for mode in self._order.sample(modes, len(modes)):
                    start_s, answer = self.one(mode, job)
                    found[rho][mode].add(start_s, answer, job)
            chosen = self.last_choice()
            told = "  ".join(f"{mode} {statistics.median(found[rho][mode].jct_s):.2f}" for mode in modes)
            self._console.print(f"ρ {rho:g}: JCT in s: {told}; auto: {chosen}", highlight=False)
            if rho == 10.0:
                self.chosen = chosen
        return found

    def last_choice(self) -> str:
        """What auto took last."""
        (record,) = log.read(self._decisions, 1)
        return record.decision.chosen

    def quality(self, count: int, seed: int) -> list[Result]:
        """Answers under the strategy that auto took at ρ = 10, against those without a transfer, on other prompts."""
        self._bed.set_rate(None)
        jobs = requests.make([600] * count, seed + 7)
        right = {
            "raw": [self.one("raw", job)[1] for job in jobs],
            "auto": [self.one(self.chosen, job)[1] for job in jobs],
        }
        score = {mode: sum(job.right(a.tokens) for job, a in zip(jobs, each, strict=True)) for mode, each in right.items()}
        note = f"{score['auto']} of {score['raw']} answers that raw KV gives right, {count} prompts; {self.chosen}"
        return [Result("relative_quality_at_rho10", score["auto"] / max(score["raw"], 1), "x", "higher", note)]

    def fixed_cost(self, count: int, seed: int) -> list[Result]:
        """What the connector adds to a short request whose bytes cost nothing: raw KV of 64 tokens, no limit."""
        self._bed.set_rate(None)
        jobs = requests.make([64] * count, seed + 5, output=1)
        prefill, decode, both = [], [], []
        for job in jobs:
            timing = alone(self._prefill, [job])
            prefill.append(timing.ttft_s[0])
            decode.append(alone(self._decode, [requests.Job(job.ids[-1:], 1, [])]).ttft_s[0])
            start_s, answer = self.one("raw", job)
            both.append(answer.first_s - start_s)
        cost = [b - p - d for b, p, d in zip(both, prefill, decode, strict=True)]
        return [
            Result(
                "fixed_cost_ms.median", statistics.median(cost) * 1e3, "ms", "lower",
                "TTFT through both hosts less a prefill and a step of one token on one; 64 tokens, unshaped",
            )
        ]  # fmt: skip

    def recompute(self, count: int, seed: int) -> Timing:
        """Time to first token of long prompts without any transfer."""
        warm(self._decode)
        return alone(self._decode, requests.make([PREFIX_TOKENS] * count, seed + 11, output=1))


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--trace", type=Path, help="prompt lengths from this trace; otherwise drawn by --seed")
    parser.add_argument("--requests", type=int, default=5, help="of each mode at each ρ; forty times as many below ρ = 1")
    parser.add_argument("--tokens", type=int, default=1000, help="mean prompt length")
    parser.add_argument("--rho", type=float, nargs="*", default=list(RHOS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile-budget", type=int, default=60, help="measurements of quality for the library")
    parser.add_argument("--quality-requests", type=int, default=60)
    parser.add_argument("--work", type=Path, help="where the library and the logs are kept; otherwise temporary")
    parser.add_argument("--skip-prefix", action="store_true")
    args = parser.parse_args()
    if (reason := testbed.available()) is not None:
        raise SystemExit(f"serving_sweep needs network namespaces: {reason}")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = run(args, work.resolve())
    harness.publish("serving_sweep", results, args.json)


def run(args: argparse.Namespace, work: Path) -> list[Result]:
    console = Console()
    profiles = library(work, args.profile_budget)
    sizes = requests.lengths(args.trace, args.requests, args.tokens, MAX_LEN // 2, args.seed)
    jobs = requests.make(sizes, args.seed)
    common = {"model": str(refmodel.path()), "max_len": MAX_LEN, "step_tokens": STEP_TOKENS}
    decisions = work / "decisions.jsonl"
    decisions.unlink(missing_ok=True)
    auto = {"strategy": "auto", "decisions": str(decisions), "library": str(profiles), "quality_budget": BUDGET, "timeout_s": 300}
    cores = sorted(os.sched_getaffinity(0))
    results: list[Result] = []
    with testbed.Testbed() as bed:
        with (
            Host(
                work / "decode.log", **common, namespace=bed.receiver, cores=cores[-1:],
                transfer={"kv_role": "kv_consumer", "kv_connector_extra_config": {
                    "bind": f"tcp://{bed.receiver_address}:*", "insecure": True, "timeout_s": 300}},
            ) as decode,
            Host(
                work / "prefill.log", **common, namespace=bed.sender, cores=cores[:1],
                transfer={"kv_role": "kv_producer", "kv_connector_extra_config": {"endpoint": decode.endpoint, **auto}},
            ) as prefill,
        ):  # fmt: skip
            sweep = Sweep(console, bed, prefill, decode, decisions)
            found = sweep.run(jobs, args.rho)
            results += separation_results(found)
            if 10.0 in args.rho:
                results += sweep.quality(args.quality_requests, args.seed)
            results += sweep.fixed_cost(args.requests * 4, args.seed)
            recompute = sweep.recompute(args.requests, args.seed)
        if not args.skip_prefix:
            with store(work, bed) as url:
                found = {}
                for mode in MODES:
                    extra = {"store": url, "strategy": mode, "library": str(profiles), "quality_budget": BUDGET}
                    host = Host(
                        work / "prefix.log", **common, namespace=bed.receiver, cores=cores[-1:],
                        transfer={"kv_role": "kv_both", "kv_connector_extra_config": extra},
                    )  # fmt: skip
                    with host:
                        found[mode] = prefix(bed, host, statistics.median(recompute.ttft_s), 3 * args.requests, args.seed)
            results += prefix_results(console, found, recompute)
    return results


def separation_results(found: dict[float, dict[str, Timing]]) -> list[Result]:
    """The figures of the sweep, and its table printed."""
    table = Table(title="job completion time in s (TTFT in s), medians")
    table.add_column("ρ", justify="right")
    modes = (*MODES, "unstreamed")
    for mode in modes:
        table.add_column(mode, justify="right")
    share = {}
    for rho, timings in found.items():
        jct = {mode: statistics.median(timing.jct_s) for mode, timing in timings.items()}
        best = min(jct[mode] for mode in ("raw", *STATIC))
        share[rho] = jct["auto"] / best
        cells = [f"{jct[m]:.3f} ({statistics.median(timings[m].ttft_s):.3f})" if m in jct else "" for m in modes]
        table.add_row(f"{rho:g}", *cells)
    Console().print(table)
    worst = max(share, key=lambda rho: share[rho])
    results = [
        Result("auto_vs_best_other.worst", share[worst], "x", "lower", f"at ρ={worst:g}; best of raw and static presets")
    ]
    if 10.0 in found:
        jct = {mode: statistics.median(timing.jct_s) for mode, timing in found[10.0].items()}
        static = min(STATIC, key=lambda mode: jct[mode])
        results += [
            Result("jct_vs_raw_at_rho10", jct["unstreamed"] / jct["auto"], "x", "higher", "raw sent after the prefill"),
            Result("jct_vs_streamed_raw_at_rho10", jct["raw"] / jct["auto"], "x", "higher", "raw sent while it is computed"),
            Result("jct_vs_best_static_at_rho10", jct[static] / jct["auto"], "x", "higher", static),
        ]
    return results


@contextmanager
def store(work: Path, bed: testbed.Testbed) -> Iterator[str]:
    """A Redis server at the sending end of the link."""
    port = 6390
    command = ["ip", "netns", "exec", bed.sender, "redis-server", "--port", str(port), "--bind", bed.sender_address,
               "--save", "", "--protected-mode", "no", "--dir", str(work)]  # fmt: skip
    with (work / "redis.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            time.sleep(1.0)
            if server.poll() is not None:
                raise SystemExit(f"redis-server did not start; see {work / 'redis.log'}")
            yield f"redis://{bed.sender_address}:{port}/0"
        finally:
            server.terminate()
            server.wait()


def warm(host: Host) -> None:
    """Prompts of each number of tokens that a load may leave to the engine: its first step of a size takes 5 ms more."""
    for tokens in range(1, TAIL_TOKENS + 1):
        host.add(f"warm-{tokens}", list(range(3, 3 + tokens)), 1)
        host.wait(f"warm-{tokens}")


def prefix(bed: testbed.Testbed, host: Host, recompute_s: float, count: int, seed: int) -> Timing:
    """Time to first token when a stored prefix is loaded over a link on which raw takes 0.27 of its recomputation. The
    first load is not counted: it opens connections."""
    jobs = requests.make([PREFIX_TOKENS] * (count + 1), seed + 11, output=1)
    raw_bytes = statistics.mean(len(job.ids) for job in jobs) * KV_BYTES_PER_TOKEN
    timing = Timing()
    warm(host)
    bed.set_rate(raw_bytes / (PREFIX_SHARE * recompute_s))
    for number, job in enumerate(jobs):
        host.forget()
        host.add(f"save-{number}", job.ids, 1)
        host.wait(f"save-{number}")
        host.settle()
        host.forget()
        start_s = time.monotonic()
        host.add(f"load-{number}", job.ids, 1)
        answer = host.wait(f"load-{number}")
        if number:
            timing.add(start_s, answer, job)
    return timing


def prefix_results(console: Console, found: dict[str, Timing], recompute: Timing) -> list[Result]:
    recompute_s = statistics.median(recompute.ttft_s)
    ttft = {mode: statistics.median(timing.ttft_s) for mode, timing in found.items()}
    told = "  ".join(f"{mode} {seconds:.3f}" for mode, seconds in ttft.items())
    console.print(f"prefix hit, TTFT in s: recompute {recompute_s:.3f}  {told}", highlight=False)
    note = f"{PREFIX_TOKENS} tokens, recompute {recompute_s:.2f} s; raw {recompute_s / ttft['raw']:.1f}x"
    return [Result("ttft_vs_recompute_at_0.27", recompute_s / ttft["auto"], "x", "higher", note)]


if __name__ == "__main__":
    main()
