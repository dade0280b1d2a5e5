"""What a transfer takes in truth: an event simulation that shares no code with the controller's model.

It knows what the model leaves out: chunks of unequal size and speed, a link whose speed changes while a frame crosses
it, an overhead for each frame, stalls of the sending machine, a fixed cost that varies, and measured times with errors.
Chance is the machine's, not the strategy's: all strategies of one request meet the same luck, but for 2 % of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
CHUNK_TOKENS = 32  # 4 MiB: as the connector cuts its pieces
AHEAD = 2  # chunks that are encoded and wait for the link
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
class Luck:
    """What chance does to one request: the same for all strategies, but for 2 % of their own. n chunks."""

    encode: F64  # [n, arms], seconds of a raw byte
    decode: F64  # [n, arms]
    ratio: F64  # [arms]
    sizes: F64  # [n], raw bytes
    compute_s: F64  # [n]
    stalls_s: F64  # [2, n], of encoder and decoder
    fixed_s: F64  # [2], before and after
    timing_s: F64  # [3], of what is measured

    @classmethod
    def of(cls, arms: Arms, raw_bytes: int, chunks: int, prefill_s: float, rng: np.random.Generator) -> Luck:
        own = np.exp(rng.normal(0, OWN_NOISE, (3, len(arms.ratio))))
        machine = np.exp(rng.normal(0, MACHINE_NOISE, 2))
        lossy = arms.ratio > 1.01
        ratio = arms.ratio * np.exp(rng.normal(0, RATIO_NOISE)) ** lossy * own[2] ** lossy
        sizes = np.full(chunks, raw_bytes / chunks)
        sizes[-1] *= rng.uniform(0.3, 1.0)  # the prompt's end
        noise = np.exp(rng.normal(0, CHUNK_NOISE, (3, chunks)))
        stalls = STALL_S * rng.exponential(1.0, (2, chunks)) * (rng.random((2, chunks)) < STALL_CHANCE)
        fixed = FIXED_S * rng.uniform(0.3, 1.0, 2)
        compute = prefill_s / chunks * np.exp(rng.normal(0, 0.03, chunks))
        encode = np.outer(noise[0] * machine[0], own[0] / arms.encode)
        decode = np.outer(noise[1] * machine[1], own[1] / arms.decode)
        return cls(encode, decode, ratio, sizes, compute, stalls, fixed, np.abs(rng.normal(0, TIMING_S, 3)))


@dataclass(frozen=True)
class Truth:
    """What a transfer took, as a sender would measure it: fp64 `[arms]`, or of one transfer."""

    encode_s: F64
    wire_s: F64
    decode_s: F64
    total_s: F64
    wire_bytes: F64
    prefill_s: float


def transfer(link: Timeline, at_s: float, luck: Luck) -> Truth:
    """One request that starts at `at_s`, under every strategy."""
    at = _Course(link, at_s, luck, np.zeros(len(luck.ratio)))
    for number in range(len(luck.sizes)):
        at.chunk(number, slice(None))
    return at.truth()


def steered(link: Timeline, at_s: float, luck: Luck, arrived: Callable[[float, float, float], None], steer: Callable[[float, float], int]) -> tuple[Truth, dict[int, F64]]:  # fmt: skip
    """One request, and of each strategy that had a part in it the raw bytes, wire bytes, encode and decode seconds `[4]`.
    A chunk is encoded when fewer than `AHEAD` wait for the link; before it is, `arrived(now_s, bytes, busy_s)` tells of
    each that the receiver acknowledged meanwhile and `steer(raw bytes encoded, seconds of compute left)` names its strategy."""
    at = _Course(link, at_s, luck, np.zeros(1))
    shares: dict[int, F64] = {}
    encoded_bytes, compute_left_s, told = 0.0, float(luck.compute_s.sum()), 0
    for number, size in enumerate(luck.sizes):
        now_s = max(float(at.encoded[0]), at.computed + luck.compute_s[number])
        if number >= AHEAD:
            now_s = max(now_s, at.sent[number - AHEAD][0])
        while told < number and at.sent[told][1] + link.latency_s <= now_s:
            begin_s, end_s, frame = at.sent[told]
            arrived(end_s + link.latency_s, frame, end_s - begin_s)
            told += 1
        arm = steer(encoded_bytes, max(compute_left_s - (now_s - at_s), 0.0))
        at.encoded = np.maximum(at.encoded, now_s)
        before = at.taken()
        at.chunk(number, arm)
        mine = shares.setdefault(arm, np.array([0.0, 0.0, luck.timing_s[0], luck.timing_s[2]]))
        mine += np.concatenate([[size], at.taken() - before])
        encoded_bytes += size
    for begin_s, end_s, frame in at.sent[told:]:
        arrived(end_s + link.latency_s, frame, end_s - begin_s)
    return at.truth(), shares


class _Course:
    """A transfer as it goes; arrays `[arms]` or `[1]`."""

    def __init__(self, link: Timeline, at_s: float, luck: Luck, zero: F64) -> None:
        self.link, self.luck, self.at_s = link, luck, at_s
        self.computed = at_s + luck.fixed_s[0]
        self.encoded, self.crossed, self.decoded = (zero + self.computed for _ in range(3))
        self.encode_s, self.wire_s, self.decode_s, self.wire_bytes = (zero.copy() for _ in range(4))
        self.sent: list[tuple[float, float, float]] = []  # begin, end, bytes; of one arm

    def chunk(self, number: int, arm: int | slice) -> None:
        luck, size = self.luck, self.luck.sizes[number]
        self.computed += luck.compute_s[number]
        took = size * luck.encode[number, arm] + luck.stalls_s[0, number]
        self.encoded = np.maximum(self.encoded, self.computed) + took
        self.encode_s += took
        frame = size / luck.ratio[arm] + FRAME_BYTES
        begins = np.maximum(self.encoded, self.crossed)
        self.crossed = self.link.carried_at(begins, frame) + FRAME_S
        self.wire_s += self.crossed - begins
        self.wire_bytes += frame
        took = size * luck.decode[number, arm] + luck.stalls_s[1, number]
        self.decoded = np.maximum(self.decoded, self.crossed + self.link.latency_s) + took
        self.decode_s += took
        if not isinstance(arm, slice):
            self.sent.append((float(begins[0]), float(self.crossed[0]), float(frame)))

    def taken(self) -> F64:
        """Wire bytes, encode and decode seconds so far `[3]`, of one arm."""
        return np.concatenate([self.wire_bytes, self.encode_s, self.decode_s])

    def truth(self) -> Truth:
        total_s = self.decoded - self.at_s + self.link.latency_s + self.luck.fixed_s[1]
        timing = self.luck.timing_s
        return Truth(
            self.encode_s + timing[0], self.wire_s + timing[1], self.decode_s + timing[2], total_s, self.wire_bytes,
            float(self.luck.compute_s.sum()),
        )  # fmt: skip
