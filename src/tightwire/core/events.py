"""The event record that every source yields: one step in the life of an operation between machines.

A collective and a KV transfer live the same life:

| kind | code | meaning | may follow |
|---|---|---|---|
| entered | 1 | the rank called the operation | - |
| started | 2 | its kernel or transport began | entered |
| progress | 3 | bytes, steps or chunks moved | started, progress |
| done | 4 | it completed | entered, started, progress |
| failed | 5 | it ended with an error | entered, started, progress |

The trace id (group fingerprint, sequence number) names one operation on all its ranks without a coordinator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

RECORD = np.dtype(
    [
        ("time_ns", "<u8"), ("group", "<u8"), ("seq", "<u8"), ("bytes", "<u8"), ("shape", "<u8"), ("op", "<u4"),
        ("peer", "<u4"), ("kind", "<u2"), ("dtype", "<u2"), ("pad", "<u4"), ("reserved", "<u8"),
    ]
)  # fmt: skip
assert RECORD.itemsize == 64


class Kind(IntEnum):
    ENTERED = 1
    STARTED = 2
    PROGRESS = 3
    DONE = 4
    FAILED = 5


OPERATIONS: tuple[str, ...] = (
    "unknown", "allreduce", "broadcast", "allgather", "_allgather_base", "reduce_scatter", "_reduce_scatter_base",
    "alltoall", "alltoall_base", "barrier", "reduce", "gather", "scatter", "send", "recv", "recv_anysource",
    "allreduce_coalesced", "allgather_coalesced", "allgather_into_tensor_coalesced",
    "reduce_scatter_tensor_coalesced", "kv_transfer", "monitored_barrier",
)  # fmt: skip
RENDEZVOUS = "init_process_group"  # the name of the group of all ranks whose one operation that is
OPERATION_CODES = {name: code for code, name in enumerate(OPERATIONS)}
DTYPES: tuple[str, ...] = (
    "unknown", "float32", "bfloat16", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
DTYPE_CODES = {name: code for code, name in enumerate(DTYPES)}


def operation(code: int) -> str:
    """The name of an operation code; codes of newer versions are `unknown`."""
    return OPERATIONS[code] if 0 <= code < len(OPERATIONS) else OPERATIONS[0]


def group_fingerprint(name: str, ranks: Sequence[int]) -> int:
    """64 bits that name a group: the same on all its ranks, without asking anybody."""
    text = f"{name}:{','.join(map(str, ranks))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
