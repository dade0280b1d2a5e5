"""What a transfer takes in truth: an event simulation that shares no code with the controller's model.

It knows what the model leaves out: chunks of unequal size and speed, a link whose speed changes while a frame crosses
it, an overhead for each frame, stalls of the sending machine, a fixed cost that varies, and measured times with errors.
Chance is the machine's, not the strategy's: all strategies of one request meet the same luck, but for 2 % of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
CHUNK_TOKENS = 128
FRAME_BYTES, FRAME_S = 400, 60e-6
FIXED_S, STALL_CHANCE, STALL_S = 2e-3, 0.005, 5e-3
MACHINE_NOISE, CHUNK_NOISE, OWN_NOISE, RATIO_NOISE, TIMING_S = 0.04, 0.1, 0.02, 0.03, 2e-4


@dataclass(frozen=True)
class Arms:
    """True ratio and raw bytes per second of each strategy, fp64 `[arms]`."""

    ratio: F64
    encode: F64
    decode: F64


class Timeline:
    """A link: bytes per second from each of `at_s` on, the last for ever."""

    def __init__(self, at_s: F64, rate: F64, latency_s: float) -> None:
        self.at_s, self.rate, self.latency_s = at_s, rate, latency_s
        self._ends = np.append(at_s, at_s[-1] + 1e6)
        self._carried = np.concatenate([[0.0], np.cumsum(np.diff(self._ends) * rate)])

    def carried_at(self, start_s: F64, size: F64) -> F64:
        """When `size` bytes that start at `start_s` have crossed."""
        return np.interp(np.interp(start_s, self._ends, self._carried) + size, self._carried, self._ends)

    def rate_at(self, at_s: float) -> float:
        return float(self.rate[max(int(np.searchsorted(self.at_s, at_s, "right")) - 1, 0)])


@dataclass(frozen=True)
class Truth:
    """Of each strategy, fp64 `[arms]`, as a sender would measure it."""

    encode_s: F64
    wire_s: F64
    decode_s: F64
    total_s: F64
    wire_bytes: F64
    prefill_s: float


def transfer(arms: Arms, link: Timeline, at_s: float, raw_bytes: int, chunks: int, prefill_s: float, rng: np.random.Generator) -> Truth:  # fmt: skip
    """One request that starts at `at_s`; `prefill_s` of compute is beside it."""
    count = len(arms.ratio)
    own = np.exp(rng.normal(0, OWN_NOISE, (3, count)))
    machine = np.exp(rng.normal(0, MACHINE_NOISE, 2))
    ratio = arms.ratio * np.exp(rng.normal(0, RATIO_NOISE)) ** (arms.ratio > 1.01) * own[2] ** (arms.ratio > 1.01)
    sizes = np.full(chunks, raw_bytes / chunks)
    sizes[-1] *= rng.uniform(0.3, 1.0)  # the prompt's end
    noise = np.exp(rng.normal(0, CHUNK_NOISE, (3, chunks)))
    stalls = STALL_S * rng.exponential(1.0, (2, chunks)) * (rng.random((2, chunks)) < STALL_CHANCE)
    start_s = at_s + FIXED_S * rng.uniform(0.3, 1.0)
    computed, encoded, crossed, decoded = start_s, np.full(count, start_s), np.full(count, start_s), np.full(count, start_s)
    encode_s, wire_s, decode_s, wire_bytes = (np.zeros(count) for _ in range(4))
    compute = prefill_s / chunks * np.exp(rng.normal(0, 0.03, chunks))
    for number in range(chunks):
        computed += compute[number]
        took = sizes[number] / arms.encode * machine[0] * noise[0, number] * own[0] + stalls[0, number]
        encoded = np.maximum(encoded, computed) + took
        encode_s += took
        size = sizes[number] / ratio + FRAME_BYTES
        begins = np.maximum(encoded, crossed)
        crossed = link.carried_at(begins, size) + FRAME_S
        wire_s += crossed - begins
        wire_bytes += size
        took = sizes[number] / arms.decode * machine[1] * noise[1, number] * own[1] + stalls[1, number]
        decoded = np.maximum(decoded, crossed + link.latency_s) + took
        decode_s += took
    total_s = decoded - at_s + link.latency_s + FIXED_S * rng.uniform(0.3, 1.0)
    timing = np.abs(rng.normal(0, TIMING_S, 3))
    return Truth(encode_s + timing[0], wire_s + timing[1], decode_s + timing[2], total_s, wire_bytes, float(compute.sum()))
