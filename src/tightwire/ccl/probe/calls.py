"""What each operation of torch's dispatcher library `c10d` is to us: every collective and point-to-point call, from
Python or from C++ (DDP's reducer, functional collectives), becomes one of these.

`operation` is our name for it; `share` the argument that every rank of the group gives alike (sizes are compared by
it); `partner` the argument with a rank in it: a root, a destination or a source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Call:
    operation: str
    share: str | None = None
    partner: str | None = None
    point_to_point: Literal["", "to", "from"] = ""


CALLS = {
    "allreduce_": Call("allreduce", "tensors"),
    "allreduce_coalesced_": Call("allreduce_coalesced", "tensors"),
    "broadcast_": Call("broadcast", "tensors", "root_rank"),
    "reduce_": Call("reduce", "tensors", "root_rank"),
    "allgather_": Call("allgather", "input_tensors"),
    "_allgather_base_": Call("_allgather_base", "input_tensor"),
    "allgather_coalesced_": Call("allgather_coalesced", "input_list"),
    "allgather_into_tensor_coalesced_": Call("allgather_into_tensor_coalesced", "inputs"),
    "reduce_scatter_": Call("reduce_scatter", "output_tensors"),
    "_reduce_scatter_base_": Call("_reduce_scatter_base", "output_tensor"),
    "reduce_scatter_tensor_coalesced_": Call("reduce_scatter_tensor_coalesced", "outputs"),
    "alltoall_": Call("alltoall"),
    "alltoall_base_": Call("alltoall_base"),
    "gather_": Call("gather", "input_tensors", "root_rank"),
    "scatter_": Call("scatter", "output_tensors", "root_rank"),
    "barrier": Call("barrier"),
    "monitored_barrier_": Call("monitored_barrier"),
    "send": Call("send", "tensors", "dst", "to"),
    "recv_": Call("recv", "tensors", "src", "from"),
    "recv_any_source_": Call("recv_anysource", "tensors", None, "from"),
}
