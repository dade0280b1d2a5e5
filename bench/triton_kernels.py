"""Speed of the Triton kernels as ratios to a copy on the device in the same run.

copy: the same raw bytes from one buffer on the GPU to another. Speeds are counted in raw bytes; device time between
events, median. bf16 [256 heads, 1024 tokens, 128] by default: random normal values, which cost what any others do,
but for the entropy coder, whose ratio they make worse than KV would. Coding and decoding of entropy-coded symbols wait
for the device in between, as they do in use.
Without a GPU there is nothing to measure: an empty list of results.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import torch

from harness import Result, parser, publish
from tightwire.kv.kernels import native
from tightwire.kv.stages.transforms.hadamard import weights

GROUP = 64


def device_median_s(call: Callable[[], object], repeats: int = 30, warmups: int = 5) -> float:
    """Median time on the device in seconds; the caches are as the runs leave them."""
    for _ in range(warmups):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1000


class Measured:
    """Ratios to the copy of x."""

    def __init__(self, x: torch.Tensor) -> None:
        copy, self.raw_bytes = torch.empty_like(x), x.numel() * 2
        self.where = f"bf16 {list(x.shape)}, {torch.cuda.get_device_name()}"
        self.copy_s = device_median_s(lambda: copy.copy_(x))
        note = f"device to device, {self.where}"
        self.results = [Result("triton.copy.bytes_per_s", self.raw_bytes / self.copy_s, "B/s", "higher", note)]

    def add(self, name: str, encode: Callable[[], object], decode: Callable[[], object], coded_bytes: int) -> None:
        for way, call in (("encode", encode), ("decode", decode)):
            ratio = self.copy_s / device_median_s(call)
            self.results.append(Result(f"triton.{name}.{way}_vs_memcpy", ratio, "ratio", "higher", self.where))
        ratio = self.raw_bytes / coded_bytes
        self.results.append(Result(f"triton.{name}.ratio", ratio, "ratio", "higher", "raw bytes / coded bytes"))


def measure(segments: int, tokens: int, dim: int) -> list[Result]:
    from tightwire.kv.kernels.triton import lossless, rans
    from tightwire.kv.kernels.triton.plan import Plan
    from tightwire.kv.kernels.triton.runs import Runs

    device = torch.device("cuda")
    x = torch.randn(segments, tokens, dim, device=device).to(torch.bfloat16)
    measured = Measured(x)
    down, up = weights(0, dim)
    ones = np.ones((segments, dim), np.float32)
    transforms = {
        "": native.PLAIN,
        "hadamard_": native.Weights(down[None], up[None]),
        "equalize_": native.Weights(ones * 2, ones / 2, ones * 0),
    }
    uniform, mixed = np.full(segments, 16, np.uint16), np.where(np.arange(segments) % 5 == 0, 12, 6).astype(np.uint16)
    for name, held in transforms.items():
        for levels_name, levels in (("uniform4", uniform), ("mixed12_6", mixed)):
            plan = Plan(levels, tokens, dim, GROUP, True, device, held)
            payload, bad = plan.encode(x)
            back, wrong = plan.decode(payload)
            assert not bad.item()
            assert not wrong.item()
            measured.add(
                f"{name}{levels_name}_g{GROUP}",
                lambda: plan.encode(x, payload),  # noqa: B023
                lambda: plan.decode(payload, back),  # noqa: B023
                payload.numel(),
            )
    plan = Plan(mixed, tokens, dim, GROUP, False, device)
    symbols = plan.encode(x)[0][plan.params_bytes :].view(segments, plan.count)
    _add_coder(measured, "rans.mixed12_6", symbols, Runs(mixed, plan.count, native.OWN, device), rans)
    exponents, rest = lossless.split(x)
    measured.add("split", lambda: lossless.split(x), lambda: lossless.merge(exponents, rest, x), 2 * rest.numel())
    _add_coder(measured, "rans.exponents", exponents, Runs(np.full(segments, 256, np.uint16), plan.count, native.OWN, device), rans)
    return measured.results


def _add_coder(measured: Measured, name: str, symbols: torch.Tensor, runs, rans) -> None:  # type: ignore[no-untyped-def]
    """The entropy coder by itself, on `symbols` that are on the device."""
    stream = rans.encode(symbols, runs)
    here = stream.cpu().numpy()
    assert torch.equal(rans.decode(here, stream, runs), symbols)
    measured.add(name, lambda: rans.encode(symbols, runs), lambda: rans.decode(here, stream, runs), stream.numel())


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--segments", type=int, default=256, help="layers times heads")
    arguments_parser.add_argument("--tokens", type=int, default=1024)
    arguments_parser.add_argument("--dim", type=int, default=128)
    arguments = arguments_parser.parse_args()
    results: list[Result] = []
    if torch.cuda.is_available():
        results = measure(arguments.segments, arguments.tokens, arguments.dim)
    else:
        print("no GPU on this machine: nothing is measured, the list of results is empty")
    publish("triton_kernels", results, arguments.json)


if __name__ == "__main__":
    main()
