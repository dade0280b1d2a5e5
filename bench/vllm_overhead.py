"""What the connector costs a request: a tiny prompt, raw, over loopback, against vLLM's own work for the same tokens.

Own work: prefill computes the prompt to its first token; decode, which has the prompt in its cache, computes one token.
With the connector: both are asked at the same time, from then until decode's first token. The two take turns.

    python bench/vllm_overhead.py --json FILE [--requests 60]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import harness
from harness import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/kv/engines"))
from vllm_host import Engine, prompt

TOKENS, WARMUPS = 65, 5


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--requests", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(args, Path(folder))
    harness.publish("vllm_overhead", results, args.json)


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    own_s, extra_s, copy_s = [], [], 0.0
    with (
        Engine(folder / "decode.log", role="kv_consumer", extra={"timeout_s": 30}, block_size=64) as decode,
        Engine(
            folder / "prefill.log", role="kv_producer", extra={"endpoint": decode.endpoint}, block_size=32
        ) as prefill,
    ):
        for number in range(-WARMUPS, args.requests):
            ids = prompt(50_000 + number, TOKENS)
            alone = [prefill.run(ids, 1)]
            prefill.ask(forget=True)
            params = {"transfer_id": f"cost-{number}"}
            before_s = prefill.stats()["copy_seconds"]
            decode.add(f"{number}", ids, 1, params)
            prefill.add(f"{number}", ids, 1, params)
            got, sent = decode.wait(f"{number}"), prefill.wait(f"{number}")
            alone.append(decode.run(ids, 1))  # its whole blocks are in vLLM's cache now
            if number >= 0:
                own = sum(done["first_s"] - done["start_s"] for done in alone)
                own_s.append(own)
                extra_s.append(got["first_s"] - min(got["start_s"], sent["start_s"]) - own)
                copy_s += prefill.stats()["copy_seconds"] - before_s
        failed = decode.stats()["loads_failed"] + prefill.stats()["sends_failed"]
    note = f"{args.requests} requests of {TOKENS} tokens; vLLM's own work takes {statistics.median(own_s) * 1e3:.1f} ms"
    return [
        Result("fixed_cost_ms.median", statistics.median(extra_s) * 1e3, "ms", "lower", note),
        Result("fixed_cost_ms.p90", statistics.quantiles(extra_s, n=10)[-1] * 1e3, "ms", "lower"),
        Result(
            "copies_ms.mean", copy_s / args.requests * 1e3, "ms", "lower", "of it, prefill's thread waits for copies"
        ),
        Result("failed", failed, "requests", "lower"),
    ]


if __name__ == "__main__":
    main()
