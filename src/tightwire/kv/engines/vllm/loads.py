"""Loads in the background: what a source brings is written to the request's blocks, and how it ended is announced.

A load writes only to the blocks that vLLM reserved for it, and vLLM keeps them, even if the request is aborted, until
the load is announced. What did not arrive is reported, so that it is computed instead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm.blocks import Blocks
from tightwire.kv.engines.vllm.counters import Counters
from tightwire.kv.engines.vllm.plan import Move

logger = logging.getLogger(f"vllm.{__name__}")
Source = Callable[[Callable[[KVBlock], None]], str | None]


class Loads:
    """Thread-safe."""

    def __init__(self, blocks: Blocks, counters: Counters) -> None:
        self._blocks, self._counters = blocks, counters
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._underway = 0
        self._finished: set[str] = set()
        self._bad_blocks: set[int] = set()

    def run(self, move: Move, source: Source) -> None:
        """Load `move` from `source`, which gives blocks to its callback, in this thread, and says what went wrong."""
        start_s = time.monotonic()
        with self._lock:
            self._underway += 1
        written = np.zeros((self._blocks.layers, move.stop - move.start), bool)
        error: str | None = None
        try:
            error = source(lambda block: self._blocks.write(move, block, written))
        except Exception as failure:  # a thread must never leave its request waiting for ever
            error = f"{type(failure).__name__}: {failure}"
        whole = written.all(axis=0)
        good = move.stop if whole.all() else move.start + int(whole.argmin())
        if error is None and good < move.stop:
            error = "not everything arrived"
        if error is not None:
            what = "nothing" if good == move.stop else f"tokens {good}-{move.stop}"  # what was written was checked
            logger.warning(
                "tightwire: load %s: %s; %s must be recomputed", move.transfer_id or move.request_id, error, what
            )
        with self._lock:
            if good < move.stop:
                self._bad_blocks.update(self._blocks.ids_from(move, good))
            self._finished.add(move.request_id)
            self._underway -= 1
            self._ended.notify_all()
        self._counters.add(
            tokens_loaded=good - move.start, load_seconds=time.monotonic() - start_s,
            **{"loads" if good == move.stop else "loads_failed": 1},
        )  # fmt: skip

    def take_finished(self, wait_s: float = 0.0) -> set[str]:
        """Those that ended since the last call; if none did and some are underway, the next one within `wait_s`."""
        with self._lock:
            if wait_s > 0 and not self._finished and self._underway:
                self._ended.wait(wait_s)
            taken, self._finished = self._finished, set()
        return taken

    def take_bad_blocks(self) -> set[int]:
        with self._lock:
            taken, self._bad_blocks = self._bad_blocks, set()
        return taken
