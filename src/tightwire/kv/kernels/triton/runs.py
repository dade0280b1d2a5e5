"""How a tensor's symbols are cut into runs of the entropy coder, and the tables of its frequencies (`kernels.rans`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import U8, U16
from tightwire.kv.kernels import native, rans


@dataclass(frozen=True, eq=False)
class Runs:
    """Segments of `count` symbols with `levels` `[S]`; static: frequencies by level count, or none, and each run has
    its own for every level count in it. ValueError for frequencies that no coder can use."""

    levels: U16
    count: int
    static: native.Tables
    device: torch.device

    def __post_init__(self) -> None:
        known, frequencies = self.static.levels, self.static.frequencies
        every = (frequencies > 0) == (np.arange(256) < known[:, None])
        if not every.all() or (frequencies.sum(axis=1) != rans.PROBS).any():
            raise ValueError("static frequencies must be above 0 for every symbol and add up to 4096")
        if self.is_static and not np.isin(self.levels, known).all():
            raise ValueError("there is no static table for a level count that occurs")

    @property
    def is_static(self) -> bool:
        return self.static.levels.size > 0

    @property
    def segments(self) -> int:
        return len(self.levels)

    @property
    def per_run(self) -> int:
        """Segments of a run."""
        return max(1, -(-rans.RUN_SYMBOLS // self.count))

    @property
    def runs(self) -> int:
        return -(-self.segments // self.per_run)

    def lanes(self, run: int) -> int:
        symbols = min(self.per_run, self.segments - run * self.per_run) * self.count
        return rans.LANES if symbols >= rans.MANY_SYMBOLS else rans.FEW_LANES

    def launches(self) -> list[tuple[int, int, int]]:
        """(first run, how many, their lanes): only the last run can be one of few lanes."""
        last = self.runs - 1
        parts = [(0, last, rans.LANES), (last, 1, self.lanes(last))]
        return [part for part in parts if part[1]]

    @cached_property
    def _table_of(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """((run, level count) of each table, ascending; which of them each segment takes). Static: one run's, 0."""
        run = 0 if self.is_static else np.arange(self.segments) // self.per_run
        found, slots = np.unique(run * 1024 + self.levels.astype(np.int64), return_inverse=True)
        return [divmod(int(each), 1024) for each in found], slots

    @property
    def keys(self) -> list[tuple[int, int]]:
        return self._table_of[0]

    @cached_property
    def slots(self) -> torch.Tensor:
        """On the device: which table each segment takes, int32 `[S]`."""
        return self.there(self._table_of[1].astype(np.int32))

    def there(self, array: np.ndarray) -> torch.Tensor:
        """A copy on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def encoder(self, counts: np.ndarray | None) -> tuple[torch.Tensor, list[bytes]]:
        """(tables for the encoder, on the device; the head of each run). counts: `[slots, 256]`; none if static."""
        heads = [b""] * self.runs
        if counts is None:
            frequencies = self._static()
        else:
            frequencies = [rans.normalise(each) for each in counts]
            for (run, _), freq in zip(self.keys, frequencies, strict=True):
                used = np.flatnonzero(freq)
                heads[run] += bytes([int(used[0]), int(used[-1])]) + rans.pack12(freq[used[0] : used[-1]])
        freq = np.stack(frequencies).astype(np.int32)
        return self.there(freq | (np.cumsum(freq, axis=1, dtype=np.int32) - freq) << 16), heads

    def decoder(self, data: U8) -> tuple[torch.Tensor, torch.Tensor]:
        """(where the words of each run begin and end, int64 `[runs, 2]`; tables for the decoder), on the device.
        data: the stream. FrameError for heads that no encoder writes."""
        if len(data) < 4 * self.runs:
            raise FrameError("payload", "the sizes of the runs are missing")
        ends = 4 * self.runs + np.cumsum(np.frombuffer(data[: 4 * self.runs].tobytes(), "<u4").astype(np.int64))
        if int(ends[-1]) != len(data):
            raise FrameError("payload", "the runs do not fill the payload")
        frequencies = self._static() if self.is_static else []
        spans, at = np.empty((self.runs, 2), np.int64), 4 * self.runs
        for run, end in enumerate(map(int, ends)):
            if not self.is_static:
                first = run * self.per_run
                for levels in np.unique(self.levels[first : first + self.per_run]):
                    freq, at = rans.read_frequencies(data[:end], at, int(levels))
                    frequencies.append(freq)
            words_end = end - 4 * self.lanes(run)
            if words_end < at or (words_end - at) % 2:
                raise FrameError("payload", "a run is too short")
            if (np.frombuffer(data[words_end:end].tobytes(), "<u4") < rans.LOW).any():
                raise FrameError("payload", "a state is out of range")
            spans[run], at = (at, words_end), end
        return self.there(spans), self.there(np.stack([_slots(freq) for freq in frequencies]))

    def _static(self) -> list[U16]:
        known = {int(each): row for each, row in zip(self.static.levels, self.static.frequencies, strict=True)}
        return [known[levels] for _, levels in self.keys]


def _slots(frequencies: U16) -> np.ndarray:
    """int32 `[4096]`, for each slot: frequency << 20 | distance from its symbol's first slot << 8 | symbol."""
    freq = frequencies.astype(np.uint32)
    symbol = np.repeat(np.arange(256, dtype=np.uint32), frequencies)
    distance = np.arange(rans.PROBS, dtype=np.uint32) - (np.cumsum(freq, dtype=np.uint32) - freq)[symbol]
    return np.asarray(freq[symbol] << 20 | distance << 8 | symbol).view(np.int32)
