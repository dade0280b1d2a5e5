"""A fault in a job that knows nothing of it: one rank misbehaves at one of its calls of torch.distributed.

The order comes by an environment variable. The calls are intercepted in torch's dispatcher, before the probe sees them (at
the key `AutogradCPU`; calls on CPU tensors outside `inference_mode`), so that the probe sees what the rank really does.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tightwire.ccl.faults import cluster
from tightwire.ccl.faults.inject import FAULTS, LASTING, NETWORK, Rhythm, inject

IN_ANY_JOB = tuple(fault for fault in FAULTS if fault not in ("order", "circle"))  # these need a job that joins in
RHYTHM_FROM = 20  # times that a call must have come before its rhythm is known
_ON = {"shape": ("allreduce_", "broadcast_", "reduce_"), "operation": ("allreduce_",), "root": ("broadcast_", "reduce_")}
_ON["dtype"] = _ON["shape"]
_KEY = "AutogradCPU"
_libraries: list[Any] = []  # what they registered lives as long as they


class Order(msgspec.Struct, frozen=True):
    """`rank` (drawn by `seed` where None) does `fault` at its first fitting call from number `call` on."""

    fault: str
    truth: str
    call: int
    severity: float
    rank: int | None = None
    seed: int = 0


class Injector:
    """Counts the calls of this rank, and does what was ordered. `args` of a call are those of its operation in `c10d`."""

    def __init__(
        self, order: Order, rank: int, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._order, self._rank, self._clock, self._sleep = order, rank, clock, sleep
        self._count, self._lag_s = 0, 0.0
        self._site: object = None
        self._busy = False
        self._marks: dict[object, list[tuple[float, float, int]]] = defaultdict(list)

    def on_call(self, name: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """The operation and the arguments with which to go on; may sleep, or never return."""
        if self._busy:  # the fault's own calls
            return name, args
        self._count += 1
        site = name, _shapes(args[0])
        if self._site is not None:
            if site == self._site:
                self._sleep(self._lag_s)
            return name, args
        marks = self._marks[site]
        marks.append((self._clock(), time.process_time(), cluster.sent_bytes()))
        fault = self._order.fault
        fits = name in _ON.get(fault, (name,)) and (fault not in LASTING or len(marks) >= RHYTHM_FROM)
        if self._count < self._order.call or not fits:
            return name, args
        self._site, self._busy = site, True
        rhythm = _rhythm(marks) if fault in LASTING else None
        self._lag_s = inject(fault, self._rank, self._count, Path(self._order.truth), self._order.severity, rhythm)
        name, args = _changed(fault, self._rank, name, args)
        self._busy = False
        return name, args


def arm(text: str) -> None:
    """In a rank: do what the order says, when its time has come."""
    import torch

    order = msgspec.json.decode(text, type=Order)
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    guilty = random.Random(order.seed).randrange(world) if order.rank is None else order.rank
    if rank != guilty:
        return
    if order.fault in NETWORK and not cluster.on_own_host():
        print(
            f"tightwire: no fault {order.fault!r}: rank {rank} is on no host of its own; see tightwire ccl drill --help",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return
    injector = Injector(order, rank)
    after = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.AutogradCPU)
    library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("c10d::") and any(each.name == "process_group" for each in schema.arguments):
            name = schema.name.removeprefix("c10d::")
            library.impl(name, _kernel(injector, name, after), _KEY, with_keyset=True)  # type: ignore[no-untyped-call]
    _libraries.append(library)


def _kernel(injector: Injector, name: str, after: Any) -> Callable[..., Any]:
    import torch

    def kernel(keys: Any, *args: Any) -> Any:
        there, given = injector.on_call(name, args)
        return getattr(torch.ops.c10d, there).default.redispatch(keys & after, *given)

    return kernel


def _changed(fault: str, rank: int, name: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The call as the guilty rank makes it."""
    import torch
    import torch.distributed as dist

    if fault == "elsewhere":
        dist.recv(torch.empty(1), (rank + 1) % dist.get_world_size())  # which nobody sends
    tensors, rest = args[0], args[1:]
    if fault == "shape":
        return name, ([each.new_zeros(each.numel() + 1) for each in tensors], *rest)
    if fault == "dtype":
        other = torch.int32 if tensors[0].is_floating_point() else torch.float32
        return name, ([torch.zeros_like(each, dtype=other) for each in tensors], *rest)
    if fault == "operation":
        return "broadcast_", (tensors, rest[0], 0, 0)
    if fault == "root":
        at = 2 if name == "reduce_" else 1
        size = dist.ProcessGroup.unbox(rest[0]).size()
        return name, (tensors, *rest[:at], (rest[at] + 1) % size, *rest[at + 1 :])
    return name, args


def _rhythm(marks: list[tuple[float, float, int]]) -> Rhythm:
    recent = marks[-RHYTHM_FROM:]
    steps = list(itertools.pairwise(recent))
    step_s, processor_s, sent = (statistics.median(b[at] - a[at] for a, b in steps) for at in range(3))
    return Rhythm(step_s, processor_s, sent)


def _shapes(value: Any) -> object:
    """What tells one call site from another."""
    if isinstance(value, list | tuple):
        return tuple(_shapes(each) for each in value)
    return tuple(getattr(value, "shape", ()))
