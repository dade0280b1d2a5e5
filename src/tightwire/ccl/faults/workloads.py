"""Small real training steps in the ways that jobs are parallel: `WORKLOADS[name](rank, world)` builds what does one step
and returns the loss. `tensor` and `pipeline` join two ranks each and repeat that over the data; `fsdp` shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

WIDTH, BATCH, MICROBATCHES = 256, 32, 2
Step = Callable[[torch.Tensor], float]


def ddp(rank: int, world: int) -> Step:
    """Data parallel: DDP's reducer sends the gradients."""
    model = DistributedDataParallel(_layers())
    return _plain(model, torch.optim.SGD(model.parameters(), lr=0.05))


def fsdp(rank: int, world: int) -> Step:
    """Fully sharded (FSDP2): parameters gathered, gradients scattered, layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = _layers()
    mesh = init_device_mesh("cpu", (world,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    sharded: Any = fully_shard(model, mesh=mesh)
    return _plain(sharded, torch.optim.SGD(sharded.parameters(), lr=0.05))


def tensor(rank: int, world: int) -> Step:
    """Tensor parallel in pairs (a column-split layer, then a row-split one), data parallel across them."""
    pair, replicas = _pairs(rank, world)
    first, second = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH // 2, WIDTH)
    optimiser = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.05)

    def step(x: torch.Tensor) -> float:
        optimiser.zero_grad()
        out = _Reduced.apply(second(F.relu(first(_Copied.apply(x, pair)))), pair)  # type: ignore[no-untyped-call]
        loss = F.cross_entropy(out, x.argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]
        _average([*first.parameters(), *second.parameters()], replicas)
        optimiser.step()
        return loss.item()

    return step


def pipeline(rank: int, world: int) -> Step:
    """Two stages that hand on microbatches, data parallel across the pairs."""
    pair, replicas = _pairs(rank, world)
    is_last, partner = rank % 2 == 1, rank ^ 1
    stage = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    optimiser = torch.optim.SGD(stage.parameters(), lr=0.05)

    def step(x: torch.Tensor) -> float:
        optimiser.zero_grad()
        parts, total, sent = x.chunk(MICROBATCHES), 0.0, []
        if is_last:
            for part in parts:
                received = torch.empty(len(part), WIDTH)
                dist.recv(received, partner, group=pair)
                loss = F.cross_entropy(stage(received.requires_grad_()), part.argmax(dim=1))
                loss.backward()  # type: ignore[no-untyped-call]
                sent.append(dist.isend(received.grad, partner, group=pair))  # type: ignore[arg-type]
                total += loss.item()
        else:
            outputs = [stage(part) for part in parts]
            sent += [dist.isend(out.detach(), partner, group=pair) for out in outputs]
            for out in outputs:
                gradient = torch.empty_like(out)
                dist.recv(gradient, partner, group=pair)
                out.backward(gradient)
        for work in sent:
            if work is not None:
                work.wait()
        _average(list(stage.parameters()), replicas)
        optimiser.step()
        return total

    return step


WORKLOADS: dict[str, Callable[[int, int], Step]] = {"ddp": ddp, "fsdp": fsdp, "tensor": tensor, "pipeline": pipeline}


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


def _plain(model: nn.Module, optimiser: torch.optim.Optimizer) -> Step:
    def step(x: torch.Tensor) -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), x.argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.item()

    return step


def _pairs(rank: int, world: int) -> tuple[Any, Any]:
    """(this rank's pair, the ranks that have the same place in theirs)."""
    pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    replicas = [dist.new_group(list(range(place, world, 2))) for place in range(2)]
    return pairs[rank // 2], replicas[rank % 2]


def _average(parameters: list[nn.Parameter], group: Any) -> None:
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat, group=group)
    flat /= group.size()
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, gradient in zip(parameters, parts, strict=True):
        parameter.grad = gradient.view_as(parameter)


class _Copied(torch.autograd.Function):
    """Forward as it is, backward the sum over the pair."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        context.group = group
        return x.clone().requires_grad_()

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed, group=context.group)
        return summed, None


class _Reduced(torch.autograd.Function):
    """Forward the sum over the pair, backward as it is."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        summed = x.clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        return gradients[0], None
