"""DDP, FSDP2 and a pipeline schedule on two gloo ranks, first without the probe, then with it: `parallel.py FOLDER KERNEL`.
Rank 0 prints, as JSON, for each the loss without and with, and how often each operation was seen so far."""

import json
import sys
import warnings

import torch
import torch.distributed as dist
from counts import attached, counted
from torch import nn

warnings.simplefilter("ignore")
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


def ddp() -> float:
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    for _ in range(3):
        loss = model(torch.ones(4, 8)).square().sum()
        loss.backward()
    return loss.item()


def fsdp2() -> float:
    torch.manual_seed(0)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), mesh=init_device_mesh("cpu", (2,)))
    for _ in range(3):
        loss = model(torch.ones(4, 8)).square().sum()
        loss.backward()
    return loss.item()


def pipeline() -> float:
    torch.manual_seed(0)
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    stage = PipelineStage(nn.Linear(8, 8), rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 4, loss_fn=nn.functional.mse_loss)
    losses: list[torch.Tensor] = []
    for _ in range(3):
        if rank == 0:
            schedule.step(torch.ones(8, 8))
        else:
            schedule.step(target=torch.ones(8, 8), losses=losses)
    total = torch.stack(losses).sum().detach() if losses else torch.zeros(())
    dist.all_reduce(total)
    return total.item()


plain = {work.__name__: work() for work in (ddp, fsdp2, pipeline)}
assert attached(*sys.argv[1:])
observed, counts = {}, {}
for work in (ddp, fsdp2, pipeline):
    observed[work.__name__] = work()
    dist.barrier()
    counts[work.__name__] = counted(sys.argv[1], rank)["ENTERED"]
dist.destroy_process_group()
if rank == 0:
    print(json.dumps({"plain": plain, "observed": observed, "counts": counts, **counted(sys.argv[1], rank)}))
