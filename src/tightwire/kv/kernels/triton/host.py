"""From tensors on a GPU to bytes on the host, and back: Triton's row in the table of kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import U8
from tightwire.kv.kernels import native
from tightwire.kv.kernels.table import Rows
from tightwire.kv.kernels.triton import lossless, rans
from tightwire.kv.kernels.triton.plan import Plan, covers
from tightwire.kv.kernels.triton.runs import Runs
from tightwire.kv.stages.base import Buffer


class Triton:
    """`table.Kernels` for tensors on a GPU."""

    def covers(self, dim: int, group: int) -> bool:
        return covers(dim, group)

    def encode(self, x: torch.Tensor, rows: Rows) -> list[Buffer] | None:
        plan = _plan(x, rows)
        with _on_device_of(x):
            payload, bad = plan.encode(_segments(x))
            if bad.item():
                return None
            if isinstance(rows.form, native.Tables):
                params, symbols = payload[: plan.params_bytes], payload[plan.params_bytes :]
                runs = Runs(rows.levels, plan.count, rows.form, x.device)
                return [_here(params), _here(rans.encode(symbols.view(plan.segments, plan.count), runs))]
            host = _here(payload)
            return [host[: plan.params_bytes], host[plan.params_bytes :]]

    def decode(self, params: memoryview, symbols: U8, rows: Rows, out: torch.Tensor) -> None:
        plan = _plan(out, rows)
        with _on_device_of(out):
            there = _there(symbols, out.device)
            if isinstance(rows.form, native.Tables):
                runs = Runs(rows.levels, plan.count, rows.form, out.device)
                there = rans.decode(symbols, there, runs).reshape(-1)
            lo_and_step = _there(np.frombuffer(params, np.uint8), out.device).view(torch.int16)
            _, bad = plan.decode_parts(lo_and_step, there, _segments(out))
            wrong = bad.item()
        if wrong:
            raise FrameError("payload", "a parameter is not finite, or a symbol not below the number of levels of its segment")

    def encode_lossless(self, x: torch.Tensor) -> list[Buffer]:
        """As `stages.lossless.exponent` writes bf16."""
        with _on_device_of(x):
            exponents, rest = lossless.split(_segments(x))
            return [_here(rest.reshape(-1)), _here(rans.encode(exponents, _exponent_runs(exponents.shape, x.device)))]

    def decode_lossless(self, data: memoryview, out: torch.Tensor) -> None:
        """The inverse of `encode_lossless`; FrameError for what no encoder writes."""
        values = out.numel()
        if len(data) < values:
            raise FrameError("payload", f"{values} values take {values} bytes without exponents, got {len(data)}")
        here: U8 = np.frombuffer(data, np.uint8)
        with _on_device_of(out):
            there, x = _there(here, out.device), _segments(out)
            runs = _exponent_runs((x.shape[0], values // x.shape[0]), out.device)
            lossless.merge(rans.decode(here[values:], there[values:], runs), there[:values], x)


def _on_device_of(x: torch.Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


def _plan(x: torch.Tensor, rows: Rows) -> Plan:
    return Plan(rows.levels, x.shape[2], x.shape[3], rows.group, rows.form == "packed", x.device, rows.weights)


def _exponent_runs(shape: tuple[int, ...], device: torch.device) -> Runs:
    return Runs(np.full(shape[0], 256, np.uint16), shape[1], native.OWN, device)


def _segments(x: torch.Tensor) -> torch.Tensor:
    """`[L, H, T, D]` → `[S, T, D]`, the last axis dense; a view where the strides allow it."""
    return (x if x.stride(3) == 1 else x.contiguous()).reshape(-1, x.shape[2], x.shape[3])


def _here(x: torch.Tensor) -> memoryview:
    return x.cpu().numpy().data


def _there(data: U8, device: torch.device) -> torch.Tensor:
    """A copy of the host's bytes on the device; it starts where any type may."""
    held = torch.empty(len(data), dtype=torch.uint8, pin_memory=device.type == "cuda")
    held.numpy()[:] = data
    return held.to(device)
