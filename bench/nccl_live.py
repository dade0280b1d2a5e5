"""The NCCL profiler plugin under NCCL itself: what it costs a job of several ranks on one GPU, and what it saw.

Each rank says that it is on a host of its own (NCCL_HOSTID): NCCL then takes ranks that share a GPU and joins them by sockets,
through its proxy threads, where the plugin has the most to do. The reference is the same job without a plugin; jobs of both
kinds take turns. Without a GPU nothing is measured.

    python bench/nccl_live.py --ranks 2 --pairs 5 --json FILE
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import harness
from harness import Result
from tightwire.ccl.sources import nccl_plugin

SIZES = {"4KiB": (1024, 200), "1MiB": (2**18, 100), "64MiB": (2**24, 10)}  # fp32 values of an all_reduce, how many
WARMUPS = 5
VARIABLES = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"}


def rank_main(store: str, rank: int, ranks: int) -> None:
    """A rank: all_reduce of each size; rank 0 prints seconds for each, and NCCL's version."""
    import torch.distributed as dist

    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=ranks)
    took = {}
    for name, (values, times) in SIZES.items():
        x = torch.ones(values, device="cuda")
        for _ in range(WARMUPS):
            dist.all_reduce(x)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            dist.all_reduce(x)
        torch.cuda.synchronize()
        took[name] = (time.perf_counter() - start) / times
    if rank == 0:
        print(json.dumps({"took": took, "nccl": ".".join(map(str, torch.cuda.nccl.version()))}))
    dist.barrier()
    dist.destroy_process_group()


def job(folder: Path, ranks: int, plugin: bool) -> dict[str, object]:
    store = folder / "store"
    store.unlink(missing_ok=True)
    variables = os.environ | VARIABLES
    if plugin:
        variables |= {"NCCL_PROFILER_PLUGIN": str(nccl_plugin.library()), "TIGHTWIRE_CCL": str(folder)}
    command = [sys.executable, __file__, "--store", str(store), "--ranks", str(ranks), "--rank"]
    children = [
        subprocess.Popen(
            [*command, str(rank)],
            env=variables | {"NCCL_HOSTID": f"host{rank}", "RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(ranks)
    ]
    assert children[0].stdout is not None
    told = children[0].stdout.read().strip().splitlines()
    if any(child.wait() for child in children):
        raise SystemExit(f"a rank ended with an error: {[child.returncode for child in children]}")
    found: dict[str, object] = json.loads(next(line for line in told if line.startswith('{"took"')))
    return found


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--store", default="")
    parser.add_argument("--rank", type=int, default=0)
    args = parser.parse_args()
    if args.store:
        rank_main(args.store, args.rank, args.ranks)
        return
    if not torch.cuda.is_available():
        print("no GPU on this machine: nothing is measured, the list of results is empty")
        harness.publish("nccl_live", [], args.json)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = [(job(folder, args.ranks, False), job(folder, args.ranks, True)) for _ in range(args.pairs)]
        states = [nccl_plugin.read(path) for path in sorted(folder.glob("nccl-*.ring"))]
    where = f"{args.ranks} ranks on one {torch.cuda.get_device_name()}, sockets, NCCL {pairs[0][0]['nccl']}, {args.pairs} pairs of jobs"
    results = []
    for size in SIZES:
        ratios = [with_it["took"][size] / without["took"][size] for without, with_it in pairs]  # type: ignore[index]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}; "
        results.append(Result(f"nccl.time_ratio.{size}", statistics.median(ratios), "", "lower", spread + where))
        base = statistics.median(without["took"][size] for without, _ in pairs)  # type: ignore[index]
        results.append(Result(f"nccl.all_reduce_us.{size}", base * 1e6, "us", "lower", "without a plugin"))
    operations = sum(WARMUPS + times for _, times in SIZES.values()) + 1
    done = [frame.done_count / operations for state in states for frame in state.frames if frame.entered_seq >= operations]
    records = statistics.median(state.written for state in states)
    steps = sum(each.steps_done for state in states for each in state.transfers)
    moved = sum(each.bytes for state in states for each in state.transfers if each.sends)
    results += [
        Result("nccl.rings", len(states), "", "higher", f"{args.pairs * args.ranks} processes had the plugin"),
        Result("nccl.operations_seen_done", min(done, default=0.0), "", "higher", f"least of all ranks, of {operations}"),
        Result("nccl.records_per_rank", records, "", "higher", "median"),
        Result("nccl.network_steps_done", steps, "", "higher", "of all ranks"),
        Result("nccl.bytes_sent", moved, "B", "higher", "of all ranks, as the proxies count them"),
    ]
    harness.publish("nccl_live", results, args.json)


if __name__ == "__main__":
    main()
