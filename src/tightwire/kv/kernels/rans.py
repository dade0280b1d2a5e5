"""The entropy coder's stream, and its readable twin: interleaved range asymmetric numeral systems.

Duda, arXiv 1311.2540; interleaving: Giesen, arXiv 1402.3392. Symbols uint8 `[S, N]`, those of segment s below
`levels[s]`. The stream:

    u32 size of each run, then the runs
    run    = tables words states
    tables = for each level count that occurs in the run, ascending (none where the tables are static):
             first and last symbol that occur, a byte each; 12 bits for the frequency of each from the first to the one
             before the last, in units of 1/4096, little-endian; the last one's is what is missing to 4096
    words  = 16 bits each, little-endian
    states = 32 bits for each lane, little-endian

A run is the symbols of ceil(2^18 / N) neighbouring segments (the last run of fewer); from 16,384 symbols on it has 64
lanes, below 4. Symbol i of a segment belongs to lane i mod lanes. A state is at least 2^16 and below 2^32. The encoder
starts all states at 2^16 and takes segments and symbols backwards, so a decoder goes forwards and reads the words
backwards. 16 lanes at a time ("turn") leave their words together, in the order of the lanes; of a step's turns the
encoder takes the first one first.

Cost: with frequencies f of 4096 and shares p, sum p·log2(p / f) bits a symbol above the order-0 entropy, below 0.1 %
in practice; for each run its table (1.5 bytes a level), 4 bytes a lane and 4 for its size.
"""

from __future__ import annotations

import numpy as np

from tightwire.errors import FrameError
from tightwire.kv.block import U8, U16

PROB_BITS = 12
PROBS = 1 << PROB_BITS
LOW = 1 << 16
LANES, FEW_LANES, TURN = 64, 4, 16
MANY_SYMBOLS = 16384
RUN_SYMBOLS = 1 << 18


