"""A small real DDP training job for demos and drills, with an optional fault at a chosen rank and step:

`torchrun --nproc-per-node 4 -m tightwire.ccl.faults.sample_job --steps 200 [--fault stop --rank 2 --step 50]`
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tightwire.ccl.faults.inject import FAULTS, inject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds of other work in each step")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--truth", type=Path, help="where to write what was injected, and when")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = DistributedDataParallel(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(rank)
    for step in range(arguments.steps):
        fault = arguments.fault if rank == arguments.rank and step == arguments.step else None
        if fault:
            inject(fault, rank, step, arguments.truth)
        x = torch.randn(32, 128, generator=generator)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x[:, :10].argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        share_metrics(loss.item(), fault)
        time.sleep(arguments.pause)
        if rank == 0 and step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    dist.destroy_process_group()


def share_metrics(loss: float, fault: str | None) -> None:
    """What jobs do after each step: the mean loss over all ranks, then a setting from rank 0; `fault` is how this rank's
    calls differ from the others'."""
    metrics, setting = torch.full((5 if fault == "shape" else 4,), loss), torch.ones(1)
    if fault == "dtype":
        metrics = metrics.to(torch.int32)
    calls = [lambda: dist.all_reduce(metrics), lambda: dist.broadcast(setting, int(fault == "root"))]
    if fault == "operation":
        calls[0] = lambda: dist.reduce(metrics, 0)
    for call in reversed(calls) if fault == "order" else calls:
        call()


if __name__ == "__main__":
    main()
