"""A small DDP job with one line that lets Tightwire see its collectives:

torchrun --nproc-per-node 4 examples/train_ddp.py

`tightwire ccl run -- torchrun …` needs no such line: it switches the probe on by an environment variable.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tightwire.ccl

tightwire.ccl.attach()  # before init_process_group
dist.init_process_group("gloo")
model = DistributedDataParallel(nn.Linear(64, 10))
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(300):
    x = torch.randn(32, 64)
    loss = nn.functional.cross_entropy(model(x), x[:, :10].argmax(dim=1))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if dist.get_rank() == 0 and step % 50 == 0:
        print(f"step {step} loss {loss.item():.3f}", flush=True)
dist.destroy_process_group()
