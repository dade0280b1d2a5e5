"""The entropy coder of `kernels.rans`, the same stream: a program codes a run, a vector of lanes takes a step at a time.

In a step the words of all lanes stand side by side in the order of the lanes, so a lane's place is the number of lanes
before it that have a word. Frequencies are counted on the device; `runs` makes tables of them on the host.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from tightwire.errors import FrameError
from tightwire.kv.block import U8
from tightwire.kv.kernels import rans
from tightwire.kv.kernels.triton.bf16 import EXACT
from tightwire.kv.kernels.triton.runs import Runs

LOW, PROB_BITS, PROBS = tl.constexpr(rans.LOW), tl.constexpr(rans.PROB_BITS), tl.constexpr(rans.PROBS)
OPTIONS = {"num_warps": 1, **EXACT}  # so no thread waits for those of another warp
TILE = 4096  # symbols that a program counts
_WRONG = ("a run ends too early", "a run holds more than its symbols", "a run does not end where it began")


@triton.jit
def count_kernel(symbols, counts, slots, count, tiles, TILE: tl.constexpr):
    """symbols uint8 [S, N] → how often each occurs, added to counts int32 [slots, 256]; slots int32 [S]."""
    program = tl.program_id(0)
    segment = (program // tiles).to(tl.int64)
    at = program % tiles * TILE + tl.arange(0, TILE)
    found = tl.load(symbols + segment * count + at, mask=at < count, other=0).to(tl.int32)
    often = tl.histogram(found, 256, mask=at < count)
    tl.atomic_add(counts + tl.load(slots + segment) * 256 + tl.arange(0, 256), often, mask=often > 0)


@triton.jit
def encode_kernel(
    symbols, words, sizes, states, tables, slots, first_run, segments, per_run, count, LANES: tl.constexpr
):  # fmt: skip
    """symbols uint8 [S, N] → words int16 (room for N for each segment), sizes int32 [runs]: words of each run, states
    int32 [runs, 64]. tables int32 [slots, 256]: frequency and, 16 bits up, the sum of those before it."""
    run = first_run + tl.program_id(0)
    first = run.to(tl.int64) * per_run
    end = tl.minimum(first + per_run, segments)
    lane = tl.arange(0, LANES)
    steps = tl.cdiv(count, LANES)
    out = words + first * count
    state = tl.full([LANES], LOW, tl.uint32)
    done = 0
    for back in range(end - first):
        segment = end - 1 - back
        source = symbols + segment * count
        table = tables + tl.load(slots + segment) * 256
        for step in range(steps):
            at = (steps - 1 - step) * LANES + lane
            there = at < count
            symbol = tl.load(source + at, mask=there, other=0).to(tl.int32)
            entry = tl.load(table + symbol, mask=there, other=1).to(tl.uint32)
            freq = entry & 0xFFFF
            full = there & ((state >> (32 - PROB_BITS)) >= freq)
            flags = full.to(tl.int32)
            tl.store(out + done + tl.cumsum(flags, 0) - flags, (state & 0xFFFF).to(tl.uint16), mask=full)
            done += tl.sum(flags, 0)
            state = tl.where(full, state >> 16, state)
            quotient = state // freq
            following = (quotient << PROB_BITS) + (state - quotient * freq) + (entry >> 16)
            state = tl.where(there, following, state)
    tl.store(sizes + run, done)
    tl.store(states + run * 64 + lane, state.to(tl.int32, bitcast=True))


@triton.jit
def decode_kernel(
    data, spans, symbols, wrong, tables, slots, first_run, segments, per_run, count, LANES: tl.constexpr
):  # fmt: skip
    """data uint8: the stream; spans int64 [runs, 2]: where the words of a run begin and end, its states follow →
    symbols uint8 [S, N], wrong int32 [runs]: 0, or 1 + the index in `_WRONG`. tables int32 [slots, 4096]: for each slot
    frequency << 20 | slot's distance from its symbol's first << 8 | symbol."""
    run = first_run + tl.program_id(0)
    first = run.to(tl.int64) * per_run
    end = tl.minimum(first + per_run, segments)
    lane = tl.arange(0, LANES)
    begin, left = tl.load(spans + run * 2), tl.load(spans + run * 2 + 1)
    at_states = data + left + lane * 4  # bytes, as words and states may stand anywhere
    state = _word(at_states, lane >= 0) | (_word(at_states + 2, lane >= 0) << 16)
    for segment in range(first, end):
        target = symbols + segment * count
        table = tables + tl.load(slots + segment) * PROBS
        for step in range(tl.cdiv(count, LANES)):
            at = step * LANES + lane
            there = at < count
            entry = tl.load(table + (state & (PROBS - 1)).to(tl.int32)).to(tl.uint32, bitcast=True)
            tl.store(target + at, (entry & 0xFF).to(tl.uint8), mask=there)
            following = (entry >> 20) * (state >> PROB_BITS) + ((entry >> 8) & (PROBS - 1))
            low = there & (following < LOW)
            flags = low.to(tl.int32)
            left -= 2 * tl.sum(flags, 0)
            place = left + 2 * (tl.cumsum(flags, 0) - flags)
            word = _word(data + place, low & (place >= begin))
            state = tl.where(there, tl.where(low, (following << 16) | word, following), state)
    others = tl.max((state != LOW).to(tl.int32), 0)
    found = tl.where(left < begin, 1, tl.where(left > begin, 2, 3 * others))
    tl.store(wrong + run, found)


@triton.jit
def _word(at, there):
    """16 bits, little-endian, from any address; uint32."""
    return tl.load(at, mask=there, other=0).to(tl.uint32) | (tl.load(at + 1, mask=there, other=0).to(tl.uint32) << 8)


def encode(symbols: torch.Tensor, runs: Runs) -> torch.Tensor:
    """symbols uint8 `[S, N]`, each below its segment's levels → the stream, uint8, on the device. Waits for the device."""
    tables, heads = runs.encoder(None if runs.is_static else count(symbols, runs))
    words = torch.empty(symbols.numel(), dtype=torch.int16, device=symbols.device)
    sizes = torch.empty(runs.runs, dtype=torch.int32, device=symbols.device)
    states = torch.empty(runs.runs, rans.LANES, dtype=torch.int32, device=symbols.device)
    for first, many, lanes in runs.launches():
        encode_kernel[(many,)](
            symbols, words, sizes, states, tables, runs.slots, first, runs.segments, runs.per_run, runs.count, lanes, **OPTIONS
        )
    return _joined(runs, heads, words, sizes.tolist(), states)


