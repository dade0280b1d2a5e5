"""Ranks 0 to 2 and 3 to 4 train apart; at one step rank 1 calls something else than its group, and rank 4 loops."""

import time

import torch
import torch.distributed as dist

STEP = 60
dist.init_process_group("gloo")
rank = dist.get_rank()
groups = [dist.new_group(ranks) for ranks in ([0, 1, 2], [3, 4])]
for step in range(100_000):
    while rank == 4 and step == STEP:
        pass
    if rank == 1 and step == STEP:
        dist.barrier(group=groups[0])
    dist.all_reduce(torch.ones(16), group=groups[rank > 2])
    time.sleep(0.02)