def normalise(counts: np.ndarray) -> U16:
    """Frequencies `[256]`, uint16, each below 4096, sum 4096: rounded shares, at least 1 for what occurs; what is
    missing goes to the most frequent symbol, what is too much comes from it, by at most half."""
    total = int(counts.sum())
    shares = (counts.astype(np.int64) * PROBS + total // 2) // max(total, 1)
    freq = np.where((counts > 0) & (shares == 0), 1, shares)
    left = PROBS - int(freq.sum())
    while left:
        most = int(freq.argmax())
        change = left if left > 0 else max(left, -int(freq[most] // 2))
        freq[most] += change
        left -= change
    only = int(freq.argmax())
    if freq[only] == PROBS:  # a table's fields hold 12 bits
        freq[only] -= 1
        freq[1 if only == 0 else 0] = 1
    return freq.astype(np.uint16)


def encode(symbols: U8, levels: U16, static: dict[int, U16] | None = None) -> bytes:
    """The stream; `static`: frequencies `[256]` by level count, instead of each run's own."""
    per_run = max(1, -(-RUN_SYMBOLS // symbols.shape[1]))
    runs = [
        _encode_run(symbols[first : first + per_run], levels[first : first + per_run], static)
        for first in range(0, len(symbols), per_run)
    ]
    return np.array([len(run) for run in runs], "<u4").tobytes() + b"".join(runs)


def decode(data: memoryview, levels: U16, count: int, static: dict[int, U16] | None = None) -> U8:
    """Symbols `[S, count]`; FrameError for what no encoder writes."""
    per_run = max(1, -(-RUN_SYMBOLS // count))
    runs = -(-len(levels) // per_run)
    if len(data) < 4 * runs:
        raise FrameError("payload", "the sizes of the runs are missing")
    ends = 4 * runs + np.cumsum(np.frombuffer(data[: 4 * runs], "<u4").astype(np.int64))
    if int(ends[-1]) != len(data):
        raise FrameError("payload", "the runs do not fill the payload")
    out, start = np.empty((len(levels), count), np.uint8), 4 * runs
    for run, end in enumerate(map(int, ends)):
        part = slice(run * per_run, (run + 1) * per_run)
        _decode_run(np.frombuffer(data[start:end], np.uint8), levels[part], static, out[part])
        start = end
    return out


def _encode_run(symbols: U8, levels: U16, static: dict[int, U16] | None) -> bytes:
    tables, head = static or {}, b""
    if static is None:
        for count in map(int, np.unique(levels)):
            freq = normalise(np.bincount(symbols[levels == count].reshape(-1), minlength=256))
            tables = {**tables, count: freq}
            used = np.flatnonzero(freq)
            head += bytes([int(used[0]), int(used[-1])]) + pack12(freq[used[0] : used[-1]])
    lanes = _lanes(symbols.size)
    states, words = np.full(lanes, LOW, np.uint64), []
    for segment in range(len(symbols) - 1, -1, -1):
        freq = tables[int(levels[segment])].astype(np.uint64)
        start = np.cumsum(freq) - freq
        for first in range((symbols.shape[1] - 1) // lanes * lanes, -1, -lanes):
            step = symbols[segment, first : first + lanes]
            for turn in range(0, len(step), TURN):
                s = step[turn : turn + TURN]
                x, f = states[turn : turn + len(s)], freq[s]
                full = (x >> np.uint64(20)) >= f
                words.append((x[full] & np.uint64(0xFFFF)).astype("<u2"))
                x = np.where(full, x >> np.uint64(16), x)
                states[turn : turn + len(s)] = ((x // f) << np.uint64(PROB_BITS)) + x % f + start[s]
    return head + b"".join(part.tobytes() for part in words) + states.astype("<u4").tobytes()


def _decode_run(data: U8, levels: U16, static: dict[int, U16] | None, out: U8) -> None:
    tables, at = static or {}, 0
    if static is None:
        for count in map(int, np.unique(levels)):
            freq, at = read_frequencies(data, at, count)
            tables = {**tables, count: freq}
    lanes = _lanes(out.size)
    end = len(data) - 4 * lanes
    if end < at or (len(data) - at) % 2:
        raise FrameError("payload", "a run is too short")
    states = np.frombuffer(data[end:].tobytes(), "<u4").astype(np.uint64)
    if (states < LOW).any():
        raise FrameError("payload", "a state is out of range")
    words = np.frombuffer(data[at:end].tobytes(), "<u2").astype(np.uint64)
    left = len(words)
    for segment in range(len(out)):
        freq = tables[int(levels[segment])].astype(np.uint64)
        start = np.cumsum(freq) - freq
        symbol_of = np.repeat(np.arange(256), freq.astype(np.int64))
        for first in range(0, out.shape[1], lanes):
            step = out[segment, first : first + lanes]
            for turn in range((len(step) - 1) // TURN * TURN, -1, -TURN):
                x = states[turn : min(turn + TURN, len(step))]
                slot = x & np.uint64(PROBS - 1)
                s = symbol_of[slot]
                step[turn : turn + len(x)] = s
                x = freq[s] * (x >> np.uint64(PROB_BITS)) + slot - start[s]
                low = x < LOW
                need = int(low.sum())
                if need > left:
                    raise FrameError("payload", "a run ends too early")
                x[low] = x[low] << np.uint64(16) | words[left - need : left]
                left -= need
                states[turn : turn + len(x)] = x
    if left:
        raise FrameError("payload", "a run holds more than its symbols")
    if (states != LOW).any():
        raise FrameError("payload", "a run does not end where it began")


def read_frequencies(data: U8, at: int, levels: int) -> tuple[U16, int]:
    """(frequencies `[256]`, where they end)"""
    wrong = FrameError("payload", "a frequency table is not one that an encoder writes")
    if len(data) - at < 2:
        raise wrong
    first, last = int(data[at]), int(data[at + 1])
    size = ((last - first) * PROB_BITS + 7) // 8
    if not first < last < levels or len(data) - at - 2 < size:
        raise wrong
    bits = np.unpackbits(data[at + 2 : at + 2 + size], bitorder="little")[: (last - first) * PROB_BITS]
    freq = np.zeros(256, np.uint16)
    freq[first:last] = bits.reshape(-1, PROB_BITS) @ (1 << np.arange(PROB_BITS))
    left = PROBS - int(freq.sum())
    if not 0 < left < PROBS:
        raise wrong
    freq[last] = left
    return freq, at + 2 + size


def pack12(freq: U16) -> bytes:
    planes = np.unpackbits(freq.astype("<u2")[:, None].view(np.uint8), axis=1, bitorder="little")[:, :PROB_BITS]
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def _lanes(symbols: int) -> int:
    return LANES if symbols >= MANY_SYMBOLS else FEW_LANES