def count(symbols: torch.Tensor, runs: Runs) -> np.ndarray:
    """How often every symbol occurs for each of the runs' tables, int32 `[slots, 256]`. Waits for the device."""
    counts = torch.zeros(len(runs.keys), 256, dtype=torch.int32, device=symbols.device)
    tiles = -(-runs.count // TILE)
    count_kernel[(runs.segments * tiles,)](symbols, counts, runs.slots, runs.count, tiles, TILE, **EXACT)
    return counts.cpu().numpy()


def decode(data: U8, stream: torch.Tensor, runs: Runs) -> torch.Tensor:
    """The inverse of `encode`: uint8 `[S, N]`. `data`: the stream on the host, where its heads are read; `stream`: the
    same on the device. FrameError for what no encoder writes. Waits for the device."""
    spans, tables = runs.decoder(data)
    symbols = torch.empty(runs.segments, runs.count, dtype=torch.uint8, device=stream.device)
    wrong = torch.empty(runs.runs, dtype=torch.int32, device=stream.device)
    for first, many, lanes in runs.launches():
        decode_kernel[(many,)](
            stream, spans, symbols, wrong, tables, runs.slots, first, runs.segments, runs.per_run, runs.count, lanes, **OPTIONS
        )
    for each in wrong.tolist():
        if each:
            raise FrameError("payload", _WRONG[each - 1])
    return symbols


def _joined(
    runs: Runs, heads: list[bytes], words: torch.Tensor, sizes: list[int], states: torch.Tensor
) -> torch.Tensor:
    """The sizes of the runs, then of each its head, words and states."""
    run_bytes = [len(head) + 2 * sizes[run] + 4 * runs.lanes(run) for run, head in enumerate(heads)]
    known = np.frombuffer(np.array(run_bytes, "<u4").tobytes() + b"".join(heads), np.uint8)
    there, at = runs.there(known), 4 * runs.runs
    parts = [there[:at]]
    for run, head in enumerate(heads):
        start = run * runs.per_run * runs.count
        parts += [there[at : at + len(head)], words[start : start + sizes[run]].view(torch.uint8)]
        parts.append(states[run, : runs.lanes(run)].view(torch.uint8))
        at += len(head)
    return torch.cat(parts)
