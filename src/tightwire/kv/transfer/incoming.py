"""One incoming transfer: what it covers so far, what waits for its taker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tightwire.kv.block import KVBlock


@dataclass(frozen=True)
class Received:
    """`missing`: token ranges (start, stop) of which at least one layer did not arrive; they must be recomputed."""

    transfer_id: str
    blocks: list[KVBlock]
    tokens: int
    missing: list[tuple[int, int]]
    error: str | None
    wire_bytes: int
    decode_s: float

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(eq=False)
class Transfer:
    """One incoming transfer, or the wait for one (`stream` 0: it did not begin yet)."""

    name: str
    touched_s: float
    stream: int = 0
    peer: bytes = b""
    covered: npt.NDArray[np.bool_] | None = None  # [layers, tokens]
    blocks: deque[KVBlock] = field(default_factory=deque)
    buffered_bytes: int = 0
    arrived: set[int] = field(default_factory=set)  # frame numbers
    taken: set[int] = field(default_factory=set)
    announced: int | None = None
    wire_bytes: int = 0
    decode_s: float = 0.0
    error: str | None = None
    done: bool = False
    awaited: bool = False

    def missing(self) -> list[tuple[int, int]]:
        if self.covered is None:
            return []
        gaps = np.flatnonzero(np.diff(np.concatenate(([0], (~self.covered.all(axis=0)).astype(np.int8), [0]))))
        return [(int(start), int(stop)) for start, stop in gaps.reshape(-1, 2)]


@dataclass(frozen=True, eq=False)
class Job:
    """A frame to decode."""

    transfer: Transfer
    index: int
    data: memoryview
