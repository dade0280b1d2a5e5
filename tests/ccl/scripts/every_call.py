"""Makes every call of torch.distributed on two gloo ranks, first without the probe, then with it: `every_call.py FOLDER KERNEL`.
Rank 0 prints, as JSON, which of them worked without and with, and how often each operation was seen to begin and end."""

import json
import sys
import warnings

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from counts import attached, counted

warnings.simplefilter("ignore")
dist.init_process_group("gloo")
rank, other, world = dist.get_rank(), 1 - dist.get_rank(), dist.group.WORLD
x, both, halves = torch.ones(4), torch.zeros(8), [torch.zeros(4), torch.zeros(4)]


def send_and_receive() -> None:
    if rank == 0:
        dist.send(x, other)
        dist.recv(x, other)
    else:
        dist.recv(x, other)
        dist.send(x, other)


def receive_from_anyone() -> None:
    works = [dist.isend(x, other), dist.irecv(torch.zeros(4))]
    for work in works:
        work.wait()


def batched() -> None:
    operations = [dist.P2POp(dist.isend, x, other), dist.P2POp(dist.irecv, torch.zeros(4), other)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


CALLS = {
    "allreduce": lambda: dist.all_reduce(x),
    "allreduce async": lambda: dist.all_reduce(x, async_op=True).wait(),
    "allreduce_coalesced": lambda: dist.all_reduce_coalesced([x, x]),
    "broadcast": lambda: dist.broadcast(x, 1),
    "reduce": lambda: dist.reduce(x, 1),
    "allgather": lambda: dist.all_gather(halves, x),
    "_allgather_base": lambda: dist.all_gather_into_tensor(both, x),
    "allgather_coalesced": lambda: dist.all_gather_coalesced([halves], [x]),
    "reduce_scatter": lambda: dist.reduce_scatter(x, halves),
    "_reduce_scatter_base": lambda: dist.reduce_scatter_tensor(x, both),
    "alltoall": lambda: dist.all_to_all(halves, [x, x]),
    "alltoall_base": lambda: dist.all_to_all_single(both, torch.ones(8)),
    "gather": lambda: dist.gather(x, halves if rank == 0 else None, 0),
    "scatter": lambda: dist.scatter(x, halves if rank == 0 else None, 0),
    "barrier": lambda: dist.barrier(),
    "monitored_barrier": lambda: dist.monitored_barrier(),
    "send recv": send_and_receive,
    "recv_anysource": receive_from_anyone,
    "send recv batched": batched,
    "allgather objects": lambda: dist.all_gather_object([None, None], rank),
    "broadcast objects": lambda: dist.broadcast_object_list([rank], 0),
    "allreduce functional": lambda: functional.all_reduce(x, "sum", world).sum(),
    "allgather_into_tensor_coalesced functional": lambda: functional.all_gather_tensor(x, 0, world).sum(),
    "reduce_scatter_tensor_coalesced functional": lambda: functional.reduce_scatter_tensor(both, "sum", 0, world).sum(),
    "alltoall_base functional": lambda: functional.all_to_all_single(both, None, None, world).sum(),
    "broadcast functional": lambda: functional.broadcast(x, 0, world).sum(),
}


def all_that_work() -> list[str]:
    worked = []
    for name, call in CALLS.items():
        try:
            call()
            worked.append(name)
        except (RuntimeError, NotImplementedError, AttributeError):
            pass
    return worked


plain = all_that_work()
assert attached(*sys.argv[1:])
observed = all_that_work()
pair = dist.new_group([1, 0])
dist.all_reduce(x, group=pair)
with torch.inference_mode():
    dist.all_reduce(torch.ones(3))
dist.destroy_process_group()
if rank == 0:
    print(json.dumps({"plain": plain, "observed": observed, **counted(sys.argv[1], rank)}))
