"""The native twin of `dispatch` and `works`: the same calls noted in the same way, by a kernel in C++ that needs neither
Python nor its lock. Built for one version of torch; where another one runs, the twin in Python serves."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tightwire.ccl.probe import dispatch
from tightwire.ccl.probe.calls import CALLS, Call
from tightwire.ccl.probe.rank import Rank
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES


def module() -> Any | None:
    """That for the torch that runs; None when there is none."""
    version = "".join(letter if letter.isalnum() else "_" for letter in torch.__version__)
    try:
        return importlib.import_module(f"tightwire._probe_torch_{version}")
    except ImportError:
        return None


class Observer:
    """As `dispatch.Observer`."""

    def __init__(self, built: Any, rank: Rank) -> None:
        def new_channel(group: Any, direction: str, partner: int, tag: int) -> tuple[int, int]:
            channel = dispatch.new_channel(rank, group, direction, partner, tag)
            return channel.slot, channel.fingerprint

        dtypes = {getattr(torch, name): code for name, code in DTYPE_CODES.items() if hasattr(torch, name)}
        rows = [_row(CALLS.get(name, Call("unknown")), name, found) for name, found in dispatch.operations()]
        self._native = native = built.Observer(rank.writer, new_channel, dtypes, rows)
        self.sweep: Callable[[], None] = native.sweep
        self.disable: Callable[[], None] = native.disable
        self.stop: Callable[[], None] = native.stop

    @property
    def active(self) -> bool:
        return bool(self._native.active)

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        original, note = dist.Work.wait, self._native.wait

        # named as what it replaces: see `works`
        def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
            return note(original, self, *args, **kwargs)

        wait.__doc__ = original.__doc__
        dist.Work.wait = wait  # type: ignore[method-assign]
        self._native.watch()

    def forget(self, group: Any = None) -> None:
        """Nothing: it holds no group back."""


def _row(call: Call, name: str, arguments: list[str]) -> tuple[str, int, int, int, int, int, str]:
    def at(argument: str | None) -> int:
        return arguments.index(argument) if argument in arguments else -1

    return (
        name, OPERATION_CODES[call.operation], at("process_group"), at(call.share), at(call.partner), at("tag"),
        call.point_to_point,
    )  # fmt: skip
